"""What happens, told to readers on every replica at once: a capped stream for each topic and one channel for all.

    feed = Feed(door, namespace="chorus")
    start("feed", feed.run)                              # follows the channel
    feed.tell("account-1", b"message.received", b"{}")   # free while the topic has no reader anywhere
    reader = await feed.open("account-1", last_id=None)
    while (happened := await reader.next(15.0)) is not None: ...
    reader.close()

1. A topic's stream exists while there are readers: their replicas keep it, and announce the topic on the channel when
   the first one comes and every `announce_seconds`. A replica knows from these announcements whether to tell Redis
   anything at all; one that has just subscribed cannot know, tells a change, and the script finds out: of a topic
   without a stream nothing more is told until it is announced. One that has lost the channel tells every change.
2. One script appends to the streams and publishes: ids are the stream's, so that a reader may come back to any replica
   with the last one it has seen, and gets what it has missed. An id that the stream does not have any more is answered
   with `RESET`: load everything again. What is told during a call, or within `between_seconds` of its end, shares the
   next one: a call costs as much as telling twenty events, and a busy replica has hundreds a second to tell.
3. When the channel was lost, what is missing is read from the streams; ids keep it from being told twice.
4. A reader that falls behind by `most_behind` events is cut: nothing is buffered without bound.
5. What could not be told to Redis becomes a `RESET` of its topic as soon as Redis is back.

What it does not do: keep anything that must not be lost. What is told was committed before, and can be loaded again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Overloaded, Unavailable
from app.core.redis.door import Door
from app.core.redis.listening import LISTEN_TIMINGS, Check, ListenTimings, listen
from app.core.redis.script import Script

OPEN, PUT = Script("feed_open"), Script("feed_put")
_Place = tuple[int, int]
"""An id in the form that sorts: milliseconds, number."""
RESET = b""
"""The event that says: what happened in between is not known."""

READERS = Gauge("chorus_feed_readers", "Open streams of events on this replica")
TOLD = Counter("chorus_feed_told_total", "Events told to readers, by what became of them", ["outcome"])
for _outcome in ("told", "reset", "cut"):
    TOLD.labels(_outcome)


@dataclass(frozen=True, slots=True)
class FeedLimits:
    announce_seconds: float = 20.0
    keep_seconds: float = 90.0
    """A stream outlives its last reader by so much: who comes back until then has missed nothing."""
    most_kept: int = 1000
    most_behind: int = 250
    most_readers: int = 1000
    most_of_topic: int = 250
    """The readers of one must leave room to those of the others."""
    most_pending: int = 5000
    """Events that wait for Redis; more become resets."""
    together: int = 120
    """Events in one call; fewer than a turn of the subscription takes, and than a reader may be behind."""
    between_seconds: float = 0.25
    """From the end of a call to the next one: a call, and a write to each reader, cost as much as many events. Half of
    what people may wait for a message."""
    answer_seconds: float = 1.0
    listening: ListenTimings = LISTEN_TIMINGS


LIMITS = FeedLimits()


class Happened(NamedTuple):
    id: bytes
    event: bytes
    """`RESET`, or a name."""
    data: bytes


class Reader:
    """One reader of one topic, from `Feed.open`. For one task."""

    def __init__(self, topic: str, most_behind: int, on_close: Callable[[Reader], None]) -> None:
        self.topic = topic
        self._most_behind = most_behind
        self._on_close = on_close
        self._waiting: deque[Happened] = deque()
        self._wake: asyncio.Future[None] | None = None
        """While `next` waits."""
        self._last = (0, 0)
        self._held: list[Happened] | None = []
        """While what was missed is still on its way."""
        self.is_open = True
        self.newest = b""
        """Where the topic is, for a reader that has seen nothing yet."""

    async def next(self, timeout_seconds: float) -> list[Happened] | None:
        """What has happened since; empty when that is nothing within the time; `None`: the reader was closed or cut."""
        if not self._waiting and self.is_open:
            # A future and a timer: an event and `asyncio.timeout` cost a third more for every event of every reader.
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            timer = loop.call_later(timeout_seconds, self._awake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None
        if not self.is_open:
            return None
        happened = list(self._waiting)
        self._waiting.clear()
        return happened

    def close(self) -> None:
        """Idempotent."""
        if self.is_open:
            self.is_open = False
            self._waiting.clear()
            self._awake()
            self._on_close(self)

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def begin(self, missed: Iterable[Happened], *, at: bytes) -> None:
        """What came before the reader was open, then what has come since; `at`: where the stream was."""
        held, self._held = self._held or [], None
        self.newest = at
        for happened in missed:
            self.hear(happened, _place(happened.id))
        self._last = max(self._last, _place(at))
        for happened in held:
            self.hear(happened, _place(happened.id))

    def hear(self, happened: Happened, place: _Place) -> None:
        """`place`: of its id, made once for all readers."""
        if self._held is not None:
            self._held.append(happened)
            if len(self._held) > self._most_behind:
                self.close()
            return
        if place <= self._last and happened.event != RESET:
            return
        if len(self._waiting) >= self._most_behind:
            TOLD.labels("cut").inc()
            self.close()
            return
        self._last = place
        self._waiting.append(happened)
        self._awake()


class Feed:
    """One for each process. `run` never ends by itself."""

    def __init__(self, door: Door, *, namespace: str, limits: FeedLimits = LIMITS, clock: Clock = SYSTEM_CLOCK) -> None:
        self._door = door
        self._channel = f"{namespace}:live"
        self._limits = limits
        self._clock = clock
        self._readers: dict[str, set[Reader]] = {}
        self._last: dict[str, _Place] = {}
        """Of each topic with readers here: the last id that was heard."""
        self._count = 0
        self._present: dict[str, float] = {}
        """Until when a topic has readers, here or elsewhere; monotonic."""
        self._sure_at = float("inf")
        """From then on a topic that is not in `_present` has no reader; monotonic."""
        self._absent: set[str] = set()
        """Before that: topics that had no stream since the channel is open. One that gets readers is announced."""
        self._announced_at = 0.0
        self._following = asyncio.Event()
        self._pending: deque[tuple[str, bytes, bytes]] = deque()
        self._lost: set[str] = set()
        self._putting: asyncio.Task[None] | None = None
        self._put_at = float("-inf")
        """When the last call ended; monotonic."""
        self.is_draining = False

    @property
    def readers(self) -> int:
        return self._count

    # -- telling

    def tell(self, topic: str, event: bytes, data: bytes) -> None:
        """Never waits, never raises. `event` has no "|"."""
        if not self.may_have_readers(topic):
            return
        if len(self._pending) >= self._limits.most_pending:
            self._lost.add(topic)
            return
        self._pending.append((topic, event, data))
        if self._putting is None:
            self._putting = asyncio.create_task(self._put(), name="feed")

    def may_have_readers(self, topic: str) -> bool:
        """`False`: nothing that is told of it is heard anywhere."""
        now = self._clock.monotonic()
        return self._present.get(topic, 0.0) > now or (now < self._sure_at and topic not in self._absent)

    def has_readers(self, topic: str) -> bool:
        """`True`: certainly, or a moment ago."""
        return self._present.get(topic, 0.0) > self._clock.monotonic()

    @property
    def is_watched(self) -> bool:
        """Has any topic had readers lately?"""
        return bool(self._present)

    async def _put(self) -> None:
        try:
            while self._pending:
                if (early := self._put_at + self._limits.between_seconds - self._clock.monotonic()) > 0:
                    await self._clock.sleep(early)
                # By topic: in its order, and in one call where there are many, because a reader writes once for each.
                self._pending = deque(sorted(self._pending, key=itemgetter(0)))
                # What is told during these calls waits for the next ones: on a busy replica there is always something.
                most = self._limits.together
                for left in range(len(self._pending), 0, -most):
                    await self._put_next(min(left, most))
                self._put_at = self._clock.monotonic()
        finally:
            self._putting = None

    async def _put_next(self, count: int) -> None:
        by_topic: dict[str, list[bytes]] = {}
        for _ in range(count):
            topic, event, data = self._pending.popleft()
            by_topic.setdefault(topic, []).extend((event, data))
        if self._door.is_cluster:
            await asyncio.gather(*(self._put_some({topic: pairs}) for topic, pairs in by_topic.items()))
        else:
            await self._put_some(by_topic)

    async def _put_some(self, by_topic: Mapping[str, Sequence[bytes]]) -> None:
        """The pairs of each topic; none stands for a reset. Of more than one topic not on a Cluster."""
        args: list[Any] = [self._channel, self._limits.most_kept]
        for topic, pairs in by_topic.items():
            args += (topic, len(pairs) // 2, *pairs)
        absent = self._absent if self._following.is_set() else set()
        try:
            counts = await self._door.run(
                PUT, [self._key(topic) for topic in by_topic], args, within_seconds=self._limits.answer_seconds
            )
        except Unavailable:
            self._lost.update(by_topic)
            return
        except asyncio.CancelledError:
            self._lost.update(by_topic)
            raise
        for (topic, pairs), told in zip(by_topic.items(), counts, strict=True):
            TOLD.labels("told" if pairs else "reset").inc(told)
            if not told and self._clock.monotonic() < self._sure_at:
                absent.add(topic)  # into a set that is of no use any more if the channel was lost meanwhile

    # -- reading

    async def open(self, topic: str, *, last_id: str | None) -> Reader:
        """`last_id`: the last one that this reader has seen; the rest comes first. Raises `Unavailable`."""
        of_topic = len(self._readers.get(topic, ()))
        if self._count >= self._limits.most_readers or of_topic >= self._limits.most_of_topic:
            raise Overloaded("events", "as many streams of events are open on this replica as may", retry_after=5.0)
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                await self._following.wait()
        except TimeoutError:
            raise Unavailable("redis", "the channel of events is not open") from None
        reader = Reader(topic, self._limits.most_behind, self._closed)
        self._readers.setdefault(topic, set()).add(reader)
        self._count += 1
        READERS.set(self._count)
        try:
            missed, newest = await self._missed(topic, _known(last_id))
            self._last.setdefault(topic, _place(newest))
            reader.begin(missed, at=newest)
        except BaseException:
            reader.close()
            raise
        return reader

    def drain(self, within_seconds: float) -> None:
        """Close every reader, spread over that time; those that come from now on are to be closed at once."""
        self.is_draining = True
        loop = asyncio.get_running_loop()
        for reader in [reader for readers in self._readers.values() for reader in readers]:
            loop.call_later(within_seconds * random.random(), reader.close)

    async def aclose(self) -> None:
        """Tell what still waits: readers on other replicas would miss it."""
        if self._putting is not None:
            await self._putting

    def _closed(self, reader: Reader) -> None:
        readers = self._readers.get(reader.topic, set())
        readers.discard(reader)
        self._count -= 1
        READERS.set(self._count)
        if not readers:
            self._readers.pop(reader.topic, None)
            self._last.pop(reader.topic, None)

    async def _missed(self, topic: str, last_id: bytes) -> tuple[list[Happened], bytes]:
        """What came after `last_id`, and the newest id. Keeps the stream, and announces the topic."""
        args = [self._channel, topic, round(self._limits.keep_seconds * 1000), last_id]
        known, newest, *rest = await self._door.run(
            OPEN, [self._key(topic)], args, within_seconds=self._limits.answer_seconds
        )
        if not known:
            return [Happened(newest, RESET, b"")], newest
        rows = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        return [Happened(id_, event, data) for event, data, id_ in rows], newest

    # -- the subscription

    async def run(self, beat: Callable[[], object]) -> None:
        await listen(
            self._door, self._channel, self._hear, on_open=self._catch_up, check=self._check, on_lost=self._lose,
            beat=beat, timings=self._limits.listening,
        )  # fmt: skip

    def _lose(self) -> None:
        self._following.clear()
        self._sure_at = float("inf")
        self._absent = set()

    async def _catch_up(self) -> None:
        await self._refresh()
        self._announced_at = now = self._clock.monotonic()
        self._sure_at = now + 2 * self._limits.announce_seconds
        self._following.set()

    async def _check(self, ask: Check) -> None:
        """Of the channel; then make up for what was lost, and announce the topics."""
        await ask()
        for topic in list(self._lost):
            self._lost.discard(topic)  # first: what is lost while the reset is on its way needs another one
            await self._put_some({topic: ()})
        now = self._clock.monotonic()
        if now >= self._sure_at:
            self._absent.clear()
        if now - self._announced_at >= self._limits.announce_seconds:
            self._announced_at = now
            await self._refresh()
            self._present = {topic: until for topic, until in self._present.items() if until > now}

    async def _refresh(self) -> None:
        """Keep and announce the topics that have readers here; what was missed of them is told now."""
        for topic in list(self._readers):
            last = self._last.get(topic)
            if last is None:  # its first reader is being opened, which does the same
                continue
            missed, newest = await self._missed(topic, b"%d-%d" % last)
            for happened in missed:
                self._pass_on(topic, happened)
            if topic in self._readers:
                self._last[topic] = _place(newest)

    def _hear(self, message: bytes) -> None:
        topic, *rest = message.split(b"|", 3)
        if not rest:
            # Longer than the stream lives: whether it does is the script's word.
            seconds = self._limits.keep_seconds + 2 * self._limits.announce_seconds
            self._present[topic.decode()] = self._clock.monotonic() + seconds
            return
        self._pass_on(topic.decode(), Happened(rest[0], rest[1], rest[2]))

    def _pass_on(self, topic: str, happened: Happened) -> None:
        readers = self._readers.get(topic)
        if readers:
            place = _place(happened.id)
            if place > self._last.get(topic, place):
                self._last[topic] = place
            for reader in tuple(readers):
                reader.hear(happened, place)

    def _key(self, topic: str) -> str:
        return f"{self._channel}:{{{topic}}}"


def _known(last_id: str | None) -> bytes:
    """As Redis takes it. An id that no stream can have, from a client that makes its own, is one that is not known."""
    id_ = (last_id or "").encode()
    return id_ if not id_ or max(_place(id_)) < 2**64 else b"0-0"


def _place(id_: bytes) -> _Place:
    ms, _, number = id_.partition(b"-")
    return int(ms), int(number or 0)
