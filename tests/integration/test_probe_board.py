"""One look at an upstream serves the whole fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.core.errors import Unavailable
from app.core.fleet.probe_board import ProbeBoard
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.services.probes import Dependency, Prober
from app.services.redis_health import describe

REPLICAS = 5


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


async def test_of_many_replicas_one_looks_and_all_know(redis: Redis) -> None:
    looks = 0

    async def probe() -> dict[str, str]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return {"model": "m"}

    dependencies = [Dependency("gemini", probe, 30, 3, is_shared=True) for _ in range(REPLICAS)]
    probers = [
        Prober(dependency, ProbeBoard(Door(redis), namespace="test", replica_id=f"r{n}"))
        for n, dependency in enumerate(dependencies)
    ]
    for _ in range(20):
        await asyncio.gather(*(prober.look() for prober in probers))
    assert looks == 1
    assert {dependency.status for dependency in dependencies} == {"ok"}
    assert len({dependency.full()["latency_ms"] for dependency in dependencies}) == 1


async def test_a_looker_that_died_costs_its_turn_and_its_late_report_is_refused(redis: Redis) -> None:
    first, second = (ProbeBoard(Door(redis), namespace="test", replica_id=name) for name in ("first", "second"))
    assert (await first.turn("gemini", fresh_seconds=30, looker_seconds=0.5)).is_mine
    assert not (await second.turn("gemini", fresh_seconds=30, looker_seconds=5)).is_mine
    async with asyncio.timeout(5):
        while not (await second.turn("gemini", fresh_seconds=30, looker_seconds=5)).is_mine:
            await asyncio.sleep(0.01)
    assert not await first.report("gemini", {"status": "error"})
    assert await second.report("gemini", {"status": "ok"})
    turn = await first.turn("gemini", fresh_seconds=30, looker_seconds=5)
    assert (turn.is_mine, turn.finding, turn.by) == (False, {"status": "ok"}, "second")


async def test_a_stale_finding_is_shown_while_somebody_looks_again(redis: Redis) -> None:
    first, second = (ProbeBoard(Door(redis), namespace="test", replica_id=name) for name in ("first", "second"))
    await first.turn("gemini", fresh_seconds=30, looker_seconds=5)
    await first.report("gemini", {"status": "ok"})
    assert (await first.turn("gemini", fresh_seconds=0, looker_seconds=5)).is_mine
    turn = await second.turn("gemini", fresh_seconds=0, looker_seconds=5)
    assert (turn.is_mine, turn.finding) == (False, {"status": "ok"})


async def test_redis_away_is_said() -> None:
    redis = connect("redis://127.0.0.1:1")
    with pytest.raises(Unavailable):
        await ProbeBoard(Door(redis), namespace="test", replica_id="r").turn(
            "gemini", fresh_seconds=1, looker_seconds=1
        )
    await redis.aclose()


async def test_the_state_of_redis_is_told_in_full(redis: Redis) -> None:
    about = await describe(Door(redis))
    assert (about["role"], about["persistence"], about["aof_last_write"]) == ("master", "aof", "ok")
    assert about["eviction"] == "noeviction"
    assert about["memory"]["used_bytes"] > 0
    assert about["replication"] == {"replicas": 0, "behind_bytes": None}
