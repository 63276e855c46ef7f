"""One shard of the shared tier: its keys, its scripts, and what their answers mean. The protocol is in
`core/lua/cache_*.lua`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from app.core.cache.channel import Channel
from app.core.cache.invalidation import Kind, Target, group_of
from app.core.cache.policy import MAX_KEPT_SECONDS, TIMINGS, CacheTimings
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


@dataclass(slots=True)
class Budget:
    """Seconds that one read may still wait for the server, in all its calls together, round trips not counted."""

    seconds: float
    urgent: bool = False
    """Neither queues behind other calls of this process, nor is given up because one of them was not answered."""


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

    async def read(self, key: str, fingerprint: str, budget: Budget) -> Stored | None:
        """What is stored under the present generation of its group, fresh or not."""
        group = key.partition(":")[0] if ":" in key else ""  # `group_of`, written out
        names = f"{self._prefix}d:{fingerprint}:{key}", f"{self._prefix}g:{group}"
        raw, record = await self._bounded(budget, self._door.ask, "MGET", *names)
        if raw is None or record is None or raw[GENERATION] != record[GENERATION]:
            return None
        return Stored(raw[JSON], int(raw[FRESH_UNTIL]))

    async def lease(
        self,
        key: str,
        fingerprint: str,
        load_id: str,
        lease_ms: int,
        budget: Budget,
        *,
        ttl_seconds: float = MAX_KEPT_SECONDS,
        seen: int | None = None,
    ) -> tuple[Answer, Stored | None]:
        """`ttl_seconds`: what claims to be fresh for longer was stored while the server's clock was ahead, and is no
        answer. `seen`: a copy fresh until then is in hand, and only a fresher one will do."""
        known = "" if seen is None else f"{seen:016d}"
        args = (
            key,
            fingerprint,
            key.partition(":")[0] if ":" in key else "",
            load_id,
            lease_ms,
            known,
            round((ttl_seconds + self._timings.slack) * 1000),
            round((self._timings.fence + self._timings.slack) * 1000),
        )
        reply = await self._bounded(budget, self._door.run, LEASE, self._keys, args)
        answer = Answer(reply[0])
        return answer, Stored.parse(reply[1]) if answer is Answer.VALUE else None

    async def fill(
        self, key: str, fingerprint: str, load_id: str, json: bytes, fresh_seconds: float, stale_seconds: float,
        budget: Budget,
    ) -> int | None:  # fmt: skip
        """Store it; until when it is fresh. `None`: refused, the lease was no longer ours."""
        fresh_ms = max(1, round(fresh_seconds * 1000))
        kept_ms = min(fresh_ms + round(stale_seconds * 1000), MAX_KEPT_SECONDS * 1000)
        group = key.partition(":")[0] if ":" in key else ""
        args = (key, fingerprint, group, load_id, fresh_ms, kept_ms, json)
        fresh_until = await self._bounded(budget, self._door.run, FILL, self._keys, args)
        return None if fresh_until is None else int(fresh_until)

    async def renew(self, key: str, load_id: str, lease_ms: int, budget: Budget) -> bool:
        """`lease_ms=0` gives it back."""
        return bool(await self.run(RENEW, (key, load_id, lease_ms), budget))

    async def invalidate(self, keys: Sequence[str], budget: Budget, *, writer: str = "", fence_ms: int = 0) -> int:
        """Forget keys, all of this shard; how many values there were. Raise (`fence_ms` > 0) or lower `writer`'s
        fence in the same step."""
        pairs = [part for key in keys for part in (key, group_of(key))]
        args = (self._origin, writer, fence_ms, *pairs)
        deleted, sequence = await self.run(INVALIDATE, args, budget)
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))
        return int(deleted)

    async def bump(self, target: Target, budget: Budget) -> None:
        """Forget a group; or announce that a pattern's keys are gone."""
        args = (self._origin, target.kind.value, target.text)
        sequence = await self.run(BUMP, args, budget)
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))

    async def sweep(self, target: Target, call_seconds: float) -> int:
        """Forget every key that matches a pattern. Leases go first: what a load stores after the first pass was leased
        during it, and what it stored before is found by the second. The announcement comes last, when no old
        value can be read into memory any more."""
        assert target.kind is Kind.PATTERN  # noqa: S101  it narrows the type
        deleted = 0
        for family, parts in (("l", 1), ("d", 2)):
            async for keys in self.names(family, parts=parts):
                doomed = [key for key in keys if target.matches(key)]
                if doomed:
                    deleted += await self.invalidate(doomed, Budget(call_seconds))
        await self.bump(target, Budget(call_seconds))
        return deleted

    async def names(self, family: str, *, parts: int) -> AsyncIterator[set[str]]:
        """Pages of the keys that have a value (`d`, two parts before the key) or a lease (`l`, one)."""
        match = f"{literal(self._prefix)}{family}:*"
        async for page in self._door.scan(match, page=SCAN_PAGE, within_seconds=self._timings.scan_page):
            yield {name.decode().removeprefix(self._prefix).split(":", parts)[parts] for name in page}

    async def beat(self, budget: Budget) -> tuple[int, int]:
        """The sequence, and the server's time in µs."""
        sequence, now = await self.run(BEAT, (), budget)
        return int(sequence), int(now)

    def run(self, script: Script, args: Sequence[Any], budget: Budget) -> Awaitable[Any]:
        """A script on this shard's keys."""
        return self._bounded(budget, self._door.run, script, self._keys, args)

    async def _bounded(self, budget: Budget, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        urgent, slots, door = budget.urgent, self._slots, self._door
        if not urgent:
            # Not part of the time limit: a queue of our own making says nothing about the server. If it hangs, those
            # before us find that out.
            await slots.acquire()
        started = time.monotonic()
        try:
            return await call(*args, within_seconds=max(budget.seconds, self._timings.call), urgent=urgent)
        finally:
            budget.seconds -= max(0.0, time.monotonic() - started - door.distance_seconds)
            if not urgent:
                slots.release()
