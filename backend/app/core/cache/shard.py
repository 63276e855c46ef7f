"""One shard of the shared tier: its keys, its scripts, and what their answers mean. The protocol is in
`core/lua/cache_*.lua`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from app.core.cache.channel import LOCAL, Channel
from app.core.cache.codec import Codec
from app.core.cache.invalidation import Target, group_of
from app.core.cache.policy import MAX_KEPT_SECONDS, TIMINGS, CachePolicy, CacheTimings
from app.core.redis.door import Door, literal
from app.core.redis.script import Script

T = TypeVar("T")

LEASE, FILL, RENEW, INVALIDATE, BUMP, BEAT = (
    Script(f"cache_{name}") for name in ("lease", "fill", "renew", "invalidate", "bump", "beat")
)

GENERATION = slice(0, 16)
FRESH_UNTIL = slice(16, 32)
JSON = slice(32, None)

SCAN_PAGE = 1000


class Answer(IntEnum):
    VALUE = 1
    LOAD = 2
    WAIT = 3
    FENCED = 4


class Stored(NamedTuple):
    """A value in the shared tier; `fresh_until_us` is server time."""

    json: bytes
    fresh_until_us: int

    @classmethod
    def parse(cls, raw: bytes) -> Stored:
        return cls(raw[JSON], int(raw[FRESH_UNTIL]))


Place = tuple[str, Codec, bool]
"""Key, codec, is it a refresh? A key read as two types is two look-ups, and no reader joins a refresh."""


@dataclass(slots=True, eq=False)
class Flight:
    """A look-up under way, for all who ask meanwhile."""

    place: Place
    key: str
    group: str
    codec: Codec
    fetch: Callable[[], Awaitable[Any]]
    policy: CachePolicy
    seconds: float
    """That it may still wait for Redis, in all its calls together, round trips not counted."""
    shard: Shard | None = None
    """`None`: the cache belongs to this process alone."""
    channel: Channel = LOCAL
    flushes: int = 0
    """Of the channel when the flight began."""
    uncached: bool = False
    """The shared tier is away, or lacks an invalidation: straight to the source, and nothing is kept."""
    dirty: bool = False
    """What it brings may be older than an invalidation."""
    old: Stored | None = None
    """The shared tier's copy, past its time."""
    seen: int | None = None
    """A refresh: the end of freshness (server µs) of the copy in hand."""
    done: asyncio.Future[Any] | None = field(default=None, init=False)
    """Its outcome, once it is waited for."""


class Shard:
    """`prefix` carries the hash tag; `origin` is this process. `slots`: of the calls that share the door's client; more
    of them would not be faster, because one process keeps a handful of connections busy at most. Every call raises
    `Unavailable`."""

    def __init__(
        self, door: Door, *, prefix: str, origin: str, slots: asyncio.Semaphore | None = None,
        timings: CacheTimings = TIMINGS,
    ) -> None:  # fmt: skip
        self._door = door
        self._prefix = prefix
        self._keys = (prefix,)
        self._origin = origin
        self._slots = slots or asyncio.Semaphore(16)
        self._timings = timings
        self.topic = f"{prefix}inv"
        self.channel = Channel(origin)

    # --- a look-up's calls ---

    async def read(self, flight: Flight) -> Stored | None:
        """What is stored under the present generation of its group, fresh or not."""
        names = f"{self._prefix}d:{flight.codec.fingerprint}:{flight.key}", f"{self._prefix}g:{flight.group}"
        raw, record = await self._within_its_time(flight, self._door.ask, "MGET", *names)
        if raw is None or record is None or raw[GENERATION] != record[GENERATION]:
            return None
        return Stored(raw[JSON], int(raw[FRESH_UNTIL]))

    async def lease(self, flight: Flight, load_id: str) -> tuple[Answer, Stored | None]:
        """The value, or the right to load it. What claims to be fresh for longer than its TTL was stored while the
        server's clock was ahead, and is no answer; for a refresh only a fresher copy than the one `seen` is."""
        timings = self._timings
        args = (
            flight.key, flight.codec.fingerprint, flight.group, load_id, round(timings.lease * 1000),
            "" if flight.seen is None else f"{flight.seen:016d}",
            round((flight.policy.longest_ttl + timings.slack) * 1000), round((timings.fence + timings.slack) * 1000),
        )  # fmt: skip
        reply = await self._within_its_time(flight, self._door.run, LEASE, self._keys, args)
        answer = Answer(reply[0])
        return answer, Stored.parse(reply[1]) if answer is Answer.VALUE else None

    async def fill(self, flight: Flight, load_id: str, json: bytes, ttl_seconds: float) -> int | None:
        """Store it; until when it is fresh (server µs). `None`: refused, the lease was no longer ours."""
        fresh_ms = max(1, round(ttl_seconds * 1000))
        kept_ms = min(fresh_ms + round(flight.policy.stale * 1000), MAX_KEPT_SECONDS * 1000)
        args = (flight.key, flight.codec.fingerprint, flight.group, load_id, fresh_ms, kept_ms, json)
        fresh_until = await self._within_its_time(flight, self._door.run, FILL, self._keys, args)
        return None if fresh_until is None else int(fresh_until)

    async def _within_its_time(self, flight: Flight, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        # Waiting for a slot is not part of it: a queue of our own making says nothing about the server. If the server
        # hangs, the calls before us find it out.
        await self._slots.acquire()
        started = time.monotonic()
        try:
            return await call(*args, within_seconds=max(flight.seconds, self._timings.call), urgent=False)
        finally:
            flight.seconds -= max(0.0, time.monotonic() - started - self._door.distance_seconds)
            self._slots.release()

    # --- all others ---

    async def run(
        self, script: Script, args: Sequence[Any], *, within_seconds: float | None = None, urgent: bool = False
    ) -> Any:
        """A script on this shard's keys. `urgent`: neither queues behind other calls of this process, nor is given up
        because one of them was not answered."""
        seconds = max(self._timings.call, self._timings.invalidate if within_seconds is None else within_seconds)
        if urgent:
            return await self._door.run(script, self._keys, args, within_seconds=seconds, urgent=True)
        async with self._slots:
            return await self._door.run(script, self._keys, args, within_seconds=seconds, urgent=False)

    async def renew(self, key: str, load_id: str, seconds: float, **limits: Any) -> bool:
        """Keep a lease for so long from now; 0 gives it back. `limits`: see `run`."""
        return bool(await self.run(RENEW, (key, load_id, round(seconds * 1000)), **limits))

    async def invalidate(self, keys: Sequence[str], *, writer: str = "", fence_seconds: float = 0.0) -> None:
        """Forget keys, all of this shard. Raise (`fence_seconds` > 0) or lower `writer`'s fence in the same step."""
        pairs = [part for key in keys for part in (key, group_of(key))]
        _, sequence = await self.run(INVALIDATE, (self._origin, writer, round(fence_seconds * 1000), *pairs))
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))

    async def bump(self, target: Target) -> None:
        """Forget a group; or announce that a pattern's keys are gone."""
        sequence = await self.run(BUMP, (self._origin, target.kind.value, target.text))
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))

    async def sweep(self, target: Target) -> None:
        """Forget every key that matches a pattern. Leases go first: what a load stores after the first pass was leased
        during it, and what it stored before is found by the second. The announcement comes last, when no old
        value can be read into memory any more."""
        for family, parts in (("l", 1), ("d", 2)):
            async for keys in self.names(family, parts=parts):
                doomed = [key for key in keys if target.matches(key)]
                if doomed:
                    await self.invalidate(doomed)
        await self.bump(target)

    async def names(self, family: str, *, parts: int) -> AsyncIterator[set[str]]:
        """Pages of the keys that have a value (`d`, two parts before the key) or a lease (`l`, one)."""
        match = f"{literal(self._prefix)}{family}:*"
        async for page in self._door.scan(match, page=SCAN_PAGE, within_seconds=self._timings.scan_page):
            yield {name.decode().removeprefix(self._prefix).split(":", parts)[parts] for name in page}

    async def beat(self, *, within_seconds: float, urgent: bool = True) -> tuple[int, int]:
        """The sequence, and the server's time in µs."""
        sequence, now = await self.run(BEAT, (), within_seconds=within_seconds, urgent=urgent)
        return int(sequence), int(now)
