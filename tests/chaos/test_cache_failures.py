"""The shared cache while Redis, the network, loaders and writers fail: real servers, faults in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.cache import Cache, join_fleet
from app.core.cache import shared as shared_module
from app.core.cache.keep import Spend
from app.core.cache.shared import SharedTier
from app.core.errors import Unavailable
from app.core.redis import connect
from app.domain.models import BotProfile
from proxy import Proxy, proxied

SOURCE_SECONDS = 0.02
EXTRA_SECONDS = 0.05
BACK_SECONDS = 2.0


@dataclass
class Replica:
    cache: Cache
    shared: SharedTier
    proxy: Proxy
    world: World

    async def read(self, key: str = "user:1") -> Any:
        return await self.cache.get_or_fetch(key, self.world.source, key, ttl_seconds=300)

    async def edit(self, value: Any, key: str = "user:1") -> None:
        async with self.cache.write_fence(key):
            self.world.values[key] = value

    @property
    def trusted(self) -> bool:
        return self.cache.stats().trusted


class World:
    """What every replica's source reads."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"user:1": "old"}
        self.loads = 0

    async def source(self, key: str) -> Any:
        self.loads += 1
        value = self.values.get(key)
        await asyncio.sleep(SOURCE_SECONDS)
        return value


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with AsyncExitStack() as stack:
        world = World()
        made = []
        for _ in range(2):
            proxy = await stack.enter_async_context(proxied(valkey_url))
            cache = Cache()
            shared = await stack.enter_async_context(join_fleet(cache, proxy.url, namespace="test"))
            made.append(Replica(cache, shared, proxy, world))
        for replica in made:
            assert replica.trusted
        yield made[0], made[1]


async def until(condition: Callable[[], bool], seconds: float = BACK_SECONDS) -> float:
    """How long it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def worst_read(replica: Replica, reads: int = 20) -> float:
    """The longest of several reads, each of a key that nobody has."""
    longest = 0.0
    for number in range(reads):
        started = time.monotonic()
        await replica.read(f"cold:{started}:{number}")
        longest = max(longest, time.monotonic() - started)
    return longest


async def test_a_killed_subscriber_that_missed_nothing_stays_warm(replicas, valkey_url):
    a, _ = replicas
    await a.read()
    async with connect(valkey_url, timeout_seconds=1) as admin:
        await admin.client_kill_filter(_type="pubsub")
    await until(lambda: not a.trusted)
    await until(lambda: a.trusted)
    hits = a.cache.stats().hits
    assert await a.read() == "old"
    assert (a.cache.stats().hits, a.cache.stats().gaps) == (hits + 1, 0)


async def test_a_killed_subscriber_that_missed_an_edit_forgets_everything(replicas):
    a, b = replicas
    assert await a.read() == "old"
    a.proxy.refusing = True
    a.proxy.cut()
    await until(lambda: not a.trusted)
    await b.edit("new")
    assert await a.read() == "new", "untrusted memory is bypassed"
    a.proxy.refusing = False
    await until(lambda: a.trusted)
    assert a.cache.stats().gaps == 1
    assert await a.read() == "new"


async def test_a_half_open_link_is_noticed_and_costs_reads_little(replicas):
    a, b = replicas
    await a.read()
    a.proxy.freeze()
    assert await worst_read(a) < SOURCE_SECONDS + EXTRA_SECONDS
    await b.edit("new")
    await until(lambda: not a.trusted, seconds=4)
    assert await a.read() == "new"
    a.proxy.thaw()
    await until(lambda: a.trusted)
    assert await a.read() == "new"


async def test_a_slow_redis_costs_reads_little(replicas):
    a, _ = replicas
    a.proxy.delay_seconds = 0.3
    assert await worst_read(a, reads=40) < SOURCE_SECONDS + EXTRA_SECONDS


async def test_a_frozen_redis_costs_reads_little_and_rejoins(replicas, valkey):
    a, b = replicas
    await a.read()
    valkey.pause()
    try:
        assert await worst_read(a, reads=40) < SOURCE_SECONDS + EXTRA_SECONDS
        await until(lambda: not a.trusted and not b.trusted, seconds=4)
        loads = a.world.loads
        assert await asyncio.gather(*(a.read() for _ in range(100))) == ["old"] * 100
        assert a.world.loads == loads + 1, "single flight without Redis"
        await a.edit("new")
        assert await a.read() == "new", "whoever wrote it reads it"
        assert a.cache.stats().owed == 1
    finally:
        valkey.resume()
    await until(lambda: a.trusted and b.trusted and not a.cache.stats().owed)
    await until(lambda: a.cache.stats().entries == 0, seconds=1)
    assert (await a.read(), await b.read()) == ("new", "new")


async def test_redis_dies_and_comes_back_with_its_old_values(replicas, valkey):
    a, b = replicas
    await a.read()
    await b.read()
    await asyncio.sleep(1.1)  # time itself: appendfsync everysec
    valkey.kill()
    await until(lambda: not a.trusted and not b.trusted)
    assert await worst_read(a, reads=40) < SOURCE_SECONDS + EXTRA_SECONDS
    await b.edit("new")
    assert b.cache.stats().owed == 1
    await asyncio.to_thread(valkey.start)
    await until(lambda: a.trusted and b.trusted and not b.cache.stats().owed)
    await until(lambda: a.shared.shards[0].channel.position == b.shared.shards[0].channel.position)
    assert (await a.read(), await b.read()) == ("new", "new")


async def test_lost_data_empties_memory(replicas, valkey_url):
    a, b = replicas
    await a.read()
    async with connect(valkey_url, timeout_seconds=1) as admin:
        await admin.flushall()
    await until(lambda: a.cache.stats().gaps == 1 and b.cache.stats().gaps == 1)
    await until(lambda: a.trusted)
    assert a.cache.stats().entries == 0


async def test_a_loader_that_died_costs_the_others_its_lease_once(replicas):
    a, b = replicas
    await a.shared.shards[0].lease("user:1", "json", "0123456789abcdef", 500, Spend(1))
    started = time.monotonic()
    assert await asyncio.gather(*(b.read() for _ in range(50))) == ["old"] * 50
    assert 0.3 < time.monotonic() - started < 0.8
    assert b.world.loads == 1


async def test_a_load_longer_than_its_lease_stays_the_only_one(replicas, monkeypatch):
    monkeypatch.setattr(shared_module, "LEASE_SECONDS", 0.15)
    a, b = replicas
    loads = 0

    async def slow() -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.5)  # time itself: the outage lasts
        return "slow"

    reads = [replica.cache.get_or_fetch("k", slow, ttl_seconds=300) for replica in (a, b)]
    assert await asyncio.gather(*reads) == ["slow", "slow"]
    assert loads == 1


async def test_a_lease_that_ran_out_refuses_the_late_value(replicas, monkeypatch):
    monkeypatch.setattr(shared_module, "LEASE_SECONDS", 0.03)
    monkeypatch.setattr(SharedTier, "_keep_lease", lambda *_: asyncio.sleep(0))
    a, b = replicas
    gate = asyncio.Event()

    async def stuck() -> str:
        await gate.wait()
        return "late"

    late = asyncio.create_task(a.cache.get_or_fetch("k", stuck, ttl_seconds=300))
    await until(lambda: a.cache.stats().loads == 1)
    await asyncio.sleep(0.05)
    assert await b.read("k") is None
    gate.set()
    assert await late == "late"
    assert a.cache.stats().refused_fills == 1
    assert await a.read("k") is None


async def test_a_failing_source_gives_its_lease_back(replicas):
    a, b = replicas

    async def failing() -> None:
        raise Unavailable("database")

    with pytest.raises(Unavailable):
        await a.cache.get_or_fetch("user:1", failing, ttl_seconds=300)
    started = time.monotonic()
    assert await b.read() == "old"
    assert time.monotonic() - started < 0.5


async def test_cancelling_the_first_caller_while_redis_answers_cancels_no_other(replicas):
    a, _ = replicas
    a.proxy.delay_seconds = 0.01
    callers = [asyncio.create_task(a.read()) for _ in range(5)]
    await asyncio.sleep(0.005)
    callers[0].cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["old"] * 4
    assert a.world.loads == 1


async def test_one_replica_renews_a_value_before_its_time_is_over(replicas):
    a, b = replicas
    loads = 0

    async def source() -> int:
        nonlocal loads
        loads += 1
        return loads

    async def read(replica: Replica) -> int:
        return await replica.cache.get_or_fetch("k", source, ttl_seconds=1.0)

    assert (await read(a), await read(b)) == (1, 1)
    seen: set[int] = set()
    slowest = 0.0
    async with asyncio.timeout(3):
        while 2 not in seen:
            for replica in replicas:
                started = time.monotonic()
                seen.add(await read(replica))
                slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.002)
    assert loads == 2
    assert a.cache.stats().refreshes + b.cache.stats().refreshes >= 1
    assert a.cache.stats().misses + b.cache.stats().misses == 1, "nobody ever waited for the source again"


async def test_a_stale_copy_in_redis_stands_in_for_a_failing_source(replicas):
    a, b = replicas
    error: list[Exception] = []

    async def source() -> str:
        if error:
            raise error[0]
        return "copy"

    async def read(replica: Replica) -> str:
        return await replica.cache.get_or_fetch("k", source, ttl_seconds=0.05, stale_for_seconds=60)

    assert await read(a) == "copy"
    error.append(Unavailable("database"))
    await asyncio.sleep(0.06)
    assert (await read(a), await read(b)) == ("copy", "copy")
    await a.cache.invalidate("k")
    await until(lambda: b.cache.stats().received >= 1)
    for replica in replicas:
        with pytest.raises(Unavailable):
            await read(replica)


async def test_a_slow_source_is_not_waited_for_while_there_is_a_stale_copy(replicas):
    a, _ = replicas
    seconds = 0.0
    loads = 0

    async def source() -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(seconds)
        return loads

    async def read() -> int:
        return await a.cache.get_or_fetch(
            "k", source, ttl_seconds=0.05, stale_for_seconds=60, soft_timeout_seconds=0.02
        )

    assert await read() == 1
    await asyncio.sleep(0.06)
    seconds = 0.2
    started = time.monotonic()
    assert await read() == 1
    assert time.monotonic() - started < 0.15
    await until(lambda: a.cache.stats().loads == 2)


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
