"""Makes a cache a member of the fleet: connections, and a channel for each shard that is kept open.

A `Listener` follows the steps of core/redis/listening.py:

2. Read the sequence: the same as before, memory stays warm; different, it is flushed. Now the channel is trusted.
3. A gap in the chain of messages flushes.
4. Once a second: read the sequence, then PING on the subscription. When its answer comes, everything published before
   has been received (on a cluster: a moment later), so the position must have reached that sequence; otherwise flush
   and start anew.
5. Any error, no answer to a PING within two beats: not trusted from that moment on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.core.cache.cache import Cache
from app.core.cache.policy import CacheTimings
from app.core.cache.shard import Shard
from app.core.cache.shared import SharedTier
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.redis.door import Door, DoorTimings
from app.core.redis.listening import Check, listen

logger = logging.getLogger("app.core.cache")

WARM_CONNECTIONS = 16
SLOTS = 16
SPARE_CONNECTIONS = 20
"""For what must not wait for a slot."""
CLUSTER_SHARDS = 8
"""Each has its channel and its sequence. The same number in every version: it decides where a key lives."""


@asynccontextmanager
async def join_fleet(
    cache: Cache, url: str, *, namespace: str, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[SharedTier]:
    """`cache` shares what it holds with every cache joined under the same `namespace`, until the end of the block.

    A Redis that is away delays the start by a second and prevents nothing.
    """
    timings = cache.timings
    limits = DoorTimings(answer_seconds=timings.call, round_trips=timings.round_trips, retry_seconds=timings.away)
    door = Door.to(url, timings=limits, max_connections=SLOTS + SPARE_CONNECTIONS, name="chorus-cache")
    origin, slots = secrets.token_hex(8), asyncio.Semaphore(SLOTS)
    prefixes = [f"{namespace}:{{c{number}}}:" for number in range(CLUSTER_SHARDS if door.is_cluster else 1)]
    shards = [
        Shard(door.of_one_shard(), prefix=prefix, origin=origin, slots=slots, timings=timings) for prefix in prefixes
    ]
    shared = SharedTier(shards, timings=timings, clock=clock)
    listeners = [Listener(shard, clock=clock, timings=timings) for shard in shards]
    cache.join(shared)
    tasks = [asyncio.create_task(listener.run(door), name="cache channel") for listener in listeners]
    tasks.append(asyncio.create_task(shared.recover(), name="cache recovery"))
    try:
        await _open(listeners, shards, timings.connect)
        yield shared
    finally:
        cache.leave()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await door.aclose()


async def _open(listeners: Sequence[Listener], shards: Sequence[Shard], seconds: float) -> None:
    """Wait for the channels; then open the connections: the first burst of reads has no time for it. Then measure the
    way without the opening."""
    try:
        async with asyncio.timeout(seconds):
            for listener in listeners:
                await listener.opened.wait()
    except TimeoutError:
        return
    rounds = max(1, WARM_CONNECTIONS // len(shards))
    for times in (rounds, 1, 1):
        beats = [shard.beat(within_seconds=seconds) for shard in shards for _ in range(times)]
        await asyncio.gather(*beats, return_exceptions=True)


class Listener:
    """Keeps one shard's channel open (core/redis/listening.py). `run` never ends by itself."""

    def __init__(self, shard: Shard, *, clock: Clock, timings: CacheTimings) -> None:
        self._timings = timings
        self._shard = shard
        self._clock = clock
        self.opened = asyncio.Event()
        """Trusted for the first time."""

    async def run(self, door: Door) -> None:
        channel = self._shard.channel
        await listen(
            door, self._shard.topic, channel.receive, on_open=self._open, check=self._check, on_lost=channel.lose,
            timings=self._timings.listening,
        )  # fmt: skip

    async def _open(self) -> None:
        channel = self._shard.channel
        before, sequence = channel.position, await self._beat()
        channel.open(sequence)
        self.opened.set()
        numbers = {"position": sequence, "warm": sequence == before, "gaps": channel.gaps}
        logger.info("cache channel trusted", extra=numbers | {"channel": self._shard.topic})

    async def _beat(self) -> int:
        asked = self._clock.monotonic()
        sequence, server_us = await self._shard.beat(within_seconds=self._timings.connect)
        # The server looked at its clock some time between question and answer.
        self._shard.channel.ahead_us = server_us - (asked + self._clock.monotonic()) / 2 * 1e6
        return sequence

    async def _check(self, ask: Check) -> None:
        channel = self._shard.channel
        reached, sequence = channel.reached, await self._beat()
        await ask()
        if channel.position is not None and channel.position < sequence:
            await asyncio.sleep(self._timings.grace)
        if not channel.check(reached, sequence):
            raise Unavailable("redis", "an invalidation was published and not received")
