"""What a read costs in calls of our own: the shared cache is only worth having while it is short to walk through."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import app
from app.core.cache import Cache, CacheTimings, join_fleet

ROOT = str(Path(app.__file__).parent)


async def calls_of(read: Callable[[], Awaitable[Any]]) -> list[tuple[str, str]]:
    """Our functions that were called, in order, each with its file; a coroutine that goes on is no new call."""
    calls: list[tuple[str, str]] = []
    frames: dict[int, FrameType] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ROOT) and id(frame) not in frames:
            frames[id(frame)] = frame  # kept, so that no other gets its id
            calls.append((code.co_filename, code.co_name))

    sys.setprofile(note)
    try:
        await read()
    finally:
        sys.setprofile(None)
    return calls


async def test_a_hit_in_redis_and_a_cold_read_are_short_ways(valkey_url: str, cache_timings: CacheTimings) -> None:
    async def load() -> dict[str, int]:
        return {"a": 1}

    first, second = (Cache(timings=cache_timings) for _ in range(2))
    async with join_fleet(first, valkey_url, namespace="test"), join_fleet(second, valkey_url, namespace="test"):
        for cache, key in ((first, "user:0"), (second, "user:00")):  # what is only done once
            await cache.get_or_fetch(key, load, ttl_seconds=300)
        cold = await calls_of(lambda: first.get_or_fetch("user:1", load, ttl_seconds=300))
        hit = await calls_of(lambda: second.get_or_fetch("user:1", load, ttl_seconds=300))
        assert (first.stats().loads, second.stats().shared_hits) == (2, 1)
    assert len(cold) <= 50, cold
    assert len(hit) <= 20, hit
    assert len({file for file, _ in hit}) <= 6, hit
