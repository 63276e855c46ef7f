"""The tier that all replicas share: which shard, who loads, and invalidations that are carried out for certain."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from zlib import crc32

from app.core.cache.channel import Channel
from app.core.cache.invalidation import Kind, PendingInvalidations, Target
from app.core.cache.policy import TIMINGS, CacheTimings
from app.core.cache.shard import Answer, Flight, Shard
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.redis.door import NotAsked

logger = logging.getLogger("app.core.cache")

GIVING_BACK_AT_ONCE = 2
KEYS_OF_A_SCRIPT = 500

Source = Callable[[Flight], Awaitable[tuple[Any, bytes]]]
"""Loads a flight's value: as others would read it, and its JSON."""


class Brought(NamedTuple):
    """A look-up's value; `size` of its JSON in bytes; `fresh_until_us`: server time, `None`: not to be kept."""

    value: Any
    size: int
    fresh_until_us: int | None


class SharedTier:
    """`shards`: one on a single server. Every replica must use the same number."""

    def __init__(
        self, shards: Sequence[Shard], *, timings: CacheTimings = TIMINGS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.shards = tuple(shards)
        self.pending = PendingInvalidations(clock)
        self._timings = timings
        self._monotonic = clock.monotonic
        self._sleep = clock.sleep
        self._failed = asyncio.Event()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._few = asyncio.Semaphore(GIVING_BACK_AT_ONCE)
        for shard in self.shards:
            # Until the server has told its time, ours must do.
            shard.channel.ahead_us = (clock.now().timestamp() - clock.monotonic()) * 1e6
            shard.channel.on_gap = self._recall

    def of(self, key: str) -> Shard:
        """The shard of `key`; the same in every replica and every version."""
        if len(self.shards) == 1:
            return self.shards[0]
        return self.shards[crc32(key.encode()) % len(self.shards)]

    # --- reading ---

    async def obtain(self, flight: Flight, shard: Shard, source: Source) -> Brought | None:
        """What another replica has loaded, or what the source says: step 4 of a read (docs/cache.md). `None`, for a
        refresh only: another replica sees to it."""
        load_id, timings = secrets.token_hex(8), self._timings
        wait, patience = timings.first_wait, self._monotonic() + timings.load
        while not flight.uncached:
            answer = Answer.FENCED
            try:
                answer, stored = await shard.lease(flight, load_id)
                if stored is not None:
                    return Brought(flight.codec.load(stored.json), len(stored.json), stored.fresh_until_us)
            except ValueError:  # `_read_shared` has logged it; the value stays in Redis until its TTL ends
                answer = Answer.FENCED
            except Unavailable as exc:
                if not isinstance(exc, NotAsked):
                    self._give_back(shard, flight.key, load_id)
            if answer is Answer.LOAD:
                return await self._load(flight, shard, load_id, source)
            if flight.seen is not None:
                return None
            if answer is Answer.FENCED or self._monotonic() > patience:
                flight.uncached = True
            else:
                await self._sleep(wait * (0.5 + random.random() / 2))
                wait, flight.seconds = min(1.5 * wait, timings.max_wait), timings.poll
        value, json = await source(flight)
        return Brought(value, len(json), None)

    async def _load(self, flight: Flight, shard: Shard, load_id: str, source: Source) -> Brought:
        renewing = asyncio.create_task(self._keep_lease(shard, flight.key, load_id))
        try:
            value, json = await source(flight)
        except BaseException:
            self._give_back(shard, flight.key, load_id)
            raise
        finally:
            renewing.cancel()
        ttl = flight.policy.ttl_of(value) * (1 - self._timings.ttl_jitter * random.random())
        fresh_until_us = None
        try:
            fresh_until_us = await shard.fill(flight, load_id, json, ttl)
        except Unavailable:
            self._give_back(shard, flight.key, load_id)
        return Brought(value, len(json), fresh_until_us)

    def _give_back(self, shard: Shard, key: str, load_id: str) -> None:
        """The lease of a load that does not fill; also if it is not known whether it was granted: the answer may be all
        that was late. Otherwise the others would wait until it ends."""

        async def give_back() -> None:
            lease = self._timings.lease
            with suppress(Unavailable, TimeoutError):  # it ends by itself
                async with asyncio.timeout(lease), self._few:
                    await shard.renew(key, load_id, 0, within_seconds=lease / 2, urgent=True)

        task = asyncio.create_task(give_back(), name=f"cache lease {key}")
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _keep_lease(self, shard: Shard, key: str, load_id: str) -> None:
        held, lease = True, self._timings.lease
        while held:
            await self._sleep(lease / 3)
            with suppress(Unavailable):  # a later one may still be in time
                held = await shard.renew(key, load_id, lease, within_seconds=lease / 3)

    # --- invalidating ---

    async def fence(self, keys: Sequence[str], writer: str) -> None:
        """From now until `invalidate(…, writer=…)`, these keys are not cached. Raises `Unavailable`."""
        for shard, part in self._by_shard(keys):
            await shard.invalidate(part, writer=writer, fence_seconds=self._timings.fence)

    async def invalidate(self, targets: Sequence[Target], *, writer: str = "") -> None:
        """Forget everywhere. Raises `Unavailable`: then it is owed, and carried out as soon as Redis is back. The same
        if it is cancelled."""
        serial, pending = self.pending.add(targets)
        try:
            await self._carry_out(pending, writer)
        except BaseException:
            self._failed.set()
            raise
        self.pending.settle(serial, pending)

    async def recover(self) -> None:
        """Carry out what is owed, for ever."""
        while True:
            await self._failed.wait()
            await self._sleep(self._timings.retry * (0.5 + random.random() / 2))
            try:
                await self.settle_owed()
            except Exception:
                logger.exception("owed invalidations cannot be carried out")
                self._failed.set()

    async def settle_owed(self) -> None:
        """One attempt."""
        self._failed.clear()
        serial, targets = self.pending.targets()
        try:
            await self._carry_out(targets)
        except Unavailable:
            self._failed.set()
            return
        self.pending.settle(serial, targets)
        if targets:
            logger.info("owed invalidations carried out", extra={"count": len(targets)})

    async def _carry_out(self, targets: Sequence[Target], writer: str = "") -> None:
        for shard, part in self._by_shard([target.text for target in targets if target.kind is Kind.KEY]):
            await shard.invalidate(part, writer=writer)
        for target in targets:
            for shard in self.shards:
                if target.kind is Kind.GROUP:
                    await shard.bump(target)
                elif target.kind is Kind.PATTERN:
                    await shard.sweep(target)

    def _by_shard(self, keys: Sequence[str]) -> Iterator[tuple[Shard, list[str]]]:
        """As many together as one script takes."""
        parts: defaultdict[Shard, list[str]] = defaultdict(list)
        for key in keys:
            parts[self.of(key)].append(key)
        for shard, part in parts.items():
            for at in range(0, len(part), KEYS_OF_A_SCRIPT):
                yield shard, part[at : at + KEYS_OF_A_SCRIPT]

    def _recall(self, channel: Channel) -> None:
        self.pending.recall(lambda target: target.kind is not Kind.KEY or self.of(target.text).channel is channel)
        self._failed.set()
