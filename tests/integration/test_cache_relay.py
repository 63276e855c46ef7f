"""Changes that no replica made, or that a replica did not live to announce, reach every cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.errors import Unavailable
from app.core.fleet.lease import Lease
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.domain.models import Account, BotProfile
from app.services import cache_relay
from app.services.account_service import _profile_key
from app.services.cache_relay import CacheRelay


@dataclass
class Fleet:
    caches: list[Cache]
    relays: list[CacheRelay]
    store: PostgresStore
    sql: asyncpg.Connection
    redis: Redis
    account: Account

    async def hours(self, cache: Cache) -> str:
        profile = await cache.get_or_fetch(
            _profile_key(self.account.id), self.store.get_profile, self.account.id, ttl_seconds=300, type=BotProfile
        )
        assert profile is not None
        return profile.hours

    async def until_all_read(self, hours: str, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            while {await self.hours(cache) for cache in self.caches} != {hours}:
                await asyncio.sleep(0.01)

    async def change_by_hand(self, hours: str) -> None:
        await self.sql.execute("update bot_profiles set hours = $2 where account_id = $1::uuid", self.account.id, hours)

    async def remembered(self) -> int:
        return await self.sql.fetchval("select count(*) from cache_invalidations")


@pytest.fixture
async def fleet(valkey_url: str, store_url: str, cache_timings: CacheTimings) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        redis = connect(valkey_url)
        stack.push_async_callback(redis.aclose)
        sql = await asyncpg.connect(store_url)
        stack.push_async_callback(sql.close)
        store = PostgresStore(store_url)
        stack.push_async_callback(store.aclose)
        caches, relays = [], []
        for number in range(2):
            cache = Cache(timings=cache_timings)
            await stack.enter_async_context(join_fleet(cache, valkey_url, namespace="test"))
            own_store = PostgresStore(store_url)
            stack.push_async_callback(own_store.aclose)
            lease = Lease(Door(redis), key="test:relay", holder=f"replica-{number}", seconds=6)
            caches.append(cache)
            relays.append(CacheRelay(own_store, cache.invalidate_everywhere, lease))
        account = await store.create_account(
            name="n", slug="s", phone_number_id="p", access_token="t", verify_token="v"
        )
        yield Fleet(caches, relays, store, sql, redis, account)


@pytest.fixture
async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    tasks = [asyncio.create_task(relay.run()) for relay in fleet.relays]
    yield fleet
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_change_by_hand_is_seen_by_every_replica(running, within):
    await running.until_all_read("")
    for hours in ("9-17", "8-12"):
        await running.change_by_hand(hours)
        await running.until_all_read(hours, seconds=within(1))


async def test_an_edit_whose_replica_died_after_the_commit_is_seen_all_the_same(running, within):
    await running.until_all_read("")
    await running.store.update_profile(running.account.id, {"hours": "9-17"})
    await running.until_all_read("9-17", seconds=within(1))


async def test_what_happened_while_nobody_listened_is_made_up_for(fleet, within):
    await fleet.until_all_read("")
    await fleet.change_by_hand("9-17")
    assert {await fleet.hours(cache) for cache in fleet.caches} == {""}
    while await fleet.relays[1].drain():
        pass
    await fleet.until_all_read("9-17", seconds=within(1))
    assert await fleet.remembered() == 0


async def test_it_stays_remembered_until_redis_has_taken_it(fleet, valkey):
    await fleet.until_all_read("")
    await fleet.change_by_hand("9-17")
    remembered = await fleet.remembered()
    valkey.pause()
    try:
        with pytest.raises(Unavailable):
            await fleet.relays[0].drain()
        assert await fleet.remembered() == remembered > 0
    finally:
        valkey.resume()
    await fleet.until_all_read("9-17")


async def test_pages_that_follow_are_left_to_the_replica_that_has_the_lease_by_now(fleet, monkeypatch):
    monkeypatch.setattr(cache_relay, "PAGE", 1)
    for hours in ("9-17", "8-12", "7-11"):
        await fleet.change_by_hand(hours)
    remembered = await fleet.remembered()
    assert remembered > 1
    lost = asyncio.Event()

    async def invalidate(*_patterns: str) -> None:
        await fleet.redis.set("test:relay", "another", px=6000)
        lost.set()

    relay = CacheRelay(fleet.store, invalidate, Lease(Door(fleet.redis), key="test:relay", holder="slow", seconds=6))
    task = asyncio.create_task(relay.run())
    async with asyncio.timeout(5):
        await lost.wait()
    await asyncio.sleep(0.2)  # time itself: nothing is done meanwhile
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await fleet.remembered() == remembered - 1


async def test_one_replica_does_it_and_another_takes_over(fleet, monkeypatch):
    monkeypatch.setattr(cache_relay, "LOOK_SECONDS", 0.05)
    first = asyncio.create_task(fleet.relays[0].run())
    async with asyncio.timeout(5):
        while await fleet.redis.get("test:relay") != b"replica-0":
            await asyncio.sleep(0.01)
    second = asyncio.create_task(fleet.relays[1].run())
    await asyncio.sleep(0.2)  # time itself: nothing comes meanwhile
    assert await fleet.redis.get("test:relay") == b"replica-0"
    first.cancel()
    async with asyncio.timeout(5):
        while await fleet.redis.get("test:relay") != b"replica-1":
            await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
