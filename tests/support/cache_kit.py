"""Two replicas of the cache, each behind a proxy that can be made to fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.core.cache import Cache
from app.core.cache.shared import SharedTier
from tests.support.proxy import Proxy

SOURCE_SECONDS = 0.02
EXTRA_SECONDS = 0.05
"""What docs/cache.md promises."""
BACK_SECONDS = 10.0
"""Two on a machine that has time for it (docs/cache.md)."""


@dataclass
class CacheReplica:
    cache: Cache
    shared: SharedTier
    proxy: Proxy
    world: CachedWorld

    async def read(self, key: str = "user:1") -> Any:
        return await self.cache.get_or_fetch(key, self.world.source, key, ttl_seconds=300)

    async def edit(self, value: Any, key: str = "user:1") -> None:
        async with self.cache.write_fence(key):
            self.world.values[key] = value

    @property
    def trusted(self) -> bool:
        return self.cache.stats().trusted

    @property
    def deaf(self) -> bool:
        """And knows it: no shard's channel is trusted."""
        return not any(shard.channel.trusted for shard in self.shared.shards)


class CachedWorld:
    """What every replica's source reads."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"user:1": "old"}
        self.loads = 0

    async def source(self, key: str) -> Any:
        self.loads += 1
        value = self.values.get(key)
        await asyncio.sleep(SOURCE_SECONDS)
        return value


async def until(condition: Callable[[], bool], seconds: float = BACK_SECONDS) -> float:
    """How long it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - started
