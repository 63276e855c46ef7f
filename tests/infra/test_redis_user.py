"""The server and the user that ship for Redis: all that Chorus does is allowed, and nothing else."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis as redis_sync

from app.core.redis import connect
from app.main import create_app
from app.sandbox import webhooks as wa
from app.sandbox.processes import ChildProcess, free_port
from app.sandbox.servers.location import Location
from serving import APP_SECRET, outside_world, served, settings_of

INFRA = Path(__file__).resolve().parents[2] / "infra" / "redis"


@dataclass
class Guarded:
    url: str
    port: int
    password: str

    def with_password(self, user: str, password: str) -> str:
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"


@pytest.fixture
def guarded(server_location: Location, tmp_path: Path) -> Iterator[Guarded]:
    """Started as in docker-compose.yml: by start.sh."""
    config = tmp_path / "config"
    shutil.copytree(INFRA, config)
    password, port = secrets.token_hex(16), free_port()
    process = ChildProcess(
        "valkey",
        ["/bin/sh", config / "start.sh", "--port", str(port), "--dir", str(tmp_path), "--bind", "127.0.0.1"],
        log_file=tmp_path / "valkey.log",
        pid_file=tmp_path / "valkey.pid",
        env={
            "PATH": os.environ["PATH"], "REDIS_PASSWORD": password, "REDIS_CONFIG": str(config),
            "REDIS_USERS": str(tmp_path / "users.acl"), "REDIS_SERVER": str(server_location.valkey_server),
        },
    )  # fmt: skip
    process.start()
    url = f"redis://chorus:{password}@127.0.0.1:{port}/0"
    try:
        with redis_sync.Redis.from_url(url, socket_timeout=5) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis_sync.ConnectionError:
                    assert process.running, process.log_tail()
                    time.sleep(0.02)
        yield Guarded(url, port, password)
    finally:
        process.kill()


def test_the_user_reaches_its_own_keys_and_nothing_else(guarded: Guarded) -> None:
    with redis_sync.Redis.from_url(guarded.url) as client:
        assert client.set("chorus:x", 1)
        assert client.publish("chorus:c", "x") == 0
        for refused in (
            lambda: client.set("other:x", 1),
            lambda: client.publish("other:c", "x"),
            client.flushall,
            client.flushdb,
            lambda: client.keys("*"),
            lambda: client.config_set("appendonly", "no"),
            lambda: client.execute_command("ACL", "LIST"),
            lambda: client.execute_command("DEBUG", "SLEEP", "0"),
            lambda: client.execute_command("REPLICAOF", "NO", "ONE"),
            lambda: client.execute_command("MODULE", "LIST"),
            lambda: client.eval("return redis.call('SET', KEYS[1], 1)", 1, "other:x"),
            client.shutdown,
        ):
            with pytest.raises((redis_sync.exceptions.NoPermissionError, redis_sync.ResponseError)):
                refused()


def test_nobody_else_comes_in(guarded: Guarded) -> None:
    for url in (f"redis://127.0.0.1:{guarded.port}/0", guarded.with_password("chorus", "wrong")):
        with redis_sync.Redis.from_url(url) as client, pytest.raises(redis_sync.AuthenticationError):
            client.ping()


async def test_everything_a_replica_does_is_allowed(guarded: Guarded, store_url: str) -> None:
    """A webhook in, handled; health, fleet, queue and dead letters asked; no command was refused on the way."""
    async with outside_world() as outside:
        app = create_app(settings_of(outside.url, guarded.url, store_url, debounce_seconds=0))
        async with served(app) as base, httpx.AsyncClient(base_url=base) as http:
            raw = wa.encode_like_meta(wa.dashboard_test())
            sent = await http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
            assert sent.status_code == 200
            operator = {"Authorization": "Bearer operator-of-the-test-suite"}
            async with asyncio.timeout(20):
                while (await http.get("/admin/queue", headers=operator)).json()["pending"]:
                    await asyncio.sleep(0.02)
            for path in ("/admin/fleet", "/admin/queue", "/admin/dead-letters", "/admin/breakers", "/admin/cache"):
                assert (await http.get(path, headers=operator)).status_code == 200, path
            full = (await http.get("/health", headers=operator)).json()
            assert full["dependencies"]["redis"]["status"] == "ok"
            assert full["dependencies"]["redis"]["persistence"] == "aof"
    client = connect(guarded.url, timeout_seconds=2)
    errors = await client.info("errorstats")
    await client.aclose()
    assert "errorstat_NOPERM" not in errors, errors
