"""Replicas that share one verdict, on a real server: trip, probe, recover, quorum, overrides, newcomers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.core.circuit_breaker import BreakerPolicy
from breaker_kit import POLICY, Replica, until

Make = Callable[..., Awaitable[list[Replica]]]


@pytest.fixture
async def make(valkey_url: str) -> AsyncIterator[Make]:
    """`await make(3)`: three replicas that follow the fleet."""
    made: list[Replica] = []

    async def make(count: int, policy: BreakerPolicy = POLICY, *, started: bool = True) -> list[Replica]:
        new = [Replica(valkey_url, f"replica-{len(made) + n}", policy, replicas=count) for n in range(count)]
        made.extend(new)
        for replica in new:
            if started:
                await replica.start()
        return new

    yield make
    for replica in made:
        await replica.stop()


async def trip(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.fails()
    for n in range(5):
        await replicas[n % len(replicas)].call()
    await until(lambda: all(replica.state == "open" for replica in replicas))


async def test_five_failures_spread_over_three_replicas_open_it_for_all(make: Make):
    replicas = await make(3)
    await trip(replicas)
    assert [replica.called for replica in replicas] == [2, 2, 1]
    assert [await replica.call() for replica in replicas] == ["CircuitBreakerOpenError"] * 3
    assert [replica.called for replica in replicas] == [2, 2, 1]
    assert {replica.breaker.version for replica in replicas} == {replicas[0].breaker.version}
    assert {replica.breaker.snapshot().failure_count for replica in replicas} == {5}


async def test_two_good_probes_close_it_for_all(make: Make):
    replicas = await make(3)
    await trip(replicas)
    for replica in replicas:
        replica.recovers()
    await asyncio.sleep(POLICY.open_seconds)
    assert await replicas[1].call() == "ok"
    await until(lambda: all(replica.state == "half_open" for replica in replicas))
    assert await replicas[1].call() == "ok"
    await until(lambda: all(replica.state == "closed" for replica in replicas))
