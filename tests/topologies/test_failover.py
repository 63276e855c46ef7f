"""The shared cache and the fleet's circuits through a failover that Sentinel decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.cache.policy import TIMINGS
from app.core.circuit_breaker import BreakerPolicy
from app.core.redis.client import connect
from tests.support.breaker_kit import SOON, BreakerReplica
from tests.support.patience import Within
from tests.support.redis_topologies import Guarded

BACK_SECONDS = 5.0
"""From the moment that the sentinels name the new primary."""
HEARD_SECONDS = 1.0
LEFT_SECONDS = 2.5
"""A question to the sentinels, and a heartbeat."""
CORRECTED_SECONDS = 8.0
"""Before that no sentinel corrects a primary that was replaced."""

pytestmark = pytest.mark.cache_timings(call=TIMINGS.call)
"""Caches that ask a primary which is gone are not held up."""


async def until(happened: Callable[[], bool], *, seconds: float) -> float:
    """How long it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not happened():
            await asyncio.sleep(0.005)
    return time.monotonic() - started


class Office:
    """Two replicas' caches, and the database that both read."""

    def __init__(self, caches: list[Cache], within: Within) -> None:
        self.caches = caches
        self.within = within
        self.value = 0

    async def load(self) -> int:
        return self.value

    async def read(self) -> set[int]:
        """What the replicas see."""
        return {await cache.get_or_fetch("user:1", self.load, ttl_seconds=300) for cache in self.caches}

    async def edit(self, by: int) -> None:
        async with self.caches[by].write_fence("user:1"):
            self.value += 1

    async def is_in_memory(self) -> None:
        """Soon, and from then on, everybody reads the value; soon without asking anybody else."""
        async with asyncio.timeout(self.within(HEARD_SECONDS)):
            while await self.read() != {self.value}:
                await asyncio.sleep(0.002)
            while True:
                hits = [cache.stats().hits for cache in self.caches]
                assert await self.read() == {self.value}
                if [cache.stats().hits for cache in self.caches] == [n + 1 for n in hits]:
                    return
                await asyncio.sleep(0.002)

    def is_in_step(self) -> bool:
        stats = [cache.stats() for cache in self.caches]
        return all(stat.trusted and not stat.owed for stat in stats)

    async def goes_on(self) -> None:
        """Whoever edits, the other one hears of it soon, and both keep the new value in memory."""
        for by in (0, 1, 0, 1):
            await self.edit(by)
            await self.is_in_memory()


@pytest.fixture
async def office(guarded: Guarded, cache_timings: CacheTimings, within: Within) -> AsyncIterator[Office]:
    async with AsyncExitStack() as stack:
        caches = [Cache(timings=cache_timings) for _ in range(2)]
        for cache in caches:
            await stack.enter_async_context(join_fleet(cache, guarded.url, namespace="test"))
        office = Office(caches, within)
        await until(office.is_in_step, seconds=within(BACK_SECONDS))
        await office.is_in_memory()
        yield office


@pytest.mark.cache_timings
async def test_caches_behind_sentinel_share_loads_and_forget_groups_and_patterns(
    office: Office, within: Within
) -> None:
    for pattern in ("user:*", "us*", "*"):
        loads = [cache.stats().loads for cache in office.caches]
        office.value += 1
        await office.caches[0].invalidate_everywhere(pattern)
        async with asyncio.timeout(within(HEARD_SECONDS)):
            while await office.read() != {office.value}:
                await asyncio.sleep(0.002)
        assert sum(cache.stats().loads for cache in office.caches) == sum(loads) + 1, "one of them asked the source"


async def test_no_edit_made_during_a_failover_is_hidden_by_a_cache(
    guarded: Guarded, office: Office, within: Within
) -> None:
    failover = asyncio.create_task(asyncio.to_thread(guarded.fail_over))
    await until(lambda: not any(cache.stats().trusted for cache in office.caches), seconds=within(BACK_SECONDS))
    while not failover.done():
        await office.edit(by=office.value % 2)
        assert await office.read() == {office.value}, "memory is bypassed"
        await asyncio.sleep(0.02)
    await failover
    back = await until(office.is_in_step, seconds=within(BACK_SECONDS))
    assert await office.read() == {office.value}
    await office.goes_on()
    print(f"\ntrusted {back:.2f} s after the sentinels named the new primary")


@pytest.mark.parametrize("others_edit", [False, True])
async def test_what_the_new_primary_never_heard_of_is_invalidated_again(
    guarded: Guarded, office: Office, within: Within, others_edit: bool
) -> None:
    """It has the old value and an older sequence, which the first edit of anything lifts above every one of before."""
    await asyncio.to_thread(guarded.replicate)
    await asyncio.to_thread(guarded.hold_the_replica_back)
    await office.edit(by=0)
    await office.is_in_memory()
    assert office.is_in_step()
    failover = asyncio.create_task(asyncio.to_thread(guarded.fail_over))
    await until(lambda: not any(cache.stats().trusted for cache in office.caches), seconds=within(BACK_SECONDS))
    while not (failover.done() and office.is_in_step()):
        if others_edit:
            await office.caches[1].invalidate("another:1")
        await asyncio.sleep(0.01)
    await failover
    await until(lambda: all(cache.stats().gaps for cache in office.caches), seconds=within(BACK_SECONDS))
    async with asyncio.timeout(within(HEARD_SECONDS)):
        while await office.read() != {office.value}:
            await asyncio.sleep(0.002)
    await until(office.is_in_step, seconds=within(BACK_SECONDS))
    await office.goes_on()


async def test_a_primary_that_was_frozen_and_comes_back_is_not_believed(
    guarded: Guarded, office: Office, within: Within
) -> None:
    await asyncio.to_thread(guarded.replicate)
    await asyncio.to_thread(guarded.fail_over, freeze=True)
    back = await until(office.is_in_step, seconds=within(BACK_SECONDS))
    await office.edit(by=1)
    guarded.primary.resume()
    while await asyncio.to_thread(guarded.primary_is_deluded):
        await office.goes_on()
    await office.goes_on()
    print(f"\ntrusted {back:.2f} s after the sentinels named the new primary")


async def test_a_primary_that_was_replaced_in_good_order_is_left_before_it_is_corrected(
    guarded: Guarded, office: Office, cache_timings: CacheTimings, within: Within
) -> None:
    """Its connections stay open and it takes writes for ten seconds; then they are lost."""
    async with aclosing(connect(guarded.url)) as redis:

        async def port() -> int:
            return int((await redis.info("server"))["tcp_port"])

        assert await port() == guarded.primary.port
        await asyncio.to_thread(guarded.fail_over_in_good_order)
        async with asyncio.timeout(within(LEFT_SECONDS, below=CORRECTED_SECONDS)):
            while await port() != guarded.replica.port:
                await asyncio.sleep(0.02)
        late = Cache(timings=cache_timings)
        async with join_fleet(late, guarded.url, namespace="test"):
            office.caches.append(late)
            await until(office.is_in_step, seconds=within(BACK_SECONDS))
            await office.edit(by=2)
            async with asyncio.timeout(within(LEFT_SECONDS + HEARD_SECONDS, below=CORRECTED_SECONDS)):
                while await office.read() != {office.value}:
                    await asyncio.sleep(0.02)
            assert await asyncio.to_thread(guarded.primary_is_deluded)
            await until(office.is_in_step, seconds=within(BACK_SECONDS))
            await office.goes_on()
            office.caches.remove(late)


async def test_a_sentinel_that_was_passed_over_is_asked_again(guarded: Guarded) -> None:
    passed_over, *others = guarded.sentinels
    async with aclosing(connect(guarded.url)) as redis:
        passed_over.pause()
        await asyncio.gather(*(redis.ping() for _ in range(10)))
        passed_over.resume()
        for sentinel in others:
            sentinel.kill()
        await redis.connection_pool.disconnect()
        assert await redis.ping()


POLICY = BreakerPolicy(failure_threshold=4, open_seconds=30.0, max_open_seconds=60.0, probe_lease_seconds=1.0)


@pytest.fixture
async def replicas(guarded: Guarded, within: Within) -> AsyncIterator[list[BreakerReplica]]:
    made = [BreakerReplica(guarded.url, f"replica-{n}", POLICY, replicas=2, timings=SOON) for n in range(2)]
    for replica in made:
        await replica.start()
    await until(lambda: all(replica.fleet.up for replica in made), seconds=within(BACK_SECONDS))
    yield made
    for replica in made:
        await replica.stop()


async def trip(replicas: list[BreakerReplica], within: Within) -> None:
    for replica in replicas:
        replica.fails()
    for n in range(POLICY.failure_threshold):
        await replicas[n % len(replicas)].call()
    await until(lambda: all(replica.state == "open" for replica in replicas), seconds=within(HEARD_SECONDS))


@pytest.mark.parametrize("freeze", [False, True], ids=["killed", "frozen"])
async def test_replicas_agree_on_a_circuit_after_a_failover(
    guarded: Guarded, replicas: list[BreakerReplica], within: Within, freeze: bool
) -> None:
    await trip(replicas, within)
    version = replicas[0].breaker.fleet_view.version
    await asyncio.to_thread(guarded.replicate)
    failover = asyncio.create_task(asyncio.to_thread(guarded.fail_over, freeze=freeze))
    await until(lambda: not any(replica.fleet.up for replica in replicas), seconds=within(BACK_SECONDS))
    assert [await replica.call() for replica in replicas] == ["CircuitBreakerOpenError"] * 2
    await failover
    back = await until(lambda: all(replica.fleet.up for replica in replicas), seconds=within(BACK_SECONDS))
    guarded.primary.resume()
    assert {replica.state for replica in replicas} == {"open"}
    versions = {replica.breaker.fleet_view.version for replica in replicas}
    assert versions == {version}, "the same trip, not one of their own"
    await replicas[0].fleet.force("some_api", "closed", who="operator", why="over")
    await until(lambda: all(replica.state == "closed" for replica in replicas), seconds=within(2 * HEARD_SECONDS))
    await replicas[1].fleet.force("some_api", "auto", who="operator", why="over")
    await until(lambda: not any(replica.breaker.view.forced for replica in replicas), seconds=within(2 * HEARD_SECONDS))
    await trip(replicas, within)
    assert replicas[0].breaker.fleet_view.version == replicas[1].breaker.fleet_view.version > version
    print(f"\nfollowing {back:.2f} s after the sentinels named the new primary")


async def test_a_trip_that_the_new_primary_never_heard_of_is_forgotten_by_all_alike(
    guarded: Guarded, replicas: list[BreakerReplica], within: Within
) -> None:
    """Nobody stays behind with a verdict of its own: the next trip reaches both."""
    await asyncio.to_thread(guarded.replicate)
    await asyncio.to_thread(guarded.hold_the_replica_back)
    await trip(replicas, within)
    await asyncio.to_thread(guarded.fail_over)
    await until(
        lambda: all(replica.fleet.up and replica.state == "closed" for replica in replicas),
        seconds=within(BACK_SECONDS),
    )
    await trip(replicas, within)
    assert replicas[0].breaker.fleet_view.version == replicas[1].breaker.fleet_view.version
