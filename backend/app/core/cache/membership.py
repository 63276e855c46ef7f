"""Connects a cache with the others of the fleet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.core.cache.keep import MIN_CALL_SECONDS, SHARED_SECONDS
from app.core.cache.link import RedisLink
from app.core.cache.listener import Listener
from app.core.cache.shard import Shard, Spend
from app.core.cache.shared import SharedTier
from app.core.cache.tiers import Cache
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.redis.client import is_cluster
from app.core.redis.door import Door, DoorTimings

JOIN_SECONDS = 1.0
"""How long a start waits for the channel. Later is fine too: until then reads go past memory."""
WARM_CONNECTIONS = 16
SLOTS = 16
SPARE_CONNECTIONS = 20
"""For what must not wait for a slot."""
RETRY_SECONDS = 0.5
"""After a call that failed or was not answered in time, one call this often finds out whether Redis is back."""
CLUSTER_SHARDS = 8
"""Each has its channel and its sequence. The same number in every version: it decides where a key lives."""


@asynccontextmanager
async def join_fleet(
    cache: Cache, url: str, *, namespace: str, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[SharedTier]:
    """`cache` shares what it holds with every cache joined under the same `namespace`, until the end of the block.

    A Redis that is away delays the start by a second and prevents nothing.
    """
    timings = DoorTimings(answer_seconds=SHARED_SECONDS + MIN_CALL_SECONDS, retry_seconds=RETRY_SECONDS)
    door = Door.to(url, timings=timings, max_connections=SLOTS + SPARE_CONNECTIONS, name="chorus-cache")
    origin, slots = secrets.token_hex(8), asyncio.Semaphore(SLOTS)
    shards = [
        Shard(RedisLink(door.of_one_shard(), slots, clock=clock), prefix=f"{namespace}:{{c{number}}}:", origin=origin)
        for number in range(CLUSTER_SHARDS if is_cluster(url) else 1)
    ]
    shared = SharedTier(shards, clock=clock)
    listeners = [Listener(shard, door.subscribe, clock=clock) for shard in shards]
    cache.join(shared)
    tasks = [asyncio.create_task(listener.run(), name="cache channel") for listener in listeners]
    tasks.append(asyncio.create_task(shared.recover(), name="cache recovery"))
    try:
        opening = [asyncio.create_task(listener.opened.wait()) for listener in listeners]
        _, late = await asyncio.wait(opening, timeout=JOIN_SECONDS)
        for waiting in late:
            waiting.cancel()
        if not late:
            await _warm_up(shards)
        yield shared
    finally:
        cache.leave()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await door.aclose()


async def _warm_up(shards: Sequence[Shard]) -> None:
    """Open the connections now: the first burst of reads has no time for it."""
    rounds = max(1, WARM_CONNECTIONS // len(shards))
    beats = [shard.beat(Spend(JOIN_SECONDS, urgent=True)) for shard in shards for _ in range(rounds)]
    await asyncio.gather(*beats, return_exceptions=True)
