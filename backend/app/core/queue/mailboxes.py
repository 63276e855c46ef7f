"""`Queue`: the operations, each one script call per shard."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.event import Event
from app.core.queue.batcher import Batcher
from app.core.queue.dead_letters import DeadLetters
from app.core.queue.erasure import Erased, Erasure
from app.core.queue.events import (
    REASON_CHARACTERS,
    Claim,
    DeadLetter,
    LeaseLost,
    PutResult,
    QueueAside,
    QueueFull,
    QueueStats,
    QueueUnavailable,
    decode_entry,
    encode_frame,
)
from app.core.queue.metrics import QUEUE, QueueMetrics
from app.core.queue.policy import QueuePolicy
from app.core.queue.shards import ServerClock, Shards, all_of, in_chunks
from app.core.queue.waker import BLOCK_SECONDS, Waker
from app.core.redis.door import Door
from app.core.redis.script import Script

logger = logging.getLogger(__name__)

PEEK_EVENTS = 20
CLAIM_LIMIT = 200
"""Conversations in one claim call: bounds the time the server spends in the script."""
EXTEND_LIMIT = 1000
BATCH_WEIGHT = 1000
"""A call carries at most this many events or 2 MiB, whichever is less."""
WEIGHT_BYTES = 2048
AUDIT_MAILBOXES = 1000
"""In one call of the audit: about 3 ms of the server's time."""
AUDIT_PAGES = 200
MAX_LEASE_SECONDS = 300.0
"""The longest that LEASE_SECONDS may be: no replica's lease ends later than this from now."""
CLOCK_STEP_SECONDS = 1.0
"""The server's clock went back by more than this: more than a time server corrects in small steps."""
PROBE_KEPT_MS = 60_000
FULL_RETRY_SECONDS = 5.0
WAKE_MAILBOXES = 1000
"""Looked at in one call of `wake`."""
_NOTHING_HELD: Mapping[str, int] = MappingProxyType({})

PUT, EXTEND, REFRESH, LOOK, STATS, AUDIT, LIFE, WAKE = (
    Script(f"queue_{name}") for name in ("put", "extend", "refresh", "look", "stats", "audit", "life", "wake")
)
CLAIM, SETTLE = (Script(f"queue_{name}", prelude="queue_dead") for name in ("claim", "settle"))

CLOCK_STEPS = Counter("chorus_redis_clock_steps_total", "Times that the Redis server's clock was seen to go back")


class Queue:
    """See the package. One instance a process; every method may raise `QueueUnavailable` unless it says otherwise.

    `door` runs the scripts; `blocking` waits for wake tokens, one connection a shard; `ingest` (default: `door`) is for
    `put` alone, which then waits behind nothing else. `shards`: 1 on a single server, more on a cluster; every replica
    must use the same number, and changing it needs an empty queue.
    Times are the server's; `clock` is only asked for this process' monotonic time.
    """

    def __init__(
        self,
        door: Door,
        blocking: Door,
        *,
        namespace: str,
        policy: QueuePolicy,
        ingest: Door | None = None,
        shards: int = 1,
        metrics: QueueMetrics = QUEUE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`metrics`: what a second queue of the process counts in."""
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self.lease_seconds = policy.lease_seconds
        # Our clock may run a little slower than the server's, and a side effect takes time after its check.
        self._held_seconds = policy.lease_seconds - min(1.0, policy.lease_seconds / 4)
        self._audit_rules = _ms(policy.lease_seconds), _ms(MAX_LEASE_SECONDS), _ms(policy.debounce_cap_seconds)
        self._most = math.ceil(policy.max_pending / shards), math.ceil(policy.max_bytes / shards)
        most_events, most_bytes = self._most
        self._put_header = (
            _ms(policy.debounce_seconds), _ms(policy.debounce_cap_seconds), policy.dedupe_seconds,
            most_events, policy.max_per_mailbox, _ms(BLOCK_SECONDS),
            most_bytes, policy.max_mailbox_bytes, " ".join(policy.one_share),
            _ms(policy.gather_seconds), " ".join(policy.gathered),
        )  # fmt: skip
        dead_limits = policy.max_dead, math.ceil(policy.max_dead_bytes / shards)
        self._settle_header = policy.max_attempts, _ms(BLOCK_SECONDS), *dead_limits
        self._claim_header = _ms(policy.lease_seconds), PEEK_EVENTS, *self._settle_header
        self._shards = Shards(door, namespace=namespace, count=shards, clock=clock)
        self._ingest = Shards(ingest or door, namespace=namespace, count=shards, urgent=False, clock=clock)
        self.dead_letters = DeadLetters(self._shards, limits=dead_limits)
        self._refused_at = -math.inf
        self._puts, self._verdicts, self._looks = (
            [Batcher(partial(send, shard), max_weight=BATCH_WEIGHT, clock=clock) for shard in range(shards)]
            for send in (self._send_puts, self._send_verdicts, self._send_looks)
        )
        self._waker = Waker(door, blocking, [f"{prefix}wake" for prefix in self._shards.prefixes])
        self._look_at = [math.inf] * shards
        self._clocks = [ServerClock() for _ in range(shards)]
        self._turn = 0
        self._returning: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Stop waiting for work, and finish giving back the claims of callers that have left. Idempotent; the clients
        stay open."""
        await self._waker.aclose()
        if self._returning:
            await asyncio.wait(self._returning)

    # --- putting ---

    async def put(self, events: Sequence[Event], *, unless_aside: bool = False) -> PutResult:
        """Store every event but the `diverted` ones, or raise `QueueFull` or `QueueUnavailable` within the policy's
        `put_timeout_seconds`. `unless_aside`: raise `QueueAside` while `mark_aside` holds.

        After an error some shards may hold their part: put the same events again, the ids make it safe. What is not
        stored by then is not stored later, when a server that was frozen finds the request. Cancelled, it may or may
        not have stored them, or still do it within `put_timeout_seconds`.
        """
        parts: dict[int, list[Any]] = {}
        sizes: dict[int, int] = {}
        for event in events:
            shard, frame = self._shards.of(event.mailbox), encode_frame(event)
            parts.setdefault(shard, []).extend((event.id, event.mailbox, frame))
            sizes[shard] = sizes.get(shard, 0) + len(frame)
        futures = [
            self._puts[shard].submit(
                (len(part) // 3, int(unless_aside), *part),
                weight=max(len(part) // 3, sizes[shard] // WEIGHT_BYTES),
                timeout_seconds=self._policy.put_timeout_seconds,
            )
            for shard, part in parts.items()
        ]
        try:
            return self._put_result(events, dict(zip(parts, await all_of(futures), strict=True)))
        except QueueAside:
            raise
        except (QueueFull, QueueUnavailable) as exc:
            self._metrics.events.labels("refused" if isinstance(exc, QueueFull) else "unavailable").inc(len(events))
            raise

    def _put_result(self, events: Sequence[Event], answers: Mapping[int, int | list[int]]) -> PutResult:
        if -2 in answers.values():
            raise QueueAside("queue", "events are put aside elsewhere")
        if -1 in answers.values():
            self._refused_at = self._clock.monotonic()
            raise QueueFull("queue", "the queue is full", retry_after=FULL_RETRY_SECONDS)
        accepted, diverted = 0, list[Event]()
        for shard, answer in answers.items():
            if isinstance(answer, int):
                accepted += answer
            else:
                accepted += answer[0]
                part = [event for event in events if self._shards.of(event.mailbox) == shard]
                diverted += [part[at] for at in answer[1:]]
        duplicates = len(events) - accepted - len(diverted)
        self._metrics.accepted.inc(accepted)
        if duplicates:
            self._metrics.duplicate.inc(duplicates)
        if diverted:
            self._metrics.diverted.inc(len(diverted))
        return PutResult(accepted, duplicates, tuple(diverted))

    async def mark_aside(self, seconds: float) -> None:
        """Tell those who put with `unless_aside` that events are put aside elsewhere, for so long."""
        await self._shards.ask_each("SET", "aside", b"", "PX", _ms(seconds))

    async def life(self) -> str:
        """A text that is another one after any shard lost its data, or another server took a shard over, which may lack
        the last writes."""
        return ",".join(life.decode() for life in await self._shards.call_each(LIFE))

    # --- working ---

    @staticmethod
    def group_of(mailbox: str) -> str:
        """Whose turn a mailbox waits for: its name up to the last ":", `""` without one. The scripts do the same."""
        return mailbox.rpartition(":")[0]

    async def claim(
        self, limit: int, *, held: Mapping[str, int] = _NOTHING_HELD, per_group: int | None = None
    ) -> list[Claim]:
        """At most `limit` conversations that are due, the groups in turn, the longest due of each first; `[]` when
        there are none.

        `per_group` (default: no bound) is the most of one group that this worker wants to hold, those it holds already
        (`held`, by group) included. A group at that bound is nothing to `wait` for: claim again when one is released.
        Leases that ran out are reaped first. Cancelled, it gives back what it claimed, attempt not counted.
        """
        task = asyncio.create_task(self._claim(limit, held, per_group))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            returning = asyncio.create_task(self._return(task))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            raise

    async def _claim(self, limit: int, held: Mapping[str, int], per_group: int | None) -> list[Claim]:
        claims: list[Claim] = []
        counts = Counts(held)
        failure: QueueUnavailable | None = None
        shards = len(self._shards)
        self._turn += 1
        for shard in ((self._turn + step) % shards for step in range(shards)):
            room = min(limit - len(claims), CLAIM_LIMIT)
            if room <= 0:
                break
            try:
                fresh = await self._claim_shard(shard, room, counts, per_group)
            except QueueUnavailable as exc:
                failure = exc
                continue
            claims += fresh
            counts.update(self.group_of(claim.mailbox) for claim in fresh)
        if failure and not claims:
            raise failure
        if failure:
            logger.warning("a shard of the queue is unavailable", extra={"reason": str(failure)})
        return claims

    async def _claim_shard(self, shard: int, limit: int, held: Mapping[str, int], per_group: int | None) -> list[Claim]:
        most, fewer = limit + 1, []  # never reached
        if per_group is not None:
            most = per_group
            for group, count in held.items():
                if most - count <= limit:
                    fewer += [group, max(0, most - count)]
        turn = self._turn // len(self._shards)  # as often as this shard came first, so that both go round in full
        asked = self._clock.monotonic()
        latest_ms = self._clocks[shard].at(asked + self._shards.patience_seconds)
        now_ms, wait_ms, reaped, parked, *rows = await self._shards.call(
            CLAIM, shard, (limit, *self._claim_header, latest_ms, turn, most, *fewer)
        )
        answered = self._clock.monotonic()
        stepped_seconds = self._clocks[shard].learn(now_ms, asked=asked, answered=answered)
        self._look_at[shard] = answered + wait_ms / 1000 if wait_ms >= 0 else math.inf
        if stepped_seconds > CLOCK_STEP_SECONDS:
            await self._clock_went_back(shard, stepped_seconds)
        if reaped:
            self._metrics.reclaimed.inc(reaped)
            self._metrics.settled.labels("park").inc(len(parked))
            letters = [f"{shard}-{letter.decode()}" for letter in parked]
            logger.warning("leases ran out", extra={"reclaimed": reaped, "dead_letters": letters, "shard": shard})
        self._metrics.claims.inc(len(rows))
        held_until = asked + self._held_seconds
        claims = []
        for name, token, attempts, entries in rows:
            mailbox = name.decode()
            events = tuple(decode_entry(mailbox, entry, latest=now_ms / 1000) for entry in entries)
            claims.append(Claim(mailbox, token, events, attempts, held_until, self._clock))
        return claims

    async def _clock_went_back(self, shard: int, seconds: float) -> None:
        """What was put off by the clock's time before would wait for it to come again."""
        CLOCK_STEPS.inc()
        logger.warning("the Redis server's clock went back", extra={"seconds": round(seconds, 1), "shard": shard})
        try:
            await self._audit(shard)
        except QueueUnavailable as exc:
            logger.warning("audit failed", extra={"reason": str(exc)})
        self._look_at[shard] = self._clock.monotonic()

    async def _return(self, claiming: asyncio.Task[list[Claim]]) -> None:
        try:
            claims = await claiming
            await asyncio.gather(*(self.retry_later(c, 0, counted=False, reason="its caller has left") for c in claims))
        except QueueUnavailable as exc:
            logger.warning("claims could not be given back; their leases will run out", extra={"reason": str(exc)})

    async def wait(self, timeout_seconds: float = BLOCK_SECONDS) -> None:
        """Until there may be work: a wake-up, the next due time `claim` saw, or `timeout_seconds` (at most 1 s, as the
        wake-ups assume). May return early. Does not raise `QueueUnavailable`: the next `claim` will."""
        due = min(self._look_at) - self._clock.monotonic()
        self._look_at = [math.inf] * len(self._look_at)
        await self._waker.wait(max(0.001, min(timeout_seconds, BLOCK_SECONDS, due)))

    async def refresh(self, claim: Claim) -> Claim:
        """`claim` itself, with the events that arrived since; a mailbox whose head has failed before shows only that
        head. Callers of one turn of the loop share a call. Raises `LeaseLost`."""
        limit = 1 if claim.attempts else PEEK_EVENTS
        args = (claim.mailbox, claim.token, len(claim.events), limit)
        looks = self._looks[self._shards.of(claim.mailbox)]
        entries = await looks.submit(args, weight=PEEK_EVENTS, timeout_seconds=self._shards.patience_seconds)
        if entries is None:
            raise LeaseLost("the conversation has another holder")
        claim.events += tuple(decode_entry(claim.mailbox, entry) for entry in entries)
        return claim

    async def look(self, mailbox: str, *, limit: int) -> list[Event]:
        """The newest events of a mailbox that are not finished, at most `limit`, oldest first: also those that another
        worker is handling. Changes nothing."""
        entries: list[bytes] = await self._shards.call(LOOK, self._shards.of(mailbox), (mailbox, limit))
        return [decode_entry(mailbox, entry) for entry in entries]

    async def extend(self, claims: Sequence[Claim]) -> list[Claim]:
        """Renew the leases, one call per shard, and set `held_until` of the kept ones. Returns the LOST ones.

        Claims that `done`, `park` or `retry_later` ended are neither. On `QueueUnavailable` some may have been kept.
        """
        parts = self._shards.split((c for c in claims if c.held_until > -math.inf), lambda claim: claim.mailbox)
        chunks = [(shard, chunk) for shard, part in parts.items() for chunk in in_chunks(part, EXTEND_LIMIT)]
        return [claim for lost in await all_of(self._extend(*chunk) for chunk in chunks) for claim in lost]

    async def _extend(self, shard: int, claims: Sequence[Claim]) -> list[Claim]:
        held_until = self._clock.monotonic() + self._held_seconds
        pairs = [arg for claim in claims for arg in (claim.mailbox, claim.token)]
        kept = await self._shards.call(EXTEND, shard, (_ms(self.lease_seconds), *pairs))
        lost: list[Claim] = []
        for claim, is_kept in zip(claims, kept, strict=True):
            if claim.held_until == -math.inf:  # ended while the call was under way
                continue
            if is_kept:
                claim.held_until = held_until
            else:
                lost.append(claim)
        return lost

    async def done(self, claim: Claim, count: int | None = None) -> bool:
        """End the claim; its first `count` events (default: all) are finished. `False`: the token was no longer ours,
        nothing was removed. Once called it is carried out, also if the caller is cancelled meanwhile."""
        return await self._settle(claim, "done", _checked(claim, count)) != 0

    async def park(self, claim: Claim, count: int, reason: str) -> bool:
        """End the claim; its first `count` events are dead letters, the conversation goes on. `False` as for `done`."""
        return await self._settle(claim, "park", _checked(claim, count), reason) != 0

    async def retry_later(self, claim: Claim, delay_seconds: float, *, counted: bool, reason: str) -> bool:
        """End the claim; the same events are due again after `delay_seconds`, whatever arrives meanwhile.

        `counted`: it was the head's fault. `True`: the head had failed often enough and is a dead letter instead, the
        rest is due now. Nothing happens if the token is no longer ours.
        """
        return await self._settle(claim, "retry" if counted else "defer", _ms(delay_seconds), reason) == 2

    async def wake(self, groups: Sequence[str] | None = None, *, most: int | None = None) -> int:
        """Make due now what these groups put off until later (`None`: what every group did), because what it waited for
        is back; at most `most` mailboxes. Returns how many. Left alone are those whose head has failed for reasons of
        its own, and bursts that are being debounced; what is held by a worker may be put off after this call."""
        woken, limit = 0, math.inf if most is None else most
        for shard in range(len(self._shards)):
            waiting = await self._shards.ask(shard, "ZRANGE", "groups", 0, -1) if groups is None else groups
            for group in waiting:
                woken += await self._wake(shard, group, limit - woken)
        return woken

    async def _wake(self, shard: int, group: str | bytes, most: float) -> int:
        woken = passed_over = 0
        while woken < most:
            limit = int(min(WAKE_MAILBOXES, most - woken))
            due, left_alone = await self._shards.call(WAKE, shard, (group, passed_over, limit))
            woken, passed_over = woken + int(due), passed_over + int(left_alone)
            if due + left_alone < limit:
                break
        return woken

    async def _settle(self, claim: Claim, verb: str, number: int, reason: str = "") -> int:
        claim.held_until = -math.inf
        args = (claim.mailbox, claim.token, verb, number, reason[:REASON_CHARACTERS])
        outcome: int = await self._verdicts[self._shards.of(claim.mailbox)].submit(
            args, weight=1, timeout_seconds=self._shards.patience_seconds
        )
        self._metrics.settled.labels(("lost", verb, "park")[outcome]).inc()
        return outcome

    async def erase(
        self,
        mailboxes: Sequence[str],
        ids: Sequence[str],
        is_about: Callable[[DeadLetter], bool],
        *,
        separator: str | None = None,
    ) -> Erased:
        """Forget these mailboxes whole, held ones too, the marks of these ids of events, and the dead letters that
        `is_about` names. Reads all dead letters. `separator`: ids of events may have it, and more, behind them; then
        the names of all keys are read. To repeat it does no harm; after an error a part may be gone."""
        erasure = Erasure(self._shards, self.dead_letters)
        await erasure.mailboxes(mailboxes)
        await erasure.ids(ids)
        if separator is not None:
            await erasure.ids_with(separator, ids)
        await erasure.letters(is_about)
        return erasure.erased

    # --- watching ---

    async def probe(self) -> None:
        """Would it take events? Raises `QueueUnavailable` where a put would be refused: a full server (OOM), one that
        cannot write its file (MISCONF), a replica (READONLY)."""
        await self._shards.ask_each("SET", "probe", b"", "PX", PROBE_KEPT_MS)

    async def stats(self) -> QueueStats:
        """Figures of the whole queue; also sets the gauges."""
        rows = await self._shards.call_each(STATS)
        pending, ready, leased, oldest_ms, dead, dead_bytes, lost, size = zip(*rows, strict=True)
        stats = QueueStats(
            pending=sum(pending), bytes=sum(size), ready=sum(ready), leased=sum(leased),
            oldest_seconds=max(oldest_ms) / 1000, dead=sum(dead), dead_bytes=sum(dead_bytes), dead_lost=sum(lost),
            is_full=self._is_full(pending, size),
        )  # fmt: skip
        self._metrics.show(stats)
        return stats

    def _is_full(self, pending: Sequence[int], size: Sequence[int]) -> bool:
        """Also just below the limits: a put that would exceed them was refused a moment ago."""
        most_events, most_bytes = self._most
        recently = self._clock.monotonic() - self._refused_at < 2 * FULL_RETRY_SECONDS
        return recently or max(pending) >= most_events or max(size) >= most_bytes

    async def waiting(self, mailboxes: Sequence[str]) -> set[str]:
        """Those of these mailboxes that have events, waiting or in flight. Writes nothing."""
        parts = self._shards.split(mailboxes, str)
        ages = await all_of(self._shards.ask(shard, "ZMSCORE", "heads", *part) for shard, part in parts.items())
        found = zip(chain(*parts.values()), chain(*ages), strict=True)
        return {name for name, age in found if age is not None}

    async def depths(self, groups: Sequence[str]) -> list[int]:
        """How many events of each group are waiting or in flight. Writes nothing."""
        if not groups:
            return []
        fields = [f"events:{group}" for group in groups]
        rows = await self._shards.ask_each("HMGET", "held", *fields)
        return [sum(int(count or 0) for count in counts) for counts in zip(*rows, strict=True)]

    async def oldest(self, *, limit: int) -> dict[str, float]:
        """When the oldest event of a group was accepted (Unix seconds, the server's clock), for the groups of the
        `limit` oldest mailboxes of each shard. Writes nothing."""
        rows = await self._shards.ask_each("ZRANGE", "heads", 0, limit - 1, "WITHSCORES")
        found: dict[str, float] = {}
        for mailbox, accepted_ms in chain(*rows):
            group = self.group_of(mailbox.decode())
            found[group] = min(found.get(group, math.inf), float(accepted_ms) / 1000)
        return found

    async def audit(self) -> int:
        """Make mailboxes due that have events but no place in the schedule, pull back times that only a clock ahead can
        have written, count anew. Looks at the 200,000 oldest of each shard. Returns how many it moved: anything but 0
        is a bug, a damaged data set, or a server's clock that went back."""
        return sum(await all_of(self._audit(shard) for shard in range(len(self._shards))))

    async def _audit(self, shard: int) -> int:
        found = Counts[str]()
        for page in range(AUDIT_PAGES):
            args = (page * AUDIT_MAILBOXES, AUDIT_MAILBOXES, *self._audit_rules)
            looked_at, placed, pulled, miscounted = await self._shards.call(AUDIT, shard, args)
            found.update(place=placed, time=pulled, depth=miscounted)
            if looked_at < AUDIT_MAILBOXES:
                break
        for kind, count in found.items():
            self._metrics.repairs.labels(kind).inc(count)
        if found["place"] or found["depth"]:
            logger.error("the queue was damaged and is mended", extra={**found, "shard": shard})
        elif found["time"]:
            logger.warning("times ahead of every rule are pulled back", extra={"count": found["time"], "shard": shard})
        return found["place"] + found["time"]

    # --- the calls that several callers share ---

    async def _send_puts(self, shard: int, args: list[object], seconds: float) -> Sequence[object]:
        return await self._ingest.call_in_time(PUT, shard, args, header=self._put_header, timeout_seconds=seconds)

    async def _send_verdicts(self, shard: int, args: list[object], seconds: float) -> Any:
        return await self._shards.call(SETTLE, shard, (*self._settle_header, *args), timeout_seconds=seconds)

    async def _send_looks(self, shard: int, args: list[object], seconds: float) -> Any:
        return await self._shards.call(REFRESH, shard, args, timeout_seconds=seconds)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _checked(claim: Claim, count: int | None) -> int:
    if count is None:
        return len(claim.events)
    if not 1 <= count <= len(claim.events):
        raise ValueError(f"count is {count}, the claim shows {len(claim.events)} events")
    return count
