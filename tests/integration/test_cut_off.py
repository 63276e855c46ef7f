"""A replica that reaches neither Redis nor Postgres leaves the rotation, and comes back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from app.main import create_app
from app.wiring import PROBE_SECONDS
from tests.support.balancer import balancer, needs_haproxy
from tests.support.patience import Within
from tests.support.proxy import proxied
from tests.support.serving import OutsideWorld, served, settings_of

CHECKS = 2


async def _seconds_until(is_so: Callable[[], bool]) -> float:
    start = time.monotonic()
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(is_so):
            await asyncio.sleep(0.02)
    return time.monotonic() - start


@needs_haproxy
async def test_a_cut_off_replica_is_out_within_two_check_intervals_and_back_within_two(
    valkey_url: str, store_url: str, outside: OutsideWorld, tmp_path: Path, within: Within
) -> None:
    async with proxied(valkey_url) as redis, proxied(store_url) as postgres:
        settings = settings_of(outside.url, redis.url, postgres.url)
        async with served(create_app(settings)) as base, httpx.AsyncClient(base_url=base) as http:
            port = urlsplit(base).port or 0
            starting = balancer([port], tmp_path)
            front = await asyncio.to_thread(starting.__enter__)
            try:
                assert (await http.get("/health/ready")).status_code == 200
                redis.freeze()
                postgres.freeze()
                out = await _seconds_until(lambda: front.states() == {"backend1": "DOWN"})
                assert (await http.get("/health/ready")).json()["status"] == "not_ready"
                assert (await http.get("/health/live")).status_code == 200
                redis.thaw()
                postgres.thaw()
                back = await _seconds_until(lambda: front.states() == {"backend1": "UP"})
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)
    print(f"\ncut off: out of rotation after {out:.2f} s, back after {back:.2f} s")
    assert out <= within(CHECKS * PROBE_SECONDS)
    assert back <= within(CHECKS * PROBE_SECONDS)
