"""The races that leave an old value in a cache, played on Chorus and its peers: two replicas, one source, real Redis.

in-flight read   a reader has the old value from the source; an edit and its invalidation pass; the reader keeps it
two writers      both replicas edit at once, with readers beside them
cut channel      what tells a replica of edits is cut, and an edit follows at once
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import redis.asyncio

from app.core.cache import Cache, join_fleet

TIMES = 20
SETTLE_SECONDS = 0.1
"""After which an old value is stale rather than on its way out."""
SOURCE_SECONDS = 0.01


class Source:
    """What everybody reads. `gate`: whoever has read waits there, the old value in hand."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.gate: asyncio.Event | None = None
        self.read_by = asyncio.Event()

    async def __call__(self, key: str) -> int:
        value = self.values.get(key, 0)
        gate, self.gate = self.gate, None
        if gate is not None:
            self.read_by.set()
            await gate.wait()
        else:
            await asyncio.sleep(SOURCE_SECONDS)
        return value


class RacingReplica(Protocol):
    async def read(self, key: str) -> int: ...
    async def edit(self, key: str, value: int) -> None: ...


class Chorus:
    def __init__(self, cache: Cache, source: Source) -> None:
        self._cache, self._source = cache, source

    @classmethod
    async def join(cls, stack: AsyncExitStack, url: str, source: Source) -> RacingReplica:
        cache = Cache()
        await stack.enter_async_context(join_fleet(cache, url, namespace="races"))
        return cls(cache, source)

    async def read(self, key: str) -> int:
        value: int = await self._cache.get_or_fetch(key, self._source, key, ttl_seconds=300)
        return value

    async def edit(self, key: str, value: int) -> None:
        async with self._cache.write_fence(key):
            self._source.values[key] = value


class GetOrSet:
    """A library with get, set and delete, used as its documentation says: read, or load and set; edit, then delete."""

    def __init__(self, cache: Any, source: Source) -> None:
        self._cache, self._source = cache, source

    async def read(self, key: str) -> int:
        found = await self._cache.get(key)
        if found is not None:
            return int(found)
        value = await self._source(key)
        await self._cache.set(key, value, 300)
        return value

    async def edit(self, key: str, value: int) -> None:
        self._source.values[key] = value
        await self._cache.delete(key)


async def _cashews(stack: AsyncExitStack, url: str, source: Source) -> RacingReplica:
    from cashews import Cache as Cashews

    cashews = Cashews()
    cashews.setup(url, client_side=True)
    await cashews.init()
    stack.push_async_callback(cashews.close)
    return GetOrSet(cashews, source)


async def _aiocache(stack: AsyncExitStack, url: str, source: Source) -> RacingReplica:
    from urllib.parse import urlsplit

    from aiocache import RedisCache
    from aiocache.serializers import JsonSerializer

    parts = urlsplit(url)
    cache = RedisCache(
        serializer=JsonSerializer(), endpoint=parts.hostname, port=parts.port, password=parts.password, namespace="aio:"
    )
    stack.push_async_callback(cache.close)
    return GetOrSet(cache, source)


Join = Callable[[AsyncExitStack, str, Source], Awaitable[RacingReplica]]
CONTENDERS: dict[str, tuple[str, Join]] = {
    "chorus": ("app", Chorus.join),
    "cashews client_side": ("cashews", _cashews),
    "aiocache": ("aiocache", _aiocache),
}


async def in_flight(a: RacingReplica, b: RacingReplica, source: Source, key: str, _url: str) -> None:
    source.gate = gate = asyncio.Event()
    source.read_by.clear()
    late = asyncio.create_task(a.read(key))
    await source.read_by.wait()
    await b.edit(key, 1)
    gate.set()
    await late


async def two_writers(a: RacingReplica, b: RacingReplica, source: Source, key: str, _url: str) -> None:
    async def often(replica: RacingReplica) -> None:
        for _ in range(5):
            await replica.read(key)

    await asyncio.gather(
        often(a), often(b), *(replica.edit(key, n) for n in range(1, 6) for replica in (a, b)), often(a), often(b)
    )


async def cut_channel(a: RacingReplica, b: RacingReplica, source: Source, key: str, url: str) -> None:
    await asyncio.gather(a.read(key), b.read(key))
    async with redis.asyncio.Redis.from_url(url) as admin:
        await admin.client_kill_filter(_type="pubsub")
    await b.edit(key, 1)


RACES = {"in-flight read": in_flight, "two writers": two_writers, "cut channel": cut_channel}


async def stale_reads(join: Join, url: str) -> dict[str, int]:
    """Of each race, in how many of `TIMES` a replica still reads an old value when everything has settled."""
    stale = dict.fromkeys(RACES, 0)
    async with AsyncExitStack() as stack:
        source = Source()
        a, b = [await join(stack, url, source) for _ in range(2)]
        for name, race in RACES.items():
            for number in range(TIMES):
                key = f"race:{name.replace(' ', '-')}-{number}"
                await race(a, b, source, key, url)
                await asyncio.sleep(SETTLE_SECONDS)
                read = [await a.read(key), await b.read(key)]
                stale[name] += any(value != source.values[key] for value in read)
    return stale
