"""Connects a cache with the others of the fleet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.core.cache.cache import Cache
from app.core.cache.listener import Listener
from app.core.cache.shard import Budget, Shard
from app.core.cache.shared import SharedTier
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.redis.client import is_cluster
from app.core.redis.door import Door, DoorTimings

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
    limits = DoorTimings(
        answer_seconds=timings.call, round_trips=timings.round_trips, far_seconds=timings.far,
        retry_seconds=timings.away,
    )  # fmt: skip
    door = Door.to(url, timings=limits, max_connections=SLOTS + SPARE_CONNECTIONS, name="chorus-cache")
    origin, slots = secrets.token_hex(8), asyncio.Semaphore(SLOTS)
    prefixes = [f"{namespace}:{{c{number}}}:" for number in range(CLUSTER_SHARDS if is_cluster(url) else 1)]
    shards = [
        Shard(door.of_one_shard(), prefix=prefix, origin=origin, slots=slots, timings=timings) for prefix in prefixes
    ]
    shared = SharedTier(shards, timings=timings, clock=clock)
    listeners = [Listener(shard, door.subscribe, clock=clock, timings=timings) for shard in shards]
    cache.join(shared)
    tasks = [asyncio.create_task(listener.run(), name="cache channel") for listener in listeners]
    tasks.append(asyncio.create_task(shared.recover(), name="cache recovery"))
    try:
        opening = [asyncio.create_task(listener.opened.wait()) for listener in listeners]
        _, late = await asyncio.wait(opening, timeout=timings.join)
        for waiting in late:
            waiting.cancel()
        if not late:
            await _warm_up(shards, timings.join)
        yield shared
    finally:
        cache.leave()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await door.aclose()


async def _warm_up(shards: Sequence[Shard], seconds: float) -> None:
    """Open the connections now: the first burst of reads has no time for it. Then measure the way without the
    opening."""
    rounds = max(1, WARM_CONNECTIONS // len(shards))
    for times in (rounds, 1, 1):
        beats = [shard.beat(Budget(seconds, urgent=True)) for shard in shards for _ in range(times)]
        await asyncio.gather(*beats, return_exceptions=True)
