"""A Redis at some distance shares the cache as one nearby does: the limits of a read follow the measured way."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from tests.support.fakes import Source
from tests.support.patience import Within
from tests.support.proxy import Proxy, proxied

KEYS = [f"user:{number}" for number in range(40)]


async def far_replica(stack: AsyncExitStack, url: str, seconds: float) -> tuple[Cache, Proxy]:
    way = await stack.enter_async_context(proxied(url))
    way.delay_seconds = seconds
    cache = Cache(timings=CacheTimings(connect=5.0))  # a busy machine needs more to measure the way
    await stack.enter_async_context(join_fleet(cache, way.url, namespace="test"))
    return cache, way


async def shared_hits(url: str, seconds: float, *, at_once: bool) -> int:
    """Of the keys that one replica has loaded, how many another one finds in Redis."""
    source = Source()
    async with AsyncExitStack() as stack:
        first, second = [(await far_replica(stack, url, seconds))[0] for _ in range(2)]
        for cache in (first, second):
            reads = [cache.get_or_fetch(key, source, ttl_seconds=300) for key in KEYS]
            if at_once:
                await asyncio.gather(*reads)
            else:
                for read in reads:
                    await read
        await first.invalidate("user:*")
        return second.stats().shared_hits


@pytest.mark.parametrize("milliseconds", [12, 30])
@pytest.mark.parametrize("at_once", [False, True])
async def test_what_one_replica_loaded_the_other_finds_in_a_redis_far_away(
    valkey_url: str, milliseconds: int, *, at_once: bool
) -> None:
    """The best of eight: on a busy machine an answer may really be late; then reads go past Redis for half a second.
    Without the longer limits none finds enough."""
    tries = [await shared_hits(valkey_url, milliseconds / 1000, at_once=at_once)]
    while max(tries) < 0.95 * len(KEYS) and len(tries) < 8:
        tries.append(await shared_hits(valkey_url, milliseconds / 1000, at_once=at_once))
    assert max(tries) >= 0.95 * len(KEYS), tries


async def test_a_redis_that_slows_down_far_beyond_its_distance_costs_no_more_than_the_bound(
    valkey_url: str, within: Within
) -> None:
    """The way is 1 ms; then every answer takes 400 ms."""
    async with AsyncExitStack() as stack:
        cache, way = await far_replica(stack, valkey_url, 0.001)
        await cache.get_or_fetch("user:0", Source(), ttl_seconds=300)
        way.delay_seconds = 0.4
        slowest, before = 0.0, cache.stats().bypassed
        for key in KEYS[1:]:
            started = time.monotonic()
            await cache.get_or_fetch(key, Source(), ttl_seconds=300)
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < within(0.1, below=0.4)
        assert cache.stats().bypassed - before == len(KEYS) - 1
