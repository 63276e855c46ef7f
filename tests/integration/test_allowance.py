"""So many times an hour, counted for the whole fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.core.errors import Unavailable
from app.core.fleet.allowance import Allowance
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.localhost.servers import Valkey


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


def hourly(redis: Redis, limit: int = 3) -> Allowance:
    return Allowance(Door(redis), namespace="test", name="tries", limit=limit, window_seconds=3600)


async def test_no_more_than_the_limit_pass_however_many_replicas_ask_at_once(redis: Redis) -> None:
    waits = await asyncio.gather(*(hourly(redis).take("ada") for _ in range(20)))
    assert sorted(waits)[:3] == [0, 0, 0]
    assert all(3500 < wait <= 3600 for wait in sorted(waits)[3:])
    assert await hourly(redis).take("bob") == 0


async def test_what_is_given_back_may_be_taken_again_and_never_more(redis: Redis) -> None:
    tries = hourly(redis, limit=1)
    await tries.give_back("ada")
    assert await tries.take("ada") == 0
    assert await tries.take("ada") > 0
    await tries.give_back("ada")
    await tries.give_back("ada")
    assert await tries.take("ada") == 0
    assert await tries.take("ada") > 0


async def test_every_count_ends_by_itself(redis: Redis) -> None:
    await hourly(redis).take("ada\x00\ud7ff{}")
    await hourly(redis).give_back("ada\x00\ud7ff{}")
    keys = await redis.keys("test:allowance:*")
    assert [0 < await redis.pttl(key) <= 3_600_000 for key in keys] == [True]


async def test_without_redis_nothing_is_allowed(redis: Redis, valkey: Valkey) -> None:
    valkey.stop()
    with pytest.raises(Unavailable):
        await hourly(redis).take("ada")
