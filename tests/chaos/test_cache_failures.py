"""The shared cache while Redis, the network, loaders and writers fail: real servers, faults in between."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from app.core.cache.codec import PLAIN
from app.core.cache.invalidation import EVERYTHING
from app.core.cache.policy import TIMINGS, policy_of
from app.core.cache.shard import Answer, Flight, Shard
from app.core.cache.shared import SharedTier
from app.core.errors import Unavailable
from app.core.redis.door import NotAsked
from tests.support.cache_kit import BACK_SECONDS, EXTRA_SECONDS, SOURCE_SECONDS, CacheReplica, until
from tests.support.cold_reads import worst_cold_read
from tests.support.fakes import Source
from tests.support.redis_topologies import servers_of

ASKS_AS_THE_PRODUCT = pytest.mark.cache_timings(call=TIMINGS.call)
"""About how long a call waits for Redis."""


def look_up(key: str) -> Flight:
    """Of a process that reads it."""
    return Flight((key, PLAIN, False), key, "user", PLAIN, Source(), policy_of(300), seconds=1)


async def test_a_killed_subscriber_that_missed_nothing_stays_warm(replicas, valkey_url):
    a, _ = replicas
    await a.read()
    for server in servers_of(valkey_url):
        with server:
            server.client_kill_filter(_type="pubsub")
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
    await until(lambda: a.deaf)
    await b.edit("new")
    assert await a.read() == "new", "untrusted memory is bypassed"
    a.proxy.refusing = False
    await until(lambda: a.trusted)
    assert a.cache.stats().gaps == 1
    assert await a.read() == "new"


@ASKS_AS_THE_PRODUCT
async def test_a_half_open_link_is_noticed_and_costs_reads_little(replicas, within):
    a, b = replicas
    await a.read()
    a.proxy.freeze()
    assert await worst_cold_read(a.read) < SOURCE_SECONDS + within(EXTRA_SECONDS)
    await b.edit("new")
    await until(lambda: a.deaf, seconds=within(4))
    assert await a.read() == "new"
    a.proxy.thaw()
    await until(lambda: a.trusted)
    assert await a.read() == "new"


@ASKS_AS_THE_PRODUCT
async def test_a_slow_redis_costs_reads_little(replicas, within):
    a, _ = replicas
    a.proxy.delay_seconds = 0.3
    assert await worst_cold_read(a.read, reads=40) < SOURCE_SECONDS + within(EXTRA_SECONDS)


@ASKS_AS_THE_PRODUCT
async def test_a_frozen_redis_costs_reads_little_and_rejoins(replicas, valkey, within):
    a, b = replicas
    await a.read()
    valkey.pause()
    try:
        assert await worst_cold_read(a.read, reads=40) < SOURCE_SECONDS + within(EXTRA_SECONDS)
        await until(lambda: a.deaf and b.deaf, seconds=within(4))
        loads = a.world.loads
        assert await asyncio.gather(*(a.read() for _ in range(100))) == ["old"] * 100
        assert a.world.loads == loads + 1, "single flight without Redis"
        await a.edit("new")
        assert await a.read() == "new", "whoever wrote it reads it"
        assert a.cache.stats().owed == 1
    finally:
        valkey.resume()
    await until(lambda: a.trusted and b.trusted and not a.cache.stats().owed)
    await until(lambda: a.cache.stats().entries == 0, seconds=within(1))
    assert (await a.read(), await b.read()) == ("new", "new")


@ASKS_AS_THE_PRODUCT
async def test_redis_dies_and_comes_back_with_its_old_values(replicas, valkey, within):
    a, b = replicas
    await a.read()
    await b.read()
    valkey.kill()
    await until(lambda: a.deaf and b.deaf)
    assert await worst_cold_read(a.read, reads=40) < SOURCE_SECONDS + within(EXTRA_SECONDS)
    await b.edit("new")
    assert b.cache.stats().owed == 1
    await asyncio.to_thread(valkey.start)
    await until(lambda: a.trusted and b.trusted and not b.cache.stats().owed)
    async with asyncio.timeout(BACK_SECONDS):  # the word of an edit may come after the answer to its writer
        while (await a.read(), await b.read()) != ("new", "new"):
            await asyncio.sleep(0.005)


async def test_lost_data_empties_memory(replicas, valkey_url):
    a, _ = replicas
    await a.read()
    for server in servers_of(valkey_url):
        with server:
            server.flushall()
    await until(lambda: all(replica.cache.stats().gaps >= len(replica.shared.shards) for replica in replicas))
    await until(lambda: a.trusted)
    assert a.cache.stats().entries == 0


@pytest.mark.cache_timings(lease=0.5)
async def test_a_loader_that_died_costs_the_others_its_lease_once(replicas, within):
    a, b = replicas
    started = time.monotonic()
    await a.shared.of("user:1").lease(look_up("user:1"), "0123456789abcdef")
    assert await asyncio.gather(*(b.read() for _ in range(50))) == ["old"] * 50
    assert 0.3 < time.monotonic() - started < within(0.8)
    assert b.world.loads == 1


async def test_a_load_longer_than_its_lease_stays_the_only_one(replicas):
    """The best of three: a machine that stands still for longer than a renewal may be late loses the lease."""
    a, b = replicas
    lease = a.cache.timings.lease

    async def loads_of(key: str) -> int:
        loads = 0

        async def slow() -> str:
            nonlocal loads
            loads += 1
            await asyncio.sleep(1.25 * lease)  # time itself
            return "slow"

        reads = [replica.cache.get_or_fetch(key, slow, ttl_seconds=300) for replica in (a, b)]
        assert await asyncio.gather(*reads) == ["slow", "slow"]
        return loads

    tries = [await loads_of("k:0")]
    while tries[-1] > 1 and len(tries) < 3:
        tries.append(await loads_of(f"k:{len(tries)}"))
    assert tries[-1] == 1


@pytest.mark.cache_timings(lease=3.0)
async def test_a_renewal_that_was_refused_is_not_the_last(replicas):
    a, b = replicas
    loads = 0

    async def slow() -> str:
        nonlocal loads
        loads += 1
        shard = a.shared.of("k")
        shard._door._away_until = time.monotonic() + 1.5  # the first renewal
        await asyncio.sleep(3.5)  # time itself: longer than the lease
        return "slow"

    first = asyncio.create_task(a.cache.get_or_fetch("k", slow, ttl_seconds=300))
    await until(lambda: loads == 1)
    assert await b.cache.get_or_fetch("k", slow, ttl_seconds=300) == await first == "slow"
    assert loads == 1


@pytest.mark.cache_timings(lease=0.03)
async def test_a_lease_that_ran_out_refuses_the_late_value(replicas, monkeypatch):
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


@ASKS_AS_THE_PRODUCT
async def test_connections_that_lead_nowhere_are_not_found_out_one_by_one(replicas):
    a, _ = replicas
    a.proxy.strand()
    async with asyncio.timeout(BACK_SECONDS):
        for number in itertools.count():
            bypassed = a.cache.stats().bypassed
            await a.read(f"user:{number}")
            if number and a.cache.stats().bypassed == bypassed:
                break
            await asyncio.sleep(0.02)
    await until(lambda: a.trusted, seconds=4)


@ASKS_AS_THE_PRODUCT
async def test_a_lease_whose_answer_came_too_late_holds_nobody_up(replicas, monkeypatch):
    a, b = replicas
    await b.read("another:1")
    shard = a.shared.of("user:1")
    read_in_time = shard.read

    async def read(*args: object) -> None:
        assert await read_in_time(*args) is None
        a.proxy.delay_seconds = 0.045

    monkeypatch.setattr(shard, "read", read)
    assert await a.read() == "old"
    assert a.cache.stats().bypassed == 1
    a.proxy.delay_seconds = 0.0
    started = time.monotonic()
    assert await b.read() == "old"
    assert time.monotonic() - started < a.cache.timings.lease / 4


@pytest.mark.cache_timings(lease=60)
async def test_nobody_renews_or_gives_back_the_lease_of_another(replicas):
    a, _ = replicas
    shard = a.shared.of("user:1")
    await shard.lease(look_up("user:1"), "0123456789abcdef")
    for seconds in (0, 0.001):
        assert not await shard.renew("user:1", "fedcba9876543210", seconds)
    await asyncio.sleep(0.01)
    assert await shard.lease(look_up("user:1"), "fedcba9876543210") == (Answer.WAIT, None)


async def test_a_read_that_was_not_answered_in_time_takes_no_trust_away(replicas):
    a, _ = replicas
    shard = a.shared.of("user:1")
    was_not_answered(shard)
    with pytest.raises(NotAsked):
        await shard.beat(within_seconds=1, urgent=False)
    await shard.beat(within_seconds=1)


@ASKS_AS_THE_PRODUCT
async def test_an_urgent_call_that_waited_for_long_lets_no_read_wait(replicas):
    a, _ = replicas
    shard = a.shared.of("user:1")
    a.proxy.delay_seconds = 0.1
    shard._door.distance_seconds = 0.0  # a busy machine took the server for one far away, which is waited for longer
    was_not_answered(shard)
    await shard.beat(within_seconds=1)
    with pytest.raises(NotAsked):
        await shard.beat(within_seconds=1, urgent=False)


def was_not_answered(shard: Shard) -> None:
    shard._door._away_until = time.monotonic() + 60


async def test_a_failing_source_gives_its_lease_back(replicas, within):
    a, b = replicas

    async def failing() -> None:
        raise Unavailable("database")

    with pytest.raises(Unavailable):
        await a.cache.get_or_fetch("user:1", failing, ttl_seconds=300)
    started = time.monotonic()
    assert await b.read() == "old"
    assert time.monotonic() - started < within(0.5)


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


async def test_one_replica_renews_a_value_before_its_time_is_over(replicas, within):
    """The best of three: a machine that stands still for the 0.2 s in which it is renewed lets its time be over."""
    a, b = replicas

    def misses() -> int:
        return a.cache.stats().misses + b.cache.stats().misses

    async def is_renewed_in_time(key: str) -> bool:
        missed, loads = misses(), 0

        async def source() -> int:
            nonlocal loads
            loads += 1
            return loads

        async def read(replica: CacheReplica) -> int:
            return await replica.cache.get_or_fetch(key, source, ttl_seconds=2.0)

        assert (await read(a), await read(b)) == (1, 1)
        seen: set[int] = set()
        async with asyncio.timeout(within(4)):
            while 2 not in seen:
                for replica in replicas:
                    seen.add(await read(replica))
                await asyncio.sleep(0.002)
        return (misses(), loads) == (missed + 1, 2)  # neither waited for the source again

    tries = [await is_renewed_in_time("k:0")]
    while not tries[-1] and len(tries) < 3:
        tries.append(await is_renewed_in_time(f"k:{len(tries)}"))
    assert tries[-1]
    assert a.cache.stats().refreshes + b.cache.stats().refreshes >= 1


async def test_a_stale_copy_in_redis_stands_in_for_a_failing_source(replicas):
    a, b = replicas
    error: list[Exception] = []

    async def source() -> str:
        if error:
            raise error[0]
        return "copy"

    async def read(replica: CacheReplica) -> str:
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
    answering = asyncio.Event()
    answering.set()
    loads = 0

    async def source() -> int:
        nonlocal loads
        loads += 1
        await answering.wait()
        return loads

    async def read() -> int:
        return await a.cache.get_or_fetch(
            "k", source, ttl_seconds=0.05, stale_for_seconds=60, soft_timeout_seconds=0.02
        )

    assert await read() == 1
    await asyncio.sleep(0.06)
    answering.clear()
    assert await read() == 1
    answering.set()
    await until(lambda: a.cache.stats().loads == 2)


class TestNoStaleCopyStandsIn:
    @pytest.fixture
    async def read(self, replicas):
        """Of a copy whose time is over, while the source fails as soon as it is let."""
        a, _ = replicas
        source = Source("copy")

        async def read() -> str:
            return await a.cache.get_or_fetch("k", source, ttl_seconds=0.05, stale_for_seconds=60)

        read.source = source
        await read()
        await asyncio.sleep(0.06)
        source.error = Unavailable("database")
        return read

    async def test_that_was_invalidated_while_the_source_was_asked(self, replicas, read):
        a, b = replicas
        assert await read() == "copy"
        await asyncio.sleep(0.01)
        a.cache.cleanup()
        a.cache._drop(EVERYTHING)
        read.source.gate.clear()
        read.source.started.clear()
        under_way = asyncio.create_task(read())
        await read.source.started.wait()
        received = a.cache.stats().received
        await b.cache.invalidate("k")
        await until(lambda: a.cache.stats().received > received)
        read.source.gate.set()
        with pytest.raises(Unavailable):
            await under_way

    async def test_of_which_nobody_knows_whether_it_was_invalidated(self, replicas, read, valkey_url):
        a, _ = replicas
        for server in servers_of(valkey_url):
            with server:
                server.flushall()
        for shard in a.shared.shards:
            shard.channel.lose()
        with pytest.raises(Unavailable):
            await read()
