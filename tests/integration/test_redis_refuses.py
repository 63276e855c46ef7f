"""A Redis that answers and does not store: full, its file cannot be written, a replica, or one that evicts. /health
says so, and two seconds after its return everything works."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ResponseError

from app.core.redis.client import Redis, connect
from app.localhost.location import locate
from app.localhost.processes import ChildProcess
from app.localhost.servers import Valkey, remove_data
from app.localhost.valkey import CONFIG
from app.main import create_app
from app.sandbox import webhooks as wa
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, claim_one, event
from tests.support.serving import APP_SECRET, OPERATOR_KEY, outside_world, served, settings_of

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
SEEN_SECONDS = 5.0
BACK_SECONDS = 2.0


class SmallDisk(Valkey):
    """No file of its may grow beyond one or two MB: the kernel refuses, as it does on a full disk."""

    def _launch(self, port: int) -> ChildProcess:
        process = ChildProcess(
            self.name,
            ["/bin/sh", "-c", 'trap "" XFSZ; ulimit -f 2048; exec "$0" -', self.location.valkey_server],
            stdin=CONFIG.format(port=port, password=self._password).encode(),
            cwd=self.location.server_folder("valkey"),
            env=dict(self.environment),
            log_file=self.location.folder / "valkey.log",
            pid_file=self.location.folder / "valkey.pid",
            account=self.location.account,
        )
        process.start()
        return process


@pytest.fixture(scope="module")
def server() -> Iterator[SmallDisk]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-full-"))
    folder.chmod(0o711)
    valkey = SmallDisk(locate(folder))
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop()
        remove_data(folder)


@pytest.fixture
async def admin(server: SmallDisk) -> AsyncIterator[Redis]:
    async with connect(server.url) as redis:
        await redis.flushall()
        yield redis


class Here:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.posted = 0

    async def post(self) -> int:
        self.posted += 1
        raw = wa.encode_like_meta(wa.dashboard_test())
        sent = await self.http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
        return sent.status_code

    async def health(self) -> dict[str, Any]:
        return dict((await self.http.get("/health", headers=OPERATOR)).json())

    async def until(self, status: str, seconds: float) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while (health := await self.health())["status"] != status:
                await asyncio.sleep(0.02)
        return health


@pytest.fixture
async def here(server: SmallDisk, admin: Redis, store_url: str, within: Within) -> AsyncIterator[Here]:
    async with AsyncExitStack() as stack:
        outside = await stack.enter_async_context(outside_world())
        app = create_app(settings_of(outside.url, server.url, store_url, debounce_seconds=0))
        base = await stack.enter_async_context(served(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=base))
        replica = Here(http)
        await replica.until("ok", within(SEEN_SECONDS))
        yield replica


Fault = Callable[[Redis, SmallDisk, bool], Awaitable[None]]


async def full(admin: Redis, server: SmallDisk, on: bool) -> None:
    await admin.config_set("maxmemory", 1 if on else 0)


async def disk_full(admin: Redis, server: SmallDisk, on: bool) -> None:
    if not on:
        await admin.bgrewriteaof()  # of such values it makes a small file
        return
    with pytest.raises(ResponseError, match="MISCONF"):
        await write_for_ever(admin)


async def write_for_ever(admin: Redis) -> None:
    async with asyncio.timeout(20):
        while True:
            await admin.set(f"filling:{time.monotonic_ns()}", b"x" * 10_000)


async def demoted(admin: Redis, server: SmallDisk, on: bool) -> None:
    await admin.execute_command("REPLICAOF", *(("127.0.0.1", 1) if on else ("NO", "ONE")))


@pytest.mark.parametrize(
    ("fault", "said"),
    [(full, "maxmemory"), (disk_full, "MISCONF"), (demoted, "")],
    ids=["full", "disk_full", "demoted"],
)
async def test_health_says_that_webhooks_are_refused_and_all_is_well_two_seconds_after(
    here: Here, admin: Redis, server: SmallDisk, fault: Fault, said: str, within: Within
) -> None:
    await fault(admin, server, True)
    try:
        health = await here.until("error", within(SEEN_SECONDS))
        assert await here.post() == 503
        assert "webhooks are refused" in health["reason"]
        assert said in health["dependencies"]["redis"]["error"]
        assert (await here.http.get("/health")).status_code == 503
        assert REGISTRY.get_sample_value("chorus_dependency_up", {"dependency": "redis"}) == 0
        assert (await here.http.get("/health/ready")).status_code == 200, "no other replica fares better"
    finally:
        await fault(admin, server, False)
    async with asyncio.timeout(within(BACK_SECONDS)):
        while await here.post() != 200:
            await asyncio.sleep(0.05)
        await here.until("ok", within(BACK_SECONDS))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_health_is_degraded_while_the_server_may_evict(
    here: Here, admin: Redis, policy: str, within: Within
) -> None:
    await admin.config_set("maxmemory-policy", policy)
    try:
        health = await here.until("degraded", within(SEEN_SECONDS))
        assert policy in health["dependencies"]["redis"]["trouble"]
        assert health["dependencies"]["redis"]["status"] == "degraded"
        assert "trouble" not in (await here.http.get("/health")).json()["dependencies"]["redis"]
        assert REGISTRY.get_sample_value("chorus_redis_durable") == 0, "an alert is made of it"
        assert await here.post() == 200
    finally:
        await admin.config_set("maxmemory-policy", "noeviction")
    await here.until("ok", within(SEEN_SECONDS))


async def test_the_count_of_what_waits_is_never_negative_and_is_counted_anew(
    server: SmallDisk, admin: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        queue = Replicas(server.url, stack).queue(max_attempts=1)
        await queue.put([event(f"m{n}") for n in range(4)])
        await admin.delete("test:{q0}:depth", "test:{q0}:heads")
        assert await queue.done(await claim_one(queue))
        assert int(await admin.get("test:{q0}:depth") or 0) == 0
        stats = await queue.stats()
        assert (stats.pending, stats.ready) == (0, 0)
        await queue.put([event("more", "a"), event("more", "b")])
        await admin.set("test:{q0}:depth", 7)
        with caplog.at_level(logging.ERROR):
            await queue.audit()
        assert (await queue.stats()).pending == 2
        assert any("mended" in record.message for record in caplog.records)
