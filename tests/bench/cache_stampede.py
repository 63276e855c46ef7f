"""A thousand callers in each of several processes ask for one cold key at once; and what the cache benches share."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from app.core.cache import Cache, join_fleet

PROFILE = {"account_id": "1", "business_name": "Maison Levain", "knowledge_base": "x" * 1900, "custom_fields": {"a": 1}}
"""About 2 KB, as a bot profile."""
SOURCE_SECONDS = 0.05
PROCESSES = 4
CALLERS = 1000

Call = Callable[[], Awaitable[Any]]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def place_of(url: str) -> dict[str, Any]:
    """As aiocache wants it."""
    parts = urlsplit(url)
    return {"endpoint": parts.hostname, "port": parts.port, "password": parts.password}


async def _chorus_caller(stack: AsyncExitStack, url: str, slow: Call) -> Call:
    cache = Cache()
    await stack.enter_async_context(join_fleet(cache, url, namespace="stampede"))
    return lambda: cache.get_or_fetch("cold", slow, ttl_seconds=300)


async def _cashews_caller(stack: AsyncExitStack, url: str, slow: Call, *, lock: bool) -> Call:
    from cashews import Cache as Cashews

    cashews = Cashews()
    cashews.setup(url)
    await cashews.ping()
    decorated: Call = cashews(ttl=300, key=f"cold:{lock}", lock=lock)(slow)
    return decorated


async def _aiocache_caller(stack: AsyncExitStack, url: str, slow: Call) -> Call:
    from aiocache import RedisCache, cached_stampede
    from aiocache.serializers import JsonSerializer

    decorated: Call = cached_stampede(
        lease=2,
        ttl=300,
        key_builder=lambda *_a, **_k: "cold",
        cache=RedisCache,
        serializer=JsonSerializer(),
        pool_max_size=2 * CALLERS,
        **place_of(url),
    )(slow)
    return decorated


STAMPEDES: dict[str, tuple[str, Callable[..., Awaitable[Call]], dict[str, Any]]] = {
    "chorus": ("app", _chorus_caller, {}),
    "cashews": ("cashews", _cashews_caller, {"lock": False}),
    "cashews lock=True": ("cashews", _cashews_caller, {"lock": True}),
    "aiocache cached_stampede": ("aiocache", _aiocache_caller, {}),
}


def _stampede_process(name: str, url: str, barrier: Any, results: Any) -> None:
    async def run() -> None:
        calls = 0

        async def slow() -> dict[str, Any]:
            nonlocal calls
            calls += 1
            await asyncio.sleep(SOURCE_SECONDS)
            return PROFILE

        async def timed(call: Call) -> float:
            started = time.perf_counter()
            await call()
            return time.perf_counter() - started

        async with AsyncExitStack() as stack:
            _, make, options = STAMPEDES[name]
            call = await make(stack, url, slow, **options)
            await asyncio.to_thread(barrier.wait)
            seconds = await asyncio.gather(*(timed(call) for _ in range(CALLERS)), return_exceptions=True)
            results.put((calls, [value for value in seconds if isinstance(value, float)]))

    asyncio.run(run())


def stampede(name: str, url: str) -> tuple[int, float, int]:
    """Source calls, caller p99 in ms, callers that failed."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_stampede_process, args=(name, url, barrier, results)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    seconds = sorted(value for _, values in answers for value in values)
    p99 = seconds[int(len(seconds) * 0.99)] * 1000
    return sum(calls for calls, _ in answers), p99, PROCESSES * CALLERS - len(seconds)
