"""The queue's scripts against a model of them in plain Python, over random histories on a clock that tests move."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.core.queue import Claim, Event, Queue, QueueFull, QueuePolicy, QueueUnavailable
from app.core.redis.door import Door

T = TypeVar("T")

# Times are multiples of 1/8 s, which floats hold exactly.
DEBOUNCE, CAP, GATHER, LEASE, DEDUPE = 1000, 2500, 500, 4000, 60_000
TWENTIETH = 50
PUT_EIGHTHS = 8
MAX_ATTEMPTS, MAX_PENDING, MAX_PER_MAILBOX, PEEK = 3, 60, 24, 20
MAX_BYTES, MAX_MAILBOX_BYTES = 1500, 600
MAILBOXES = ("a", "g:7:ü", "g:7:b", "h:7:c")
GROUPS = ("", "g:7", "h:7")
KINDS = ("g", "h")
GATHERED = ("h",)
CRASHED = "no verdict: the worker died or its lease ran out"


class MovedClock:
    """One time for the server and for this process."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0
        self.delay_seconds = 0.0

    @property
    def ms(self) -> int:
        return round(self.seconds * 1000)

    def time(self) -> float:
        return self.seconds

    monotonic = time


class SlowDoor(Door):
    """The server runs the next script `clock.delay_seconds` after it was asked for."""

    def __init__(self, client: Any, clock: MovedClock) -> None:
        super().__init__(client)
        self._moved = clock

    async def run(self, *args: Any, **options: Any) -> Any:
        self._moved.seconds += self._moved.delay_seconds
        self._moved.delay_seconds = 0.0
        return await super().run(*args, **options)


def share_of(mailbox: str) -> str:
    """Whose room it takes: the two kinds of number 7 have one share."""
    kind, _, rest = Queue.group_of(mailbox).partition(":")
    return rest if kind in KINDS else kind


def size_of(event_id: str) -> int:
    """Of an entry: time, frame, id and a payload of five bytes."""
    return 13 + 5 + len(event_id) + 5


@contextmanager
def server_time(clock: MovedClock) -> Iterator[None]:
    source = SimpleNamespace(time=clock.time)
    with (
        mock.patch("fakeredis.commands_mixins.server_mixin.time", source),
        mock.patch("fakeredis._socket._base.time", source),
    ):
        yield


@dataclass
class Box:
    """A mailbox as the model sees it: `due` while waiting, `ends` and `token` while leased."""

    events: list[str] = field(default_factory=list)
    due: int | None = None
    ends: int | None = None
    token: int | None = None
    failures: list[tuple[int, str]] = field(default_factory=list)
    burst: tuple[int, int] | None = None

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def bytes(self) -> int:
        return sum(map(size_of, self.events))


@dataclass
class Model:
    boxes: dict[str, Box] = field(default_factory=lambda: {name: Box() for name in MAILBOXES})
    seen: dict[str, int] = field(default_factory=dict)
    dead: list[tuple[str, str, int, list[tuple[int, str]]]] = field(default_factory=list)

    @property
    def pending(self) -> int:
        return sum(len(box.events) for box in self.boxes.values())

    def held(self, group: str | None = None) -> tuple[int, int]:
        """Events and bytes of a group, or of all."""
        boxes = [box for name, box in self.boxes.items() if group is None or Queue.group_of(name) == group]
        return sum(len(box.events) for box in boxes), sum(box.bytes for box in boxes)

    def put(self, events: list[Event], now: int) -> tuple[list[str], list[str]] | None:
        """What was stored, what was diverted; `None` if refused."""
        kept: list[str] = []
        diverted: list[str] = []
        over: set[str] = set()
        room: dict[str | None, tuple[int, int]] = {None: self.held()}
        for group in GROUPS:
            share, (count, total) = share_of(f"{group}:"), self.held(group)
            before = room.get(share, (0, 0))
            room[share] = (before[0] + count, before[1] + total)
        grown: dict[str, list[Event]] = {}
        for event in events:
            if self.seen.get(event.id, -1) >= now or event.id in kept:
                continue
            size, (depth, total), share = size_of(event.id), room[None], share_of(event.mailbox)
            if depth + 1 > MAX_PENDING or total + size > MAX_BYTES:
                return None
            box, new = self.boxes[event.mailbox], grown.setdefault(event.mailbox, [])
            fits = (
                event.mailbox not in over
                and room[share][0] + 1 <= MAX_PENDING - depth
                and room[share][1] + size <= MAX_BYTES - total
                and len(box.events) + len(new) + 1 <= MAX_PER_MAILBOX
                and box.bytes + sum(size_of(e.id) for e in new) + size <= MAX_MAILBOX_BYTES
            )
            if not fits:
                over.add(event.mailbox)
                diverted.append(event.id)
                continue
            new.append(event)
            kept.append(event.id)
            for key in (share, None):
                room[key] = (room[key][0] + 1, room[key][1] + size)
        for name, new in grown.items():
            if new:
                self._append(name, [e.id for e in new], all(e.immediate for e in new), now)
        self.seen.update(dict.fromkeys(kept, now + DEDUPE))
        return kept, diverted

    def _append(self, name: str, ids: list[str], immediate: bool, now: int) -> None:
        box, pause, cap = self.boxes[name], DEBOUNCE, CAP
        if name.partition(":")[0] in GATHERED:
            immediate, pause, cap = False, GATHER, GATHER
        was_empty = not box.events
        box.events += ids
        if was_empty and immediate:
            box.due = now
        if immediate:
            return
        if was_empty or box.burst or box.due is None:
            start = box.burst[0] if box.burst else now
            due = min(now + pause, start + cap)
            box.burst = (start, due - due % TWENTIETH if pause == GATHER else due)
            if box.due is not None or was_empty:
                box.due = box.burst[1]

    def reap(self, limit: int, now: int) -> None:
        ended = sorted((b.ends, n.encode(), b) for n, b in self.boxes.items() if b.ends is not None and b.ends <= now)
        for ends, name, box in ended[:limit]:
            box.ends = box.token = box.burst = None
            box.failures.append((now, CRASHED))
            if box.failed >= MAX_ATTEMPTS:
                self.dead.append((name.decode(), box.events.pop(0), box.failed, box.failures))
                box.failures = []
            if box.events:
                box.due = ends - LEASE

    @property
    def groups(self) -> dict[str, int]:
        """The earliest due time of each group that has a mailbox waiting."""
        earliest: dict[str, int] = {}
        for name, box in self.boxes.items():
            if box.due is not None:
                group = Queue.group_of(name)
                earliest[group] = min(earliest.get(group, box.due), box.due)
        return earliest

    def claim(
        self, limit: int, now: int, *, turn: int, held: Counter[str], per_group: int | None
    ) -> list[tuple[str, tuple[str, ...], int]]:
        """One after the other: whoever has the fewest in this claim, in the order of turns among equals."""
        self.reap(limit, now)
        waiting: dict[str, list[tuple[int, bytes, Box]]] = {}
        for name, box in self.boxes.items():
            if box.due is not None and box.due <= now:
                waiting.setdefault(Queue.group_of(name), []).append((box.due, name.encode(), box))
        room = {
            group: (limit if per_group is None else per_group) - held[group] * (per_group is not None)
            for group in waiting
        }
        due = sorted((min(rows)[0], group.encode(), group) for group, rows in waiting.items() if room[group] > 0)
        order = [due[(turn + 1 + at) % len(due)][2] for at in range(len(due))]
        claims: dict[str, list[tuple[str, tuple[str, ...], int]]] = {group: [] for group in order}
        for _ in range(limit):
            hungry = [group for group in order if waiting[group] and len(claims[group]) < room[group]]
            if not hungry:
                break
            group = min(hungry, key=lambda name: len(claims[name]))
            first = min(waiting[group], key=lambda row: row[:2])
            waiting[group].remove(first)
            _, name, box = first
            box.due = box.burst = None
            box.ends = now + LEASE
            claims[group].append((name.decode(), tuple(box.events[: 1 if box.failed else PEEK]), box.failed))
        return [claim for group in order for claim in claims[group]]

    def trim(self, name: str, count: int, now: int) -> None:
        box = self.boxes[name]
        del box.events[:count]
        box.failures = []
        box.ends = box.token = None
        if box.events:
            box.due = box.burst[1] if box.burst else now
        else:
            box.burst = None

    def park(self, name: str, count: int, now: int) -> None:
        box = self.boxes[name]
        history = [*box.failures, (now, "why")]
        self.dead += [(name, event_id, len(history), history) for event_id in box.events[:count]]
        self.trim(name, count, now)

    def retry(self, name: str, delay: int, counted: bool, now: int) -> bool:
        box = self.boxes[name]
        if counted and box.failed + 1 >= MAX_ATTEMPTS:
            self.park(name, 1, now)
            return True
        if counted:
            box.failures.append((now, "why"))
        box.ends = box.token = box.burst = None
        box.due = now + delay
        return False

    def wake(self, groups: list[str] | None, now: int) -> int:
        """What was put off for reasons that were not its own; a burst is still debounced."""
        woken = [
            box for name, box in self.boxes.items()
            if box.due is not None and box.due > now and not box.failed and not box.burst
            and (groups is None or Queue.group_of(name) in groups)
        ]  # fmt: skip
        for box in woken:
            box.due = now
        return len(woken)

    def replay(self, at: int, now: int) -> None:
        name, event_id, _, _ = self.dead.pop(at)
        box = self.boxes[name]
        if not box.events:
            box.due = now
        box.events.append(event_id)


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.clock = MovedClock()
        self.model = Model()
        self.claims: list[Claim] = []
        self.accepted: set[str] = set()
        self.finished: list[str] = []
        self.newest_token = dict.fromkeys(MAILBOXES, 0)
        self.serial = 0
        self.turn = 0
        self.patch = server_time(self.clock)
        self.patch.__enter__()
        self.runner = asyncio.Runner()
        self.redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="valkey"))
        self.queue = Queue(
            SlowDoor(self.redis, self.clock),
            Door(self.redis),
            policy=QueuePolicy(
                debounce_seconds=DEBOUNCE / 1000,
                debounce_cap_seconds=CAP / 1000,
                lease_seconds=LEASE / 1000,
                max_attempts=MAX_ATTEMPTS,
                max_pending=MAX_PENDING,
                max_per_mailbox=MAX_PER_MAILBOX,
                max_bytes=MAX_BYTES,
                max_mailbox_bytes=MAX_MAILBOX_BYTES,
                one_share=KINDS,
                gather_seconds=GATHER / 1000,
                gathered=GATHERED,
                dedupe_seconds=DEDUPE // 1000,
                put_timeout_seconds=PUT_EIGHTHS / 8,
            ),
            namespace="t",
            clock=self.clock,
        )

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.redis.aclose())
            self.runner.close()
            self.patch.__exit__(None, None, None)

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    @property
    def now(self) -> int:
        return self.clock.ms

    def _event(self, mailbox: str, old: int, immediate: bool) -> Event:
        if 0 < old <= self.serial:
            return Event(f"e{self.serial - old}", mailbox, b"again", immediate)
        self.serial += 1
        return Event(f"e{self.serial}", mailbox, f"\x00{self.serial % 1000:03}\xff".encode("latin-1"), immediate)

    @rule(shapes=st.lists(
        st.tuples(st.sampled_from(MAILBOXES), st.integers(-9, 3), st.booleans()), min_size=1, max_size=10
    ), eighths=st.sampled_from([0, 0, 0, 0, 1, 7, 8, 9]))  # fmt: skip
    def put(self, shapes: list[tuple[str, int, bool]], eighths: int = 0) -> None:
        """The server comes to it so much later: what its caller has given up changes nothing."""
        events = [self._event(*shape) for shape in shapes]
        self.clock.delay_seconds = eighths / 8
        if eighths >= PUT_EIGHTHS:
            with pytest.raises(QueueUnavailable):
                self.run(self.queue.put(events))
            return
        expected = self.model.put(events, self.now + eighths * 125)
        try:
            result = self.run(self.queue.put(events))
        except QueueFull:
            assert expected is None
            return
        assert expected is not None
        kept, diverted = expected
        assert (result.accepted, [event.id for event in result.diverted]) == (len(kept), diverted)
        assert result.duplicates == len(events) - len(kept) - len(diverted)
        self.accepted |= set(kept)

    @rule(mailbox=st.sampled_from(MAILBOXES), count=st.integers(8, 25))
    def put_many(self, mailbox: str, count: int) -> None:
        self.put([(mailbox, 0, False)] * count)

    @rule(eighths=st.sampled_from([1, 4, 8, 8, 9, 9, 12, 20, 31, 32, 32, 33, 33, 481]))
    def advance(self, eighths: int) -> None:
        self.clock.seconds += eighths / 8

    @rule(limit=st.integers(1, 3), per_group=st.sampled_from([None, None, 1, 2]))
    def claim(self, limit: int, per_group: int | None = None) -> None:
        self.turn += 1
        held = Counter(Queue.group_of(name) for name, box in self.model.boxes.items() if box.ends is not None)
        expected = self.model.claim(limit, self.now, turn=self.turn, held=held, per_group=per_group)
        claims = self.run(self.queue.claim(limit, held=held, per_group=per_group))
        assert [(c.mailbox, tuple(e.id for e in c.events), c.attempts) for c in claims] == expected
        for claim in claims:
            assert claim.token > self.newest_token[claim.mailbox], "a fencing token never falls"
            assert claim.is_held()
            self.newest_token[claim.mailbox] = self.model.boxes[claim.mailbox].token = claim.token
        self.claims += claims

    def _take(self, data: st.DataObject) -> tuple[Claim, bool]:
        """A claim, held or not (any more), and whether its token should still be good."""
        held = [claim for claim in self.claims if self.model.boxes[claim.mailbox].token == claim.token]
        past = self.claims[-4:]
        claim = data.draw(st.sampled_from((held or past) * 3 + past))
        return claim, claim in held

    @rule(limit=st.integers(1, 2), times=st.integers(1, MAX_ATTEMPTS))
    def crash(self, limit: int, times: int) -> None:
        """Whoever holds something dies, and so does who takes it over."""
        for _ in range(times):
            self.claim(limit)
            self.clock.seconds += (LEASE + 125) / 1000

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verb=st.sampled_from(["done", "park"]))
    def finish(self, data: st.DataObject, verb: str) -> None:
        claim, valid = self._take(data)
        count = data.draw(st.integers(1, len(claim.events)))
        box = self.model.boxes[claim.mailbox]
        if valid and verb == "done":
            self.finished += box.events[:count]
            self.model.trim(claim.mailbox, count, self.now)
        elif valid:
            self.model.park(claim.mailbox, count, self.now)
        verdict = self.queue.done(claim, count) if verb == "done" else self.queue.park(claim, count, "why")
        assert self.run(verdict) == valid

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), eighths=st.sampled_from([0, 4, 30]), counted=st.booleans())
    def retry_later(self, data: st.DataObject, eighths: int, counted: bool) -> None:
        claim, valid = self._take(data)
        expected = valid and self.model.retry(claim.mailbox, eighths * 125, counted, self.now)
        assert self.run(self.queue.retry_later(claim, eighths / 8, counted=counted, reason="why")) == expected

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        claim, valid = self._take(data)
        ended = claim.held_until == -math.inf
        if valid:
            self.model.boxes[claim.mailbox].ends = self.now + LEASE
        assert self.run(self.queue.extend([claim])) == ([] if valid or ended else [claim])
        assert claim.is_held() or not valid

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        claim, valid = self._take(data)
        if not valid:
            return
        self.run(self.queue.refresh(claim))
        shown = self.model.boxes[claim.mailbox].events[: 1 if claim.attempts else PEEK]
        assert [event.id for event in claim.events] == shown

    @rule(groups=st.sampled_from([None, ["g:7"], ["", "g:7"], ["nobody"]]))
    def wake(self, groups: list[str] | None) -> None:
        assert self.run(self.queue.wake(groups)) == self.model.wake(groups, self.now)

    @precondition(lambda self: self.model.dead)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.model.dead) - 1))
        letters, _ = self.run(self.queue.dead_letters.page(limit=100))
        self.model.replay(at, self.now)
        assert self.run(self.queue.dead_letters.replay([letters[at].id, letters[at].id, "0-1-1", "nonsense"])) == 1

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Every accepted event is in exactly one place: waiting, dead, or finished."""
        waiting = [event_id for box in self.model.boxes.values() for event_id in box.events]
        places = waiting + [event_id for _, event_id, _, _ in self.model.dead] + self.finished
        assert set(places) == self.accepted
        # An id that is older than the dedupe window may be accepted again, and only then.
        assert len(places) == len(set(places)) or self.now > 1_700_000_000_000 + DEDUPE

    @invariant()
    def the_server_agrees_with_the_model(self) -> None:
        groups, lease, heads, failed, letters, depth, held, weight, *rest = self.run(self._server())
        ready = {name: due for group in rest[: len(GROUPS)] for name, due in group}
        lengths = rest[len(GROUPS) :]
        boxes = {name.encode(): box for name, box in self.model.boxes.items()}
        full = {name for name, box in boxes.items() if box.events}
        assert {name.decode(): due for name, due in groups} == self.model.groups
        assert ready == {name: box.due for name, box in boxes.items() if box.due is not None}
        assert dict(lease) == {name: box.ends for name, box in boxes.items() if box.ends is not None}
        assert sorted([*ready, *dict(lease)]) == sorted(full), "in exactly one of the two"
        assert dict(heads).keys() == full
        assert {name: int(n) for name, n in failed.items()} == {n: box.failed for n, box in boxes.items() if box.failed}
        assert [(row[b"mailbox"].decode(), int(row[b"attempts"])) for _, row in letters] == [
            (name, attempts) for name, _, attempts, _ in self.model.dead
        ]
        assert lengths == [len(box.events) for box in boxes.values()]
        assert int(depth or 0) == sum(lengths)
        sums = {
            f"{what}:{group}": n
            for group in GROUPS
            for what, n in zip(("events", "bytes"), self.model.held(group), strict=True)
        }
        sums["bytes"] = self.model.held()[1]
        assert {name.decode(): int(n) for name, n in held.items()} == {name: n for name, n in sums.items() if n}
        assert {name: int(n) for name, n in weight.items()} == {
            name: box.bytes for name, box in boxes.items() if box.events
        }

    async def _server(self) -> list[Any]:
        pipe = self.redis.pipeline(transaction=False)
        for key in ("groups", "lease", "heads"):
            pipe.zrange(f"t:{{q0}}:{key}", 0, -1, withscores=True)
        pipe.hgetall("t:{q0}:att").xrange("t:{q0}:dlq").get("t:{q0}:depth")
        pipe.hgetall("t:{q0}:held").hgetall("t:{q0}:weight")
        for group in GROUPS:
            pipe.zrange(f"t:{{q0}}:r:{group}", 0, -1, withscores=True)
        for name in MAILBOXES:
            pipe.llen(f"t:{{q0}}:m:{name}")
        return list(await pipe.execute())

    @rule()
    def watch(self) -> None:
        stats = self.run(self.queue.stats())
        boxes = self.model.boxes.values()
        assert (stats.pending, stats.bytes) == self.model.held()
        assert stats.dead == len(self.model.dead)
        assert stats.ready == sum(box.due is not None for box in boxes)
        assert stats.leased == sum(box.ends is not None for box in boxes)
        letters, _ = self.run(self.queue.dead_letters.page(limit=100))
        assert [
            (d.event.mailbox, d.event.id, d.attempts, [(round(f.at * 1000), f.reason) for f in d.history])
            for d in letters
        ] == self.model.dead
        assert self.run(self.queue.audit()) == 0


# Finding the shortest failing history takes hypothesis up to five minutes.
TestQueueAgainstItsModel = pytest.mark.timeout(400)(QueueMachine.TestCase)
TestQueueAgainstItsModel.settings = settings(
    max_examples=80,
    stateful_step_count=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
