"""The last hour of the fleet: what each replica counts, summed by the minute, without Prometheus."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
import redis

from app.api.middleware import REQUEST_SECONDS
from app.api.routes_webhook import WEBHOOK_SECONDS
from app.core.fleet.minutes import Minutes
from app.core.redis.door import Door
from app.services.inbox_worker import END_TO_END_SECONDS
from app.services.last_hour import MINUTES, LastHour, quantile
from tests.support.replica import one_replica


async def test_the_replicas_counts_of_a_minute_are_summed(valkey_url: str) -> None:
    door = Door.to(valkey_url)
    minutes = Minutes(door, namespace="test")
    one, other = LastHour(minutes), LastHour(minutes)
    while time.time() % 60 > 55:
        await asyncio.sleep(0.5)  # time itself: all of it in one minute
    for seconds in (0.2, 0.3, 2.0):
        END_TO_END_SECONDS.observe(seconds)
    WEBHOOK_SECONDS.labels(503).observe(0.1)
    WEBHOOK_SECONDS.labels(401).observe(0.1)
    REQUEST_SECONDS.labels("GET", "/accounts", 500).observe(0.1)
    REQUEST_SECONDS.labels("GET", "/admin/fleet", 503).observe(
        0.1
    )  # the screen that shows these counts asks all the time
    await one.flush()
    await other.flush()  # another process in this one: it has counted the same
    await one.flush()  # nothing new
    hour = await one.read()
    assert len(hour) == MINUTES
    assert [minute.at for minute in hour] == sorted(minute.at for minute in hour)
    told = [minute for minute in hour if minute.answers]
    assert [(minute.answers, minute.http_5xx, minute.refused) for minute in told] == [(6, 4, 4)]
    assert 1 < (told[0].p95_seconds or 0) <= 2.5
    assert [minute.p95_seconds for minute in hour if not minute.answers] == [None] * (MINUTES - 1)
    with redis.Redis.from_url(valkey_url) as client:
        (key,) = client.keys("test:*")
        assert 0 < client.pttl(key) <= 7_200_000
    await door.aclose()


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([], None), ([(1.0, 0), (math.inf, 0)], None), ([(1.0, 10), (math.inf, 10)], 0.95),
        ([(1.0, 0), (2.0, 10), (math.inf, 10)], 1.95), ([(1.0, 0), (math.inf, 4)], 1.0),
    ],
)  # fmt: skip
def test_a_quantile_is_read_from_buckets_as_prometheus_does(
    counts: list[tuple[float, int]], wanted: float | None
) -> None:
    assert quantile(counts, 0.95) == wanted


async def test_the_operator_reads_it_over_http(valkey_url: str, store_url: str) -> None:
    async with one_replica(valkey_url, store_url) as api:
        hour = await api("GET", "/admin/last-hour")
        assert len(hour["minutes"]) == MINUTES
        assert hour["minutes"][-1].keys() == {"at", "answers", "p95_seconds", "http_5xx", "refused"}
        await api.refused("GET", "/admin/last-hour", user="ada", status=403)
