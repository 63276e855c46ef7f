"""The shared cache under load: hot keys, a saturated receiver, unknown ids."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from app.core.cache import Cache, join_fleet
from app.core.redis.client import connect
from app.domain.models import BotProfile
from tests.support.cache_kit import CacheReplica, until
from tests.support.fakes import Source


async def test_a_hot_key_invalidated_all_the_time_makes_nobody_spin(replicas, valkey_url):
    a, b = replicas
    ended = time.monotonic() + 1.0
    reads = 0

    async def invalidate() -> None:
        while time.monotonic() < ended:
            await a.cache.invalidate("user:1")
            await asyncio.sleep(0.003)

    async def reader(replica: CacheReplica) -> None:
        nonlocal reads
        while time.monotonic() < ended:
            await replica.read()
            reads += 1

    async with connect(valkey_url) as admin:
        await admin.config_resetstat()
        await asyncio.gather(invalidate(), *(reader(replica) for replica in (a, b) for _ in range(10)))
        commands = (await admin.info("stats"))["total_commands_processed"]
    assert reads > 50
    assert a.world.loads <= reads
    assert commands < 20_000


async def test_a_saturated_receiver_falls_behind_and_loses_nothing(replicas):
    a, b = replicas
    keys = [f"user:{number}" for number in range(5000)]
    await asyncio.gather(*(a.cache.invalidate(*keys[at : at + 100]) for at in range(0, len(keys), 100)))
    await until(lambda: b.cache.stats().received >= 5000, seconds=10)
    assert (b.cache.stats().gaps, b.trusted) == (0, True)


async def test_ids_that_do_not_exist_displace_nothing(replicas):
    a, _ = replicas
    await a.read()
    for at in range(0, 3000, 500):
        await asyncio.gather(*(a.read(f"unknown:{number}") for number in range(at, at + 500)))
    hits = a.cache.stats().hits
    assert await a.read() == "old"
    assert a.cache.stats().hits == hits + 1
    assert a.cache.stats().entries <= 2001


async def test_what_one_replica_loaded_another_reads_frozen_and_typed(replicas):
    a, b = replicas

    async def source() -> BotProfile:
        return BotProfile("1", custom_fields={"a": [1]})

    for replica in (a, b):
        profile = await replica.cache.get_or_fetch("p", source, ttl_seconds=300, type=BotProfile)
        assert profile == BotProfile("1", custom_fields={"a": [1]})
        with pytest.raises(TypeError, match="frozen"):
            profile.custom_fields["a"].append(2)
    assert b.cache.stats().shared_hits == 1


async def test_a_load_under_way_when_the_cache_leaves_opens_no_connection(valkey_url, cache_timings):
    source, cache = Source("late"), Cache(timings=cache_timings)
    source.gate.clear()
    async with join_fleet(cache, valkey_url, namespace="test"):
        load = asyncio.create_task(cache.get_or_fetch("k", source, ttl_seconds=300))
        await source.started.wait()
    source.gate.set()
    assert await load == "late"
    with redis.Redis.from_url(valkey_url) as admin:
        await until(lambda: not any(each["name"].startswith("chorus-cache") for each in admin.client_list()))
