"""A number whose customers usually write and have gone quiet is seen by every replica and told once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from app.core.circuit_breaker import BreakerFleet, BreakerPolicy, CircuitBreaker, KeyedCircuitBreakers
from app.core.errors import Unavailable
from app.core.fleet.probe_board import ProbeBoard
from app.core.queue import Queue, QueuePolicy
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.localhost.servers import Valkey
from app.sandbox import webhooks as wa
from app.services import arrivals as module
from app.services.arrivals import Arrivals
from app.services.breaker_service import BreakerService
from app.services.ingest_service import IngestService
from app.services.silence_watch import SilenceWatch
from app.services.stopped_answers import stopped_answers
from tests.support.breaker_kit import PATIENT

NUMBER = "106540352242922"


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


async def usually_busy(redis: Redis, sender: str, *, an_hour: float = 10, quiet_hours: float = 4) -> None:
    """As if `sender` had written for weeks, and last `quiet_hours` ago."""
    now = time.time()
    known = {str(hour): an_hour for hour in range(168)} | {"week": int(now // 3600 // 168)}
    await redis.hset(f"t:{{arrivals}}:h:{sender}", mapping=known)
    await redis.zadd("t:{arrivals}:last", {sender: (now - quiet_hours * 3600) * 1000})


def watch(redis: Redis, name: str = "a") -> SilenceWatch:
    return SilenceWatch(Arrivals(Door(redis), namespace="t"), ProbeBoard(Door(redis), namespace="t", replica_id=name))


async def test_a_busy_number_that_has_gone_quiet_is_found_and_a_quiet_one_is_not(redis: Redis) -> None:
    await usually_busy(redis, "1")
    await usually_busy(redis, "2", an_hour=0.5)
    await usually_busy(redis, "3", quiet_hours=0.4)
    (found,) = await Arrivals(Door(redis), namespace="t").silent()
    assert found.sender == "1"
    assert found.seconds == pytest.approx(4 * 3600, abs=60)
    assert 25 <= found.expected <= 41


async def test_its_next_message_ends_it(redis: Redis) -> None:
    arrivals = Arrivals(Door(redis), namespace="t")
    await usually_busy(redis, "1")
    arrivals.note("1")
    await arrivals.flush()
    assert await arrivals.silent() == []


async def test_more_than_a_page_of_quiet_numbers_are_all_looked_at(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for n in range(5):
        await usually_busy(redis, str(n), quiet_hours=4 + n)
    assert [each.sender for each in await Arrivals(Door(redis), namespace="t").silent()] == ["4", "3", "2", "1", "0"]


async def test_arrivals_are_counted_in_their_hour_of_the_week_and_halved_with_each_new_week(redis: Redis) -> None:
    arrivals = Arrivals(Door(redis), namespace="t")
    hour = int(time.time() // 3600)
    other = str((hour + 50) % 168)
    key = "t:{arrivals}:h:1"
    await redis.hset(key, mapping={"week": hour // 168 - 2, other: 8, str((hour + 51) % 168): 0.1})
    for _ in range(3):
        arrivals.note("1")
    await arrivals.flush()
    known = {name.decode(): float(value) for name, value in (await redis.hgetall(key)).items()}
    assert known == {"week": float(hour // 168), other: 2.0, str(hour % 168): 3.0} or int(time.time() // 3600) != hour


async def test_what_redis_remembers_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SENDERS", 3)
    arrivals = Arrivals(Door(redis), namespace="t")
    for n in range(10):
        arrivals.note(f"s{n}")
        await arrivals.flush()
    assert await redis.zrange("t:{arrivals}:last", 0, -1) == [b"s7", b"s8", b"s9"]
    assert len(await redis.keys("t:{arrivals}:h:*")) == 3
    assert await redis.pttl("t:{arrivals}:h:s9") > 0
    for n in range(10):
        arrivals.note(f"s{n}")
    assert len(arrivals._noted) == 3


async def test_what_redis_did_not_take_is_told_with_the_next_flush(valkey: Valkey, redis: Redis) -> None:
    arrivals = Arrivals(Door(redis), namespace="t")
    arrivals.note("1")
    valkey.stop()
    with pytest.raises(Unavailable):
        await arrivals.flush()
    arrivals.note("1")
    await asyncio.to_thread(valkey.start)
    await arrivals.flush()
    assert float(await redis.hget("t:{arrivals}:h:1", str(int(time.time() // 3600) % 168)) or 2) == 2


async def test_one_replica_looks_every_replica_shows_it_and_it_is_told_once(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await usually_busy(redis, NUMBER)
    replicas = [watch(redis, name) for name in "abc"]
    for replica in replicas:
        await replica.look()
    assert [len(replica.silent) for replica in replicas] == [1, 1, 1]
    assert replicas[2].silent[0]["phone_number_id"] == NUMBER
    assert REGISTRY.get_sample_value("chorus_silent_numbers") == 1
    (line,) = [line for line in caplog.records if "is silent" in line.getMessage()]
    assert line.phone_number_id == NUMBER

    await redis.hset("t:{probe}:silent_numbers", "at", 0)
    await replicas[1].look()
    assert len([line for line in caplog.records if "is silent" in line.getMessage()]) == 1
    await usually_busy(redis, NUMBER, quiet_hours=0)
    await redis.hset("t:{probe}:silent_numbers", "at", 0)
    await replicas[0].look()
    await replicas[2].look()
    assert (replicas[2].silent, REGISTRY.get_sample_value("chorus_silent_numbers")) == ([], 0)
    assert [line.phone_number_id for line in caplog.records if "receives again" in line.getMessage()] == [NUMBER]


async def test_the_check_up_is_told_which_number_is_silent_and_why_a_circuit_is_open(redis: Redis) -> None:
    fleet = BreakerFleet(Door(redis, channels=redis), namespace="t", replica_id="a", timings=PATIENT)
    breaker = CircuitBreaker("gemini_api", BreakerPolicy(2, 60.0), dependency="gemini")
    accounts = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(2, 60.0))
    fleet.join(breaker, accounts)
    queue = Queue(Door(redis), Door(redis), policy=QueuePolicy(debounce_seconds=0, max_pending=10), namespace="t")
    arrivals, service = (
        Arrivals(Door(redis), namespace="t"),
        BreakerService(fleet, {"gemini": breaker}, accounts, queue),
    )
    await fleet.sync()
    try:
        assert await stopped_answers(service, arrivals) == {}
        await usually_busy(redis, NUMBER)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await breaker.call_async(_wrong_key)
        async with asyncio.timeout(5):
            while (
                len(reasons := await stopped_answers(service, arrivals)) < 2 or "open" not in reasons["circuit gemini"]
            ):
                await asyncio.sleep(0.01)
    finally:
        await fleet.leave()
    assert reasons["circuit gemini"].startswith("open: failures: HTTP 400 API_KEY_INVALID (a, ")
    assert reasons[f"number {NUMBER}"].startswith("silent for 4.0 h; ")


async def _wrong_key() -> None:
    raise Unavailable("gemini", "gemini: HTTP 400 API_KEY_INVALID")


class _Taken:
    async def put(self, events: object) -> None: ...


async def test_every_customers_message_is_an_arrival_and_nothing_else_is() -> None:
    noted: list[str] = []
    ingest = IngestService(_Taken(), noted.append)
    business, person = wa.Business(NUMBER), wa.Person("33612345678", "Amina")
    await ingest.accept(
        wa.envelope(wa.messages_change(business, [wa.text(person, "Hi"), wa.text(person, "Ho")], [person]))
    )
    await ingest.accept(wa.envelope(wa.statuses_change(business, [wa.status("wamid.x", "read", recipient="336")])))
    await ingest.accept(wa.envelope(wa.echoes_change(business, [wa.echo(business, "33612345678", "Hello")])))
    assert noted == [NUMBER, NUMBER]
