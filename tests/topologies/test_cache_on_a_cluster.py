"""The shared cache on a real cluster of three primaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.core.cache import Cache, CacheTimings, inspect_key, join_fleet, survey
from app.core.cache.policy import TIMINGS
from app.core.cache.shared import SharedTier
from tests.support.patience import Within
from tests.support.redis_topologies import Cluster

pytestmark = pytest.mark.cache_timings(grace=5.0, connect=10.0)
"""These tests are about where keys live, not about how soon a silent channel, or a message on its way from another
node, is given up."""


@pytest.fixture
async def replicas(valkey_url: str, cache_timings: CacheTimings) -> AsyncIterator[list[tuple[Cache, SharedTier]]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            cache = Cache(timings=cache_timings)
            made.append((cache, await stack.enter_async_context(join_fleet(cache, valkey_url, namespace="test"))))
        async with asyncio.timeout(10):
            while not all(cache.stats().trusted for cache, _ in made):
                await asyncio.sleep(0.01)
        yield made


class Source:
    def __init__(self) -> None:
        self.version = 1
        self.loads = 0

    async def __call__(self, key: str) -> Any:
        self.loads += 1
        await asyncio.sleep(0.005)
        return {"key": key, "version": self.version}


KEYS = [f"user:{number}" for number in range(60)]


async def read_all(cache: Cache, source: Source) -> set[int]:
    values = await asyncio.gather(*(cache.get_or_fetch(key, source, key, ttl_seconds=300) for key in KEYS))
    return {value["version"] for value in values}


async def until_read(caches: list[Cache], source: Source, version: int) -> None:
    async with asyncio.timeout(10):
        while {frozenset(await read_all(cache, source)) for cache in caches} != {frozenset({version})}:
            await asyncio.sleep(0.01)


async def test_keys_are_spread_loaded_once_and_shared(replicas):
    (a, shared), (b, _) = replicas
    source = Source()
    await asyncio.gather(*(read_all(cache, source) for cache in (a, b)))
    assert source.loads == len(KEYS)
    assert len({shared.of(key) for key in KEYS}) == len(shared.shards) == 8
    view = await survey(shared)
    assert view.values == {"user": len(KEYS)}
    assert (await inspect_key(shared, KEYS[0])).copies[0].fresh_seconds > 200


async def test_keys_groups_and_patterns_are_forgotten_everywhere(replicas):
    (a, _), (b, _) = replicas
    source = Source()
    for patterns in (KEYS, ["user:*"], ["us*"], ["*"]):
        await until_read([a, b], source, source.version)
        source.version += 1
        await a.invalidate_everywhere(*patterns)
        await until_read([a, b], source, source.version)
    assert (a.stats().gaps, b.stats().gaps) == (0, 0)


async def test_a_fence_keeps_every_shard_uncached_until_the_commit(replicas):
    (a, _), (b, _) = replicas
    source = Source()
    await until_read([a, b], source, 1)
    async with a.write_fence(*KEYS):
        await asyncio.sleep(0.05)
        assert await read_all(b, source) == {1}
        source.version = 2
    await until_read([a, b], source, 2)


@pytest.mark.cache_timings(call=TIMINGS.call)  # how soon a node that is silent is noticed
async def test_a_frozen_node_bypasses_only_its_shards_and_comes_back(replicas, cluster: Cluster, within: Within):
    (a, shared), (b, _) = replicas
    source = Source()
    await until_read([a, b], source, 1)
    node = cluster.nodes[0]
    node.pause()
    try:
        async with asyncio.timeout(within(6, below=14)):  # after 15 s the others take the cluster for broken
            while all(shard.channel.trusted for shard in shared.shards):
                await asyncio.sleep(0.01)
        assert await read_all(a, source) == {1}
        assert any(shard.channel.trusted for shard in shared.shards)
    finally:
        node.resume()
    async with asyncio.timeout(10):
        while not (a.stats().trusted and b.stats().trusted):
            await asyncio.sleep(0.01)
    source.version = 2
    await a.invalidate("user:*")
    await until_read([a, b], source, 2)
