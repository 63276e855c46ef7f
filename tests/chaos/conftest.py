"""Fixtures of the cache's failure tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from tests.support.cache_kit import CachedWorld, CacheReplica, until
from tests.support.proxy import proxied


@pytest.fixture
async def replicas(valkey_url: str, cache_timings: CacheTimings) -> AsyncIterator[tuple[CacheReplica, CacheReplica]]:
    async with AsyncExitStack() as stack:
        world = CachedWorld()
        made = []
        for _ in range(2):
            proxy = await stack.enter_async_context(proxied(valkey_url))
            cache = Cache(timings=cache_timings)
            shared = await stack.enter_async_context(join_fleet(cache, proxy.url, namespace="test"))
            made.append(CacheReplica(cache, shared, proxy, world))
        await until(lambda: all(replica.trusted for replica in made))
        yield made[0], made[1]
