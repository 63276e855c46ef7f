"""Tells other systems what happened: the worker of the queue of events.

    claim a mailbox (one endpoint, one conversation) -> load its events from the outbox -> POST them in order, the claim
    checked before each -> settle in Postgres -> end the claim

A crash before `settle` tells again, with the same id; one after it finds nothing to tell. How a delivery ends:

    2xx                            told: the outbox forgets it for this endpoint
    anything else                  put off. The longer the endpoint has been failing, the longer: half of that time,
                                   from 5 s to `retry_cap_seconds`. An event that is refused while others go well:
                                   half of its age, at most a minute. The first delivery that goes well makes the rest
                                   due
    410, or nothing but failures   the endpoint is switched off, which is logged, shown, and told to the other
      for `off_after_seconds`      endpoints of the account
    older than `give_up_seconds`,  dead letters, replayable for as long as the outbox keeps the event
      or the endpoint is off

One endpoint has a few slots of a replica, fewer when few are free, and a single one while it hangs: the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Counter, Histogram

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import place_of
from app.core.logging import log_canonical
from app.core.queue import Claim, Queue
from app.core.secrets import TokenCipher
from app.core.slots import Caller, Rank, calling_as
from app.domain.endpoints import Answer, Endpoint, OutboxEvent, Outcome, Settled, Settlement
from app.domain.errors import Unavailable
from app.domain.ports import OutboxStore, Receiver
from app.services.claim_loop import ClaimLoop, Room
from app.services.endpoint_service import OFF_AFTER_SECONDS, deliver
from app.services.outbox_calls import OutboxCalls
from app.services.outbox_relay import EVENT_KIND, endpoint_of, group_of

logger = logging.getLogger(__name__)

MAX_DELIVERIES = 200
"""Claims of one replica at a time; fewer than the HTTP client's connections to strangers."""
MAX_PER_ENDPOINT = 6
FIRST_RETRY_SECONDS = 5.0
REFUSED_ALONE_SECONDS = 60.0
UNAVAILABLE_RETRY_SECONDS = 2.0
WAKE_AFTER_SECONDS = 5.0
"""An endpoint that failed for so long has put off more than the event that failed."""
SLOW_SECONDS = 3.0
SLOW_FOR_SECONDS = 60.0
MAX_SLOW = 200

DELIVERIES = Counter("chorus_event_deliveries_total", "Attempts to tell another system of an event", ["outcome"])
DELIVERY_SECONDS = Histogram(
    "chorus_event_delivery_seconds", "One attempt", buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
)
TELL_SECONDS = Histogram(
    "chorus_event_tell_seconds",
    "From the change to the receiver's 2xx",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400),
)
SWITCHED_OFF = Counter("chorus_endpoints_switched_off_total", "Endpoints switched off by their failures", ["reason"])


@dataclass(frozen=True, slots=True)
class EventPolicy:
    retry_cap_seconds: float = 3600.0
    give_up_seconds: float = 3 * 86400.0
    """Of one event, since it came into the queue."""
    off_after_seconds: float = OFF_AFTER_SECONDS


class EventWorker:
    def __init__(
        self,
        queue: Queue,
        store: OutboxStore,
        receiver: Receiver,
        cipher: TokenCipher,
        *,
        policy: EventPolicy | None = None,
        may_claim: Callable[[], bool] = lambda: True,
        on_beat: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._queue = queue
        self._outbox = OutboxCalls(store)
        self._receiver = receiver
        self._cipher = cipher
        self._policy = policy or EventPolicy()
        self._clock = clock
        self._slow: dict[str, float] = {}
        """Endpoints that take their time, and until when they have a single slot."""
        self.loop = ClaimLoop(queue, self._handle, room=self._room, may_claim=may_claim, on_beat=on_beat)

    def _room(self, held: int) -> Room:
        """At most an eighth of what is free for one endpoint, and half of it in one go. So endpoints that hang, however
        many, leave some to the others."""
        now = self._clock.monotonic()
        self._slow = {endpoint: until for endpoint, until in self._slow.items() if until > now}
        free = MAX_DELIVERIES - held
        return Room(
            min(free, max(1, free // 2)),
            max(1, min(MAX_PER_ENDPOINT, free // 8)),
            {group_of(endpoint): MAX_PER_ENDPOINT - 1 for endpoint in self._slow},
        )

    async def _handle(self, claim: Claim) -> None:
        endpoint_id = endpoint_of(claim.mailbox)
        started = time.perf_counter()
        outcome, reason = "cancelled", ""
        try:
            with calling_as(Caller(Rank.BACKGROUND, endpoint_id)):
                outcome, reason = await self._work(claim, endpoint_id)
        except asyncio.CancelledError:
            # Lease lost: the token no longer stands and this is a no-op. Drain: another replica has it at once.
            await asyncio.shield(self._put_off(claim, 0.0, "interrupted"))
            raise
        except Unavailable as exc:
            outcome, reason = "unavailable", exc.dependency
            await self._put_off(claim, exc.retry_after or UNAVAILABLE_RETRY_SECONDS, f"{exc.dependency} is unavailable")
        except Exception as exc:  # every error must become a verdict, or the mailbox waits for its lease
            outcome, reason = "failed", place_of(exc)
            logger.error("telling an event failed", exc_info=exc, extra={"endpoint": endpoint_id})
            await self._tell(lambda: self._queue.retry_later(claim, REFUSED_ALONE_SECONDS, counted=True, reason=reason))
        finally:
            log_canonical(
                "events told",
                kind=EVENT_KIND,
                outcome=outcome,
                reason=reason,
                endpoint=endpoint_id,
                events=len(claim.events),
                token=claim.token,
                ms=round((time.perf_counter() - started) * 1000, 2),
            )

    async def _work(self, claim: Claim, endpoint_id: str) -> tuple[str, str]:
        """Deliver what the claim shows and end it. Returns the outcome and its reason for the log."""
        ids = [event.payload.decode() for event in claim.events]
        endpoint, events = await self._outbox.load(endpoint_id, tuple(ids))
        if endpoint is None:
            await self._settle(endpoint_id, ids, [], None)
            await self._done(claim, len(ids))
            return "endpoint_deleted", ""
        if not endpoint.enabled:
            return await self._park(claim, len(ids), f"the webhook is switched off ({endpoint.disabled_reason})")
        attempts = await self._deliver(claim, endpoint, events)
        failed = attempts[-1] if attempts and attempts[-1][1].outcome is not Outcome.DELIVERED else None
        told = [event.id for event, answer in attempts if answer.outcome is Outcome.DELIVERED]
        last = "ok" if told else None
        if failed:
            last = "gone" if failed[1].is_gone else "failed"
        settled = await self._settle(endpoint.id, told, attempts, last)
        if settled.recovered and _seconds_since(endpoint.failing_since) > WAKE_AFTER_SECONDS:
            await self._wake(endpoint)
        if failed is None:
            if len(told) < len(events):  # the claim is not certainly ours any more
                return "fenced", ""
            await self._done(claim, len(ids))
            return "told" if told else "nothing_to_tell", ""
        place = ids.index(failed[0].id)
        if place:  # what went well is finished; the one in trouble becomes the head and is judged alone
            await self._done(claim, place)
            return "told", f"{place} of {len(ids)}"
        return await self._failed(claim, endpoint, failed[1], settled)

    async def _deliver(
        self, claim: Claim, endpoint: Endpoint, events: Sequence[OutboxEvent]
    ) -> list[tuple[OutboxEvent, Answer]]:
        """In order, up to the first that fails."""
        attempts: list[tuple[OutboxEvent, Answer]] = []
        for event in events:
            if not claim.is_held():
                break
            timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._mark_slow, endpoint.id)
            try:
                answer = await deliver(self._receiver, self._cipher, endpoint, event)
            finally:
                timer.cancel()
            attempts.append((event, answer))
            DELIVERIES.labels(answer.outcome).inc()
            DELIVERY_SECONDS.observe(answer.ms / 1000)
            if answer.ms < SLOW_SECONDS * 1000:
                self._slow.pop(endpoint.id, None)
            if answer.outcome is not Outcome.DELIVERED:
                break
            TELL_SECONDS.observe(max(0.0, _seconds_since(event.created_at)))
        return attempts

    def _mark_slow(self, endpoint_id: str) -> None:
        if len(self._slow) < MAX_SLOW:
            self._slow[endpoint_id] = self._clock.monotonic() + SLOW_FOR_SECONDS

    async def _failed(self, claim: Claim, endpoint: Endpoint, answer: Answer, settled: Settled) -> tuple[str, str]:
        reason = answer.outcome if answer.status is None else f"{answer.outcome} {answer.status}"
        age = max(0.0, time.time() - claim.events[0].accepted_at)
        if settled.switched_off:
            SWITCHED_OFF.labels(settled.switched_off).inc()
            logger.warning(
                "endpoint switched off",
                extra={"account": endpoint.account_id, "endpoint": endpoint.id, "reason": settled.switched_off},
            )
            return await self._park(claim, len(claim.events), f"{reason}; the webhook is switched off")
        if age > self._policy.give_up_seconds:
            return await self._park(claim, 1, reason)
        await self._put_off(claim, self.pause_seconds(age, settled.failing_seconds, answer.retry_after), reason)
        return "put_off", reason

    def pause_seconds(self, age_seconds: float, failing_seconds: float, retry_after: float | None) -> float:
        """Before the next try of an event of that age, to an endpoint that has been failing for so long."""
        cap = self._policy.retry_cap_seconds
        pause = max(
            FIRST_RETRY_SECONDS, failing_seconds / 2, min(REFUSED_ALONE_SECONDS, age_seconds / 2), retry_after or 0.0
        )
        return min(cap, pause) * (1 + 0.2 * random.random())

    async def _settle(
        self, endpoint_id: str, told: Sequence[str], attempts: Sequence[tuple[OutboxEvent, Answer]], last: str | None
    ) -> Settled:
        off_after_seconds = self._policy.off_after_seconds
        return await self._outbox.settle(Settlement(endpoint_id, tuple(told), tuple(attempts), last, off_after_seconds))

    async def _wake(self, endpoint: Endpoint) -> None:
        logger.info("endpoint is back", extra={"account": endpoint.account_id, "endpoint": endpoint.id})
        await self._queue.wake([group_of(endpoint.id)])

    async def _done(self, claim: Claim, count: int) -> None:
        await self._tell(lambda: self._queue.done(claim, count))

    async def _park(self, claim: Claim, count: int, reason: str) -> tuple[str, str]:
        await self._tell(lambda: self._queue.park(claim, count, reason))
        logger.warning(
            "events given up on: they are dead letters",
            extra={"endpoint": endpoint_of(claim.mailbox), "events": count, "reason": reason},
        )
        return "parked", reason

    async def _put_off(self, claim: Claim, seconds: float, reason: str) -> None:
        await self._tell(lambda: self._queue.retry_later(claim, seconds, counted=False, reason=reason))

    async def _tell(self, verdict: Callable[[], Awaitable[bool]]) -> None:
        """One that is lost: the lease runs out, and what was settled is found again."""
        try:
            await self.loop.tell(verdict)
        except Unavailable as exc:
            logger.warning("verdict not delivered", extra={"reason": str(exc)})


def _seconds_since(at: datetime | None) -> float:
    return 0.0 if at is None else (datetime.now(UTC) - at).total_seconds()
