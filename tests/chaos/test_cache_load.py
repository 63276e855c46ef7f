"""The shared cache under load: hot keys, a saturated receiver, unknown ids, two replicas that edit at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.redis import connect
from app.domain.models import BotProfile

from .cache_kit import Replica, until


async def test_a_hot_key_invalidated_all_the_time_makes_nobody_spin(replicas, valkey_url):
    a, b = replicas
    ended = time.monotonic() + 1.0
    reads = 0

    async def invalidate() -> None:
        while time.monotonic() < ended:
            await a.cache.invalidate("user:1")
            await asyncio.sleep(0.003)

    async def reader(replica: Replica) -> None:
        nonlocal reads
        while time.monotonic() < ended:
            await replica.read()
            reads += 1

    async with connect(valkey_url, timeout_seconds=1) as admin:
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
    await until(lambda: b.cache.stats().received == 5000, seconds=10)
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


async def test_two_replicas_edit_fifty_profiles_at_once_and_nobody_stays_behind(replicas, store_url):
    """500 concurrent edits on each, with readers on both: one second later everybody has what the database has."""
    store = PostgresStore(store_url)
    try:
        accounts = [
            await store.create_account(
                name=f"n{n}", slug=f"s{n}", phone_number_id=f"p{n}", access_token="t", verify_token=f"v{n}"
            )
            for n in range(50)
        ]
        keys = {account.id: f"bot_profile:account_{account.id}" for account in accounts}
        editing = True
        database = asyncio.Semaphore(8)  # the store turns callers away who wait too long for a connection

        async def read(replica: Replica, account_id: str) -> Any:
            return await replica.cache.get_or_fetch(
                keys[account_id], store.get_profile, account_id, ttl_seconds=300, type=BotProfile
            )

        async def edit(replica: Replica, number: int) -> None:
            account_id = accounts[number % 50].id
            async with replica.cache.write_fence(keys[account_id]), database:
                await store.update_profile(account_id, {"hours": f"{id(replica)}-{number}"})

        async def reader(replica: Replica) -> None:
            while editing:
                for account in accounts:
                    await read(replica, account.id)
                await asyncio.sleep(0)

        readers = [asyncio.create_task(reader(replica)) for replica in replicas for _ in range(2)]
        await asyncio.gather(*(edit(replica, number) for replica in replicas for number in range(500)))
        editing = False
        await asyncio.gather(*readers)
        await asyncio.sleep(1)  # time itself: the bar of the issue
        stale = 0
        for account in accounts:
            truth = await store.get_profile(account.id)
            stale += sum([await read(replica, account.id) != truth for replica in replicas])
        assert stale == 0
    finally:
        await store.aclose()
