"""The process's cache: what is kept, for how long, who loads, and what an invalidation guarantees."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.core.cache import Cache, CacheCollector, CacheTimings
from app.core.cache.invalidation import Kind, PendingInvalidations, Target
from app.core.errors import Unavailable
from app.domain.models import BotProfile
from tests.support.fakes import FakeClock, Source


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock) -> Cache:
    return Cache(clock=clock, uniform=lambda: 0.0)


async def test_a_value_is_loaded_once_and_then_kept_for_its_time(cache, clock):
    source = Source({"a": 1})
    for _ in range(3):
        assert await cache.get_or_fetch("k", source, ttl_seconds=300) == {"a": 1}
    assert source.loads == 1
    clock.advance(300)
    await cache.get_or_fetch("k", source, ttl_seconds=300)
    assert source.loads == 2


async def test_the_ttl_is_cut_by_up_to_a_tenth_never_lengthened(clock):
    cache = Cache(clock=clock, uniform=lambda: 1.0)
    source = Source()
    await cache.get_or_fetch("k", source, ttl_seconds=100)
    clock.advance(89.9)
    await cache.get_or_fetch("k", source, ttl_seconds=100)
    assert source.loads == 1
    clock.advance(0.2)
    await cache.get_or_fetch("k", source, ttl_seconds=100)
    assert source.loads == 2


async def test_none_is_a_value_kept_for_a_shorter_time(cache, clock):
    source = Source(None)
    for _ in range(3):
        assert await cache.get_or_fetch("k", source, ttl_seconds=300) is None
    assert source.loads == 1
    clock.advance(30)
    await cache.get_or_fetch("k", source, ttl_seconds=300, negative_ttl_seconds=200)
    clock.advance(199)
    await cache.get_or_fetch("k", source, ttl_seconds=300)
    assert source.loads == 2


async def test_things_that_do_not_exist_displace_nothing_that_does(clock):
    cache = Cache(clock=clock, max_absent=10)
    present, absent = Source(), Source(None)
    await cache.get_or_fetch("k", present, ttl_seconds=300)
    for n in range(100):
        await cache.get_or_fetch(f"unknown:{n}", absent, ttl_seconds=300)
    assert cache.stats().entries == 11
    await cache.get_or_fetch("k", present, ttl_seconds=300)
    assert present.loads == 1


async def test_a_thing_that_comes_into_being_is_no_longer_absent(cache, clock):
    source = Source(None)
    await cache.get_or_fetch("k", source, ttl_seconds=300)
    clock.advance(31)
    source.value = "here"
    assert await cache.get_or_fetch("k", source, ttl_seconds=300) == "here"
    assert await cache.get_or_fetch("k", source, ttl_seconds=300) == "here"
    assert cache.stats().entries == 1


async def test_many_callers_share_one_load(cache):
    source = Source()
    source.gate.clear()
    callers = [asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300)) for _ in range(100)]
    await source.started.wait()
    source.gate.set()
    assert await asyncio.gather(*callers) == ["value"] * 100
    assert source.loads == 1
    assert cache.stats().coalesced == 99


@pytest.mark.parametrize("cancelled", [0, 1, 5])
async def test_cancelling_one_caller_cancels_neither_the_load_nor_the_others(cache, cancelled):
    source = Source()
    source.gate.clear()
    callers = [asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300)) for _ in range(6)]
    await source.started.wait()
    callers[cancelled].cancel()
    await asyncio.sleep(0)
    source.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert results.count("value") == 5
    assert source.loads == 1


async def test_a_load_nobody_waits_for_any_more_still_fills_the_cache(cache):
    source = Source()
    source.gate.clear()
    caller = asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300))
    await source.started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    source.gate.set()
    assert await cache.get_or_fetch("k", source, ttl_seconds=300) == "value"
    assert source.loads == 1


async def test_a_failed_load_fails_all_who_wait_and_is_not_kept(cache):
    source = Source()
    source.error = ValueError("bug")
    source.gate.clear()
    callers = [asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300)) for _ in range(3)]
    await source.started.wait()
    source.gate.set()
    assert [str(e) for e in await asyncio.gather(*callers, return_exceptions=True)] == ["bug"] * 3
    source.error = None
    assert await cache.get_or_fetch("k", source, ttl_seconds=300) == "value"


async def test_a_failure_that_nobody_waits_for_any_more_is_no_noise(cache):
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    source = Source()
    source.error = Unavailable("database")
    source.gate.clear()
    caller = asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300))
    await source.started.wait()
    caller.cancel()
    await asyncio.wait([caller])
    source.gate.set()
    while cache.stats().load_failures < 1:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert noise == []


async def test_a_load_that_hangs_is_cut(clock):
    cache = Cache(clock=clock, timings=CacheTimings(load=0.02))
    source = Source()
    source.gate.clear()
    with pytest.raises(Unavailable, match="took over"):
        await cache.get_or_fetch("k", source, ttl_seconds=300)
    source.gate.set()
    assert await cache.get_or_fetch("k", source, ttl_seconds=300) == "value"


async def test_after_an_invalidation_the_value_is_loaded_anew(cache):
    source = Source("old")
    await cache.get_or_fetch("user:1", source, ttl_seconds=300)
    source.value = "new"
    assert await cache.invalidate("user:1") == 1
    assert await cache.get_or_fetch("user:1", source, ttl_seconds=300) == "new"


async def test_a_load_overtaken_by_an_invalidation_is_not_kept_and_not_joined(cache):
    """A reader that began before an edit must not bring the old value back after it."""
    source = Source("old")
    source.gate.clear()
    early = asyncio.create_task(cache.get_or_fetch("user:1", source, ttl_seconds=300))
    await source.started.wait()
    source.value = "new"
    await cache.invalidate("user:*")
    late = asyncio.create_task(cache.get_or_fetch("user:1", source, ttl_seconds=300))
    await asyncio.sleep(0)
    source.gate.set()
    assert (await early, await late) == ("old", "new")
    assert await cache.get_or_fetch("user:1", source, ttl_seconds=300) == "new"
    assert source.loads == 2
    assert cache.stats().refused_fills == 1


async def test_an_invalidation_reaches_every_load_of_the_key_whatever_its_type(cache):
    plain, typed = Source({"account_id": "old"}), Source(BotProfile("old"))
    loads = []
    for source, kind in ((plain, None), (typed, BotProfile)):
        source.gate.clear()
        loads.append(asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300, type=kind)))
        await source.started.wait()
    await cache.invalidate("k")
    plain.gate.set()
    typed.gate.set()
    await asyncio.gather(*loads)
    assert cache.stats().refused_fills == 2
    assert cache.stats().entries == 0


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("user:1", {"user:2", "user:1:posts", "other", "a[b", "a*"}),
        ("user:*", {"other", "a[b", "a*"}),
        ("user:?", {"user:1:posts", "other", "a[b", "a*"}),
        ("*:posts", {"user:1", "user:2", "other", "a[b", "a*"}),
        ("user:[12]", {"user:1:posts", "other", "a[b", "a*"}),
        ("a[b", {"user:1", "user:2", "user:1:posts", "other", "a*"}),
        ("nothing", {"user:1", "user:2", "user:1:posts", "other", "a[b", "a*"}),
        ("*", set()),
    ],
)
async def test_a_pattern_is_a_key_a_group_or_a_glob(cache, pattern, left):
    keys = ["user:1", "user:2", "user:1:posts", "other", "a[b", "a*"]
    for key in keys:
        await cache.get_or_fetch(key, Source(key), ttl_seconds=300)
    assert await cache.invalidate(pattern) == len(keys) - len(left)
    source = Source()
    for key in keys:
        await cache.get_or_fetch(key, source, ttl_seconds=300)
    assert source.loads == len(keys) - len(left)


class TestFailSafe:
    async def test_an_expired_copy_stands_in_while_the_source_is_down(self, cache, clock, caplog):
        source = Source("copy")

        async def read():
            return await cache.get_or_fetch("k", source, ttl_seconds=100, stale_for_seconds=50)

        await read()
        clock.advance(100)
        source.error = Unavailable("database")
        assert await read() == "copy"
        assert await read() == "copy"
        assert source.loads == 2, "the failing source is not asked again at once"
        clock.advance(3)
        await read()
        assert source.loads == 3
        assert "Cache STALE: k" in caplog.text
        clock.advance(50)
        with pytest.raises(Unavailable):
            await read()

    async def test_not_for_a_bug_and_not_unless_asked_for(self, cache, clock):
        source = Source()
        await cache.get_or_fetch("a", source, ttl_seconds=100, stale_for_seconds=50)
        await cache.get_or_fetch("b", source, ttl_seconds=100)
        clock.advance(100)
        source.error = KeyError()
        with pytest.raises(KeyError):
            await cache.get_or_fetch("a", source, ttl_seconds=100, stale_for_seconds=50)
        source.error = Unavailable("database")
        with pytest.raises(Unavailable):
            await cache.get_or_fetch("b", source, ttl_seconds=100)

    async def test_never_after_an_invalidation(self, cache, clock):
        source = Source("old")

        async def read():
            return await cache.get_or_fetch("k", source, ttl_seconds=100, stale_for_seconds=1000)

        await read()
        clock.advance(100)
        source.error = Unavailable("database")
        source.gate.clear()
        source.started.clear()
        under_way = asyncio.create_task(read())
        await source.started.wait()
        await cache.invalidate("k")
        source.gate.set()
        with pytest.raises(Unavailable):
            await under_way
        with pytest.raises(Unavailable):
            await read()


class TestBounds:
    async def test_the_least_recently_used_entries_go_first(self, clock):
        cache = Cache(clock=clock, max_entries=3)
        source = Source()
        for key in ("a", "b", "c", "a", "d"):
            await cache.get_or_fetch(key, source, ttl_seconds=300)
        assert source.loads == 4
        await cache.get_or_fetch("a", source, ttl_seconds=300)
        assert source.loads == 4
        await cache.get_or_fetch("b", source, ttl_seconds=300)
        assert source.loads == 5
        assert cache.stats().evictions == 2

    @pytest.mark.parametrize(("max_entries", "loads"), [(0, 4), (1, 3), (2, 2)])
    async def test_however_few_entries_there_may_be(self, clock, max_entries, loads):
        cache = Cache(clock=clock, max_entries=max_entries)
        source = Source()
        for key in ("a", "a", "b", "a"):
            await cache.get_or_fetch(key, source, ttl_seconds=300)
        assert (source.loads, cache.stats().entries) == (loads, max_entries)

    async def test_what_is_new_finds_room_among_what_is_used_all_the_time(self, clock):
        cache = Cache(clock=clock, max_entries=3)
        source = Source()
        for key in ("a", "b", "c", "a", "b", "c", "new", "new"):
            await cache.get_or_fetch(key, source, ttl_seconds=300)
        assert source.loads == 4

    async def test_bytes_are_bounded_too_and_what_is_larger_than_all_is_not_kept(self, clock):
        cache = Cache(clock=clock, max_bytes=10_000)
        for n in range(100):
            await cache.get_or_fetch(f"k{n}", Source("x" * 1000), ttl_seconds=300)
        assert cache.stats().bytes <= 10_000
        assert cache.stats().entries == 7
        await cache.get_or_fetch("huge", Source("x" * 20_000), ttl_seconds=300)
        assert cache.stats().entries == 7

    async def test_cleanup_drops_what_nobody_can_use_any_more(self, cache, clock):
        for n, stale_for in enumerate([0, 0, 100]):
            await cache.get_or_fetch(f"k{n}", Source(), ttl_seconds=100, stale_for_seconds=stale_for)
        assert cache.cleanup() == 0
        clock.advance(150)
        assert cache.cleanup() == 2
        assert cache.stats().entries == 1
        clock.advance(100)
        assert cache.cleanup() == 1
        assert cache.stats().bytes == 0

    @pytest.mark.parametrize("ttl", [0, -1])
    async def test_a_ttl_that_keeps_nothing_is_a_mistake(self, cache, ttl):
        with pytest.raises(ValueError, match="ttl_seconds"):
            await cache.get_or_fetch("k", Source(), ttl_seconds=ttl)


async def test_lines_at_debug_are_the_ones_operators_know(cache, caplog):
    caplog.set_level(logging.DEBUG, logger="app.core.cache")
    for _ in range(2):
        await cache.get_or_fetch("bot_profile:account_123", Source(), ttl_seconds=300)
    assert [record.getMessage() for record in caplog.records] == [
        "Cache MISS: bot_profile:account_123",
        "Cache SET: bot_profile:account_123 (TTL=300s)",
        "Cache HIT: bot_profile:account_123",
    ]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


async def test_a_slow_source_answered_from_a_copy_is_no_failed_load(cache, clock):
    source = Source()

    async def read():
        await cache.get_or_fetch("k", source, ttl_seconds=100, stale_for_seconds=1000, soft_timeout_seconds=0.01)

    await read()
    clock.advance(100)
    source.gate.clear()
    await read()
    assert (cache.stats().stale, cache.stats().load_failures) == (1, 0)
    registry = CollectorRegistry()
    registry.register(CacheCollector(cache.stats))
    lines = set(generate_latest(registry).decode().splitlines())
    assert lines >= {"chorus_cache_stale_total 1.0", 'chorus_cache_loads_total{outcome="failed"} 0.0'}
    source.gate.set()


async def test_metrics_add_up(cache, clock):
    source = Source()
    for _ in range(3):
        await cache.get_or_fetch("k", source, ttl_seconds=300)
    await cache.invalidate("k")
    registry = CollectorRegistry()
    registry.register(CacheCollector(cache.stats))
    lines = set(generate_latest(registry).decode().splitlines())
    assert lines >= {
        'chorus_cache_requests_total{result="hit"} 2.0',
        'chorus_cache_requests_total{result="miss"} 1.0',
        'chorus_cache_loads_total{outcome="ok"} 1.0',
        "chorus_cache_invalidations_total 1.0",
        "chorus_cache_entries 0.0",
    }


def test_a_debt_that_was_made_again_is_not_settled_with_the_older_one(clock):
    pending = PendingInvalidations(clock)
    targets = [Target(Kind.KEY, "user:1"), Target(Kind.GROUP, "profile")]
    (first, _), (second, _) = pending.add(targets), pending.add(targets)
    pending.settle(first, targets)
    assert pending.covers("user:1")
    assert pending.covers("profile:1")
    pending.settle(second, targets)
    assert not pending.covers("user:1")
    assert len(pending) == 0
