"""Rate limits kept by the fleet together: never more than the limit, never less than it allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.core.fleet.pacing import Limit, Pacer
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.localhost.processes import free_port
from app.localhost.servers import Valkey
from tests.support.patience import Within

FREE = Limit(0.000001, 1_000_000)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


def pacer(redis: Redis, *, number: Limit = FREE, pair: Limit = FREE) -> Pacer:
    return Pacer(Door(redis), namespace="test", per_number=number, per_pair=pair)


async def test_a_burst_passes_and_the_next_message_waits_for_its_turn(redis: Redis) -> None:
    paced = pacer(redis, pair=Limit(6.0, 45))
    assert [await paced.ask("n", "p") for _ in range(45)] == [0.0] * 45
    assert 5.0 < await paced.ask("n", "p") <= 6.0
    assert await paced.ask("n", "another") == 0.0


async def test_two_replicas_share_one_limit(redis: Redis) -> None:
    first, second = pacer(redis, number=Limit(60, 10)), pacer(redis, number=Limit(60, 10))
    answers = await asyncio.gather(*(p.ask("n", f"p{i}") for i in range(10) for p in (first, second)))
    assert answers.count(0.0) == 10


async def test_a_refused_message_is_not_counted(redis: Redis) -> None:
    paced = pacer(redis, number=Limit(60, 1), pair=Limit(0.001, 1000))
    assert await paced.ask("n", "p") == 0.0
    before = await redis.get("test:{pace:n}:peer:p")
    assert await paced.ask("n", "p") > 0
    assert await redis.get("test:{pace:n}:peer:p") == before


async def test_time_pays_the_debt(redis: Redis, within: Within) -> None:
    paced = pacer(redis, pair=Limit(0.05, 1))
    assert await paced.ask("n", "p") == 0.0
    async with asyncio.timeout(within(2)):
        while await paced.ask("n", "p"):
            await asyncio.sleep(0.01)


async def test_each_hold_is_four_times_as_long_and_concerns_one_peer(redis: Redis) -> None:
    paced = pacer(redis)
    assert [await paced.hold("n", "p") for _ in range(3)] == [4.0, 16.0, 64.0]
    assert 63 < await paced.ask("n", "p") <= 64
    assert await paced.ask("n", "another") == 0.0


async def test_without_redis_each_replica_keeps_its_share_of_the_limits() -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}/0")
    limits = {"per_number": FREE, "per_pair": Limit(60, 30)}
    paced = Pacer(Door(client), namespace="test", **limits, replicas=lambda: 3)
    answers = [await paced.ask("n", "p") for _ in range(11)]
    assert answers[:10] == [0.0] * 10
    assert 170 < answers[10] <= 180
    assert await paced.hold("n", "other") == 4.0
    assert await paced.ask("n", "other") > 3
    await client.aclose()


async def test_a_redis_that_goes_away_leaves_what_it_has_counted_here(valkey: Valkey, valkey_url: str) -> None:
    client = connect(valkey_url)
    paced = Pacer(Door(client), namespace="test", per_number=FREE, per_pair=Limit(60, 3))
    assert [await paced.ask("n", "p") for _ in range(3)] == [0.0] * 3
    valkey.pause()
    try:
        assert await paced.ask("n", "p") > 50
        assert await paced.ask("n", "another") == 0.0
    finally:
        valkey.resume()
    await client.aclose()
