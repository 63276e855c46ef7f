"""A replica that loses Redis decides by itself with the same rules, and is of one mind with the fleet on its return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.support.breaker_kit import POLICY, SOON, BreakerReplica, until
from tests.support.proxy import Proxy, proxied

LONG = replace(POLICY, open_seconds=30.0, max_open_seconds=60.0)
"""Whatever closes such a circuit within a test was the fleet's word, not time."""


class Pair:
    """`cut` reaches Redis through a line that fails on demand; `well` always does."""

    def __init__(self, cut: BreakerReplica, well: BreakerReplica, line: Proxy) -> None:
        self.cut = cut
        self.well = well
        self.line = line

    async def lose_redis(self) -> None:
        self.line.freeze()
        await until(lambda: not self.cut.fleet.up)

    async def regain_redis(self) -> None:
        self.line.thaw()
        await until(lambda: self.cut.fleet.up)


@pytest.fixture
async def pair(valkey_url: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(proxied(valkey_url))
        cut, well = (
            BreakerReplica(line.url, "cut", LONG, replicas=2, timings=SOON),
            BreakerReplica(valkey_url, "well", LONG, replicas=2),
        )
        for replica in (cut, well):
            stack.push_async_callback(replica.stop)
            await replica.start()
        yield Pair(cut, well, line)


async def fail(replica: BreakerReplica, times: int = LONG.failure_threshold) -> None:
    replica.fails()
    for _ in range(times):
        await replica.call()


async def test_without_redis_the_same_threshold_opens_this_replicas_circuit(pair: Pair):
    await pair.lose_redis()
    await fail(pair.cut, LONG.failure_threshold - 1)
    assert pair.cut.state == "closed"
    await fail(pair.cut, 2)
    assert (pair.cut.state, pair.cut.called) == ("open", LONG.failure_threshold)
    assert pair.well.state == "closed"


async def test_calls_wait_for_no_redis_that_hangs(pair: Pair, within):
    pair.line.freeze()
    async with asyncio.timeout(within(0.05)):  # half of what one question to it may take
        for _ in range(1000):
            assert await pair.cut.call() == "ok"


async def test_on_its_return_the_fleets_open_circuit_is_adopted(pair: Pair):
    await pair.lose_redis()
    pair.well.replicas = 1  # it misses the heartbeats of the other
    await fail(pair.well)
    await until(lambda: pair.well.breaker.fleet_view.state == "open")
    assert await pair.cut.call() == "ok", "nobody can have told it"
    await pair.regain_redis()
    await until(lambda: pair.cut.state == "open")
    assert await pair.cut.call() == "CircuitBreakerOpenError"
    assert pair.cut.breaker.fleet_view.version == pair.well.breaker.fleet_view.version


async def test_on_its_return_its_own_open_circuit_stands_against_the_fleets_closed_one(pair: Pair):
    assert await pair.well.call() == "ok"
    await pair.lose_redis()
    await fail(pair.cut)
    await pair.regain_redis()
    await pair.cut.fleet.sync()
    await pair.well.fleet.sync()
    assert (pair.cut.state, pair.well.state) == ("open", "closed")
    assert pair.well.breaker.snapshot().failure_count == 0, "what was seen alone is not replayed"


async def test_on_its_return_the_fleets_recovery_ends_what_it_remembers_as_the_fleets(pair: Pair):
    await fail(pair.cut, 1)
    await fail(pair.well)
    await until(lambda: pair.cut.state == "open")
    await pair.lose_redis()
    await pair.well.fleet.force("some_api", "auto", who="test", why="mended")
    assert pair.cut.state == "open"
    await pair.regain_redis()
    await until(lambda: pair.cut.state == "closed")
    pair.cut.recovers()
    assert await pair.cut.call() == "ok"
