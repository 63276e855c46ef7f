"""What a thousand questions about health cost: nobody else's time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import httpx
from fastapi import FastAPI

from app.core.redis.client import Redis, connect
from app.main import create_app
from tests.support.serving import OutsideWorld, served, settings_of

REQUESTS = 1000
ROUTES = ("/health", "/health/ready", "/health/live")
IDLE_SECONDS = 2.0
LOOKS_PER_SECOND = 5
"""INFO every 3 s, the upstreams' board every 5 s; with room for a slow machine."""


async def _commands(redis: Redis) -> Counter[str]:
    stats = await redis.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()})


async def test_a_thousand_questions_call_nobody(valkey_url: str, store_url: str, outside: OutsideWorld) -> None:
    world = outside
    redis = connect(valkey_url)
    app = create_app(settings_of(world.url, valkey_url, store_url, app_role="api"))
    async with served(app) as base, httpx.AsyncClient(base_url=base) as http:
        operator = {"Authorization": "Bearer operator-of-the-test-suite"}
        assert (await http.get("/health/ready")).status_code == 200

        async def idle_commands() -> int:
            idle_from = await _commands(redis)
            await asyncio.sleep(IDLE_SECONDS)  # time itself
            return (await _commands(redis) - idle_from).total()

        before = await idle_commands()
        upstream_before, redis_before, started = world.calls.total(), await _commands(redis), time.monotonic()
        for n in range(REQUESTS):
            answer = await http.get(ROUTES[n % 3], headers=operator if n % 2 else {})
            assert answer.status_code == 200
        seconds = time.monotonic() - started
        assert world.calls.total() == upstream_before
        used = await _commands(redis) - redis_before
        idle = max(before, await idle_commands())  # a machine that stands still in one of them is taken for quieter
    await redis.aclose()
    # As much as the background does by itself, give or take a round; nothing that grows with the questions.
    assert used.total() <= idle * (seconds / IDLE_SECONDS + 1), (used, idle, seconds)
    assert used["info"] <= LOOKS_PER_SECOND * (seconds + 1)


async def test_health_answers_at_least_half_as_fast_as_a_constant(
    valkey_url: str, store_url: str, outside: OutsideWorld
) -> None:
    app = create_app(settings_of(outside.url, valkey_url, store_url, app_role="api"))
    _add_constant(app)
    rates: dict[str, float] = {}
    async with served(app) as base:
        for path in ("/constant", "/health", "/constant", "/health", "/health/ready"):
            rates[path] = max(rates.get(path, 0.0), await _rate(base + path))
    print({path: round(rate) for path, rate in rates.items()})
    assert rates["/health"] >= 0.5 * rates["/constant"]


def _add_constant(app: FastAPI) -> None:
    @app.get("/constant")
    async def constant() -> dict[str, str]:
        return {"status": "ok"}


async def _rate(url: str, seconds: float = 0.4) -> float:
    """Requests per second over four connections, raw: the client must not be what is measured."""
    host, _, path = url.removeprefix("http://").partition("/")
    address, port = host.split(":")
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    end = time.monotonic() + seconds

    async def one() -> int:
        reader, writer = await asyncio.open_connection(address, int(port))
        done = 0
        while time.monotonic() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            done += 1
        writer.close()
        await writer.wait_closed()
        return done

    return sum(await asyncio.gather(*(one() for _ in range(4)))) / seconds
