"""The shared cache beside its peers and the floors, in one run.

    python -m tests.bench.cache            # about a minute; peers that are not installed are left out

Hits are measured one by one, peers in turns, so that a busy machine slows them all; p50 is what the bar is about.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio

from app.core.cache import Cache, cached, default_cache, join_fleet
from app.localhost.location import locate
from app.localhost.servers import Valkey, remove_data
from tests.bench import cache_races
from tests.bench.cache_stampede import (
    CALLERS,
    PROCESSES,
    PROFILE,
    SOURCE_SECONDS,
    STAMPEDES,
    Call,
    installed,
    place_of,
    stampede,
)
from tests.bench.report import Bar, ratio, spread, write_bars

ROUNDS = 1000
REPEATS = 3


async def source() -> dict[str, Any]:
    return PROFILE


async def side_by_side(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """p50 in µs of each, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        await call()
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            await call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


# --- hits ---


async def memory_hits(url: str) -> dict[str, float]:
    """A live entry in this process, while it belongs to a fleet."""
    plain = {"profile:1": PROFILE}

    async def floor(key: str) -> Any:
        return plain.get(key)

    @cached(ttl_seconds=300, key_prefix="bench")
    async def decorated(account_id: str) -> dict[str, Any]:
        return PROFILE

    calls: dict[str, Call] = {"floor: coroutine + dict": lambda: floor("profile:1")}
    async with join_fleet(default_cache, url, namespace="bench"):
        await default_cache.get_or_fetch("profile:1", source, ttl_seconds=300)
        calls["chorus get"] = lambda: default_cache.get("profile:1")
        calls["chorus get_cached_or_fetch"] = lambda: default_cache.get_or_fetch("profile:1", source, ttl_seconds=300)
        calls["chorus @cached"] = lambda: decorated("1")
        await _add_peers_in_memory(calls)
        return await side_by_side(calls, 10 * ROUNDS)


async def _add_peers_in_memory(calls: dict[str, Call]) -> None:
    if installed("cashews"):
        from cashews import Cache as Cashews

        cashews = Cashews()
        cashews.setup("mem://")
        await cashews.set("profile:1", PROFILE, expire=300)

        @cashews(ttl=300, key="bench:{account_id}")
        async def by_cashews(account_id: str) -> dict[str, Any]:
            return PROFILE

        calls["cashews memory get"] = lambda: cashews.get("profile:1")
        calls["cashews memory decorator"] = lambda: by_cashews("1")
    if installed("aiocache"):
        from aiocache import SimpleMemoryCache
        from aiocache import cached as aio_cached

        simple = SimpleMemoryCache()
        await simple.set("profile:1", PROFILE, ttl=300)

        @aio_cached(ttl=300)
        async def by_aiocache(account_id: str) -> dict[str, Any]:
            return PROFILE

        calls["aiocache memory get"] = lambda: simple.get("profile:1")
        calls["aiocache memory decorator"] = lambda: by_aiocache("1")
    if installed("fastapi_cache"):
        from fastapi_cache import FastAPICache
        from fastapi_cache.backends.inmemory import InMemoryBackend
        from fastapi_cache.decorator import cache as fastapi_cached

        FastAPICache.init(InMemoryBackend(), prefix="bench")

        @fastapi_cached(expire=300)
        async def by_fastapi_cache(account_id: str) -> dict[str, Any]:
            return PROFILE

        calls["fastapi-cache2 memory decorator"] = lambda: by_fastapi_cache("1")


async def redis_hits(url: str) -> dict[str, float]:
    """A value that is in Redis and not in memory, decoded."""
    async with AsyncExitStack() as stack:
        raw = redis.asyncio.Redis.from_url(url)
        stack.push_async_callback(raw.aclose)
        await raw.set("raw", orjson.dumps(PROFILE))
        cache = Cache()
        await stack.enter_async_context(join_fleet(cache, url, namespace="bench"))

        async def floor() -> Any:
            return orjson.loads(await raw.get("raw") or b"")

        async def chorus() -> Any:
            cache._present.drop("profile:1")
            return await cache.get_or_fetch("profile:1", source, ttl_seconds=300)

        calls: dict[str, Call] = {"floor: redis.asyncio GET + decode": floor, "chorus": chorus}
        if installed("cashews"):
            from cashews import Cache as Cashews

            cashews = Cashews()
            cashews.setup(url)
            await cashews.set("profile:1", PROFILE, expire=300)
            calls["cashews get"] = lambda: cashews.get("profile:1")
        if installed("aiocache"):
            from aiocache import RedisCache
            from aiocache.serializers import JsonSerializer

            aio = RedisCache(serializer=JsonSerializer(), **place_of(url))
            await aio.set("profile:1", PROFILE, ttl=300)
            calls["aiocache get"] = lambda: aio.get("profile:1")
        return await side_by_side(calls, ROUNDS)


# --- invalidation to another process ---


def _receiver(url: str, inbox: Any, ready: Any) -> None:
    """Reports when a plain subscriber, and a joined cache, hear of each number."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            raw = redis.asyncio.Redis.from_url(url, protocol=2)
            stack.push_async_callback(raw.aclose)
            pubsub = raw.pubsub()
            await pubsub.subscribe("floor")
            cache = Cache()
            shared = await stack.enter_async_context(join_fleet(cache, url, namespace="latency"))
            channel = shared.shards[0].channel
            drop = channel.on_drop

            def heard(target: Any) -> None:
                drop(target)
                inbox.put(("chorus", int(target.text.partition(":")[2]), time.perf_counter()))

            channel.on_drop = heard
            ready.set()
            async for message in pubsub.listen():
                if message["type"] == "message":
                    number = int(message["data"])
                    if number < 0:
                        return
                    inbox.put(("floor", number, time.perf_counter()))

    asyncio.run(run())


async def invalidation(url: str, count: int = 400) -> dict[str, tuple[float, float]]:
    """p50 and p99 in ms from the call to the other process' memory."""
    context = multiprocessing.get_context("spawn")
    inbox, ready = context.Queue(), context.Event()
    process = context.Process(target=_receiver, args=(url, inbox, ready))
    process.start()
    await asyncio.to_thread(ready.wait, 30)
    sent: dict[tuple[str, int], float] = {}
    async with redis.asyncio.Redis.from_url(url) as raw:
        cache = Cache()
        async with join_fleet(cache, url, namespace="latency"):
            for number in range(count):
                sent["floor", number] = time.perf_counter()
                await raw.publish("floor", number)
                await asyncio.sleep(0.003)
                sent["chorus", number] = time.perf_counter()
                await cache.invalidate(f"key:{number}")
                await asyncio.sleep(0.003)
        await raw.publish("floor", -1)
    times: dict[str, list[float]] = {"floor": [], "chorus": []}
    for _ in range(2 * count):
        name, number, heard = inbox.get(timeout=10)
        times[name].append((heard - sent[name, number]) * 1000)
    process.join()
    return {
        name: (statistics.median(values), sorted(values)[int(len(values) * 0.99)]) for name, values in times.items()
    }


# --- the table ---


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def hits(title: str, measure: Callable[[], Coroutine[Any, Any, dict[str, float]]]) -> dict[str, list[float]]:
    """Several rounds of p50 in µs; printed as medians beside the floor, the first of them."""
    rounds = [asyncio.run(measure()) for _ in range(REPEATS)]
    values = {name: [each[name] for each in rounds] for name in rounds[0]}
    floor = next(iter(values.values()))
    say(f"\n{title}, p50 in µs, median of {REPEATS} rounds")
    for name, each in values.items():
        say(f"  {name:36} {statistics.median(each):9.2f}  {ratio(each, floor):6.2f}x  {spread(each):5.0%} noise")
    return values


def stampedes(url: str) -> tuple[int, float]:
    """Chorus' source calls and caller p99 in ms."""
    say(f"\nstampede: {PROCESSES} processes x {CALLERS:,} callers, {SOURCE_SECONDS * 1000:.0f} ms source")
    figures = {}
    for name, (package, _, _) in STAMPEDES.items():
        if installed(package):
            calls, p99, failed = stampede(name, url)
            figures[name] = calls, p99
            say(f"  {name:36} {calls:6d} source calls, caller p99 {p99:7.1f} ms, {failed} failed")
    return figures["chorus"]


def invalidations(url: str) -> tuple[float, float]:
    """p50 and p99 as multiples of a bare PUBLISH in the same round."""
    rounds = [asyncio.run(invalidation(url)) for _ in range(REPEATS)]
    say(f"\ninvalidation to another process, p50 / p99 in ms, {REPEATS} rounds")
    for name in rounds[0]:
        say(f"  {name:36} " + "   ".join(f"{each[name][0]:6.2f} / {each[name][1]:6.2f}" for each in rounds))
    p50, p99 = (ratio([each["chorus"][n] for each in rounds], [each["floor"][n] for each in rounds]) for n in (0, 1))
    return p50, p99


def races(url: str) -> int:
    """How often Chorus was left with an old value, over all races."""
    say(f"\nold values left behind by a race, of {cache_races.TIMES}")
    ours = 0
    for name, (package, join) in cache_races.CONTENDERS.items():
        if installed(package):
            stale = asyncio.run(cache_races.stale_reads(join, url))
            ours = sum(stale.values()) if name == "chorus" else ours
            say(f"  {name:36} " + "   ".join(f"{race} {count}" for race, count in stale.items()))
    return ours


def _run(url: str) -> list[Bar]:
    memory = hits("memory hit", lambda: memory_hits(url))
    shared = hits("redis hit", lambda: redis_hits(url))
    calls, stampede_p99 = stampedes(url)
    p50, p99 = invalidations(url)
    stale = races(url)
    get, floor = memory["chorus get"], next(iter(memory.values()))
    return [
        Bar("cache, memory hit, times a coroutine and a dict", ratio(get, floor), 3, "x", at_most=True),
        Bar("cache, @cached hit", statistics.median(memory["chorus @cached"]), 3, " µs", at_most=True),
        Bar(
            "cache, Redis hit, times GET and decode", ratio(shared["chorus"], next(iter(shared.values()))), 1.6, "x",
            at_most=True,
        ),
        Bar("cache, source calls of a stampede", calls, 1, at_most=True),
        Bar("cache, caller p99 of a stampede", stampede_p99, 1000 * SOURCE_SECONDS + 75, " ms", at_most=True),
        Bar("cache, invalidation p50, times PUBLISH", p50, 1.5, "x", at_most=True),
        Bar("cache, invalidation p99, times PUBLISH", p99, 1.5, "x", at_most=True),
        Bar("cache, old values left behind by races", stale, 0, at_most=True),
    ]  # fmt: skip


def run() -> None:
    """Everything, printed, on a server of its own; the bars last, for `peers`."""
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    folder.chmod(0o711)
    server = Valkey(locate(folder))
    server.start()
    try:
        say(write_bars(_run(server.url)))
    finally:
        server.stop()
        remove_data(folder)


if __name__ == "__main__":
    run()
