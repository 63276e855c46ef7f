"""The server and the users that ship for Redis, on every supported version that this machine has: all that Chorus does
is allowed, what the runbooks tell an operator to do is too, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as redis_sync

from app.core.queue import Queue, QueuePolicy
from app.core.redis.client import connect
from app.core.redis.door import Door
from app.main import create_app
from app.sandbox import webhooks as wa
from tests.support.guarded_redis import Guarded, guarded_redis
from tests.support.redis_servers import HOW_TO_GET_ONE, SUPPORTED, server_of
from tests.support.serving import APP_SECRET, outside_world, served, settings_of


@pytest.fixture(params=SUPPORTED)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    server = server_of(request.param)
    if server is None:
        pytest.skip(f"no {request.param} here: {HOW_TO_GET_ONE}")
    with guarded_redis(server, tmp_path) as redis:
        yield redis


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
            lambda: client.execute_command("SELECT", "1"),
            lambda: client.execute_command("SWAPDB", "0", "1"),
            lambda: client.execute_command("MOVE", "chorus:x", "1"),
            lambda: client.execute_command("COPY", "chorus:x", "chorus:y", "DB", "1"),
            lambda: client.execute_command("FUNCTION", "FLUSH"),
            lambda: client.execute_command("FUNCTION", "LIST"),
            client.script_flush,
            client.script_kill,
            lambda: client.eval("return redis.call('SELECT', 1)", 0),
        ):
            with pytest.raises((redis_sync.exceptions.NoPermissionError, redis_sync.ResponseError)) as caught:
                refused()
            assert "no such key" not in str(caught.value)


async def test_the_life_of_the_queue_knows_which_server_it_is(guarded: Guarded) -> None:
    async with AsyncExitStack() as stack:
        clients = [connect(guarded.url), connect(guarded.url)]
        for client in clients:
            stack.push_async_callback(client.aclose)
        queue = Queue(*map(Door, clients), policy=QueuePolicy(debounce_seconds=0, max_pending=10), namespace="chorus")
        stack.push_async_callback(queue.aclose)
        replid = (await clients[0].info("replication"))["master_replid"]
        assert (await queue.life()).endswith(f"-{replid}")


def test_nobody_else_comes_in(guarded: Guarded) -> None:
    for url in (f"redis://127.0.0.1:{guarded.port}/0", guarded.with_password("chorus", "wrong")):
        with redis_sync.Redis.from_url(url) as client, pytest.raises(redis_sync.AuthenticationError):
            client.ping()


async def redis_seen(http: httpx.AsyncClient, operator: dict[str, str]) -> dict[str, Any]:
    """What the replica says of its Redis."""
    return dict((await http.get("/health", headers=operator)).json()["dependencies"]["redis"])


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
            async with asyncio.timeout(20):  # a look that was too slow is followed by another
                while (seen := await redis_seen(http, operator))["status"] != "ok":
                    await asyncio.sleep(0.05)
            assert seen["persistence"] == "aof"
    async with aclosing(connect(guarded.url)) as client:
        commands = await client.info("commandstats")
        version = (await client.info("server"))["redis_version"]
    refused = {name for name, stats in commands.items() if stats.get("rejected_calls")}
    # Before 7.0 a subcommand must be allowed by name, and 7.0 does not know the name of CLIENT SETINFO, which redis-py
    # tries and can do without.
    assert refused <= ({"cmdstat_client"} if version.startswith("6.") else set())


def test_the_operator_may_do_what_the_runbooks_say_and_delete_nothing(guarded: Guarded) -> None:
    with redis_sync.Redis.from_url(guarded.url) as chorus:
        chorus.rpush("chorus:list", 1, 2)
    with redis_sync.Redis.from_url(guarded.with_password("operator", guarded.operator)) as client:
        assert client.ping()  # redis-cli --latency
        assert client.info("persistence")["aof_enabled"] == 1
        assert client.slowlog_get() == []
        assert client.config_set("maxmemory", "900mb")
        assert client.config_set("appendonly", "yes")
        assert client.config_set("no-appendfsync-on-rewrite", "yes")
        assert client.config_get("maxmemory")["maxmemory"] == "943718400"
        # redis-cli --bigkeys
        assert client.dbsize() == 1
        assert list(client.scan_iter("*")) == [b"chorus:list"]
        assert client.type("chorus:list") == b"list"
        assert client.llen("chorus:list") == 2
        assert client.memory_usage("chorus:list")
        client.execute_command("LATENCY", "LATEST")
        client.client_list()
        for refused in (
            client.flushall,
            client.shutdown,
            lambda: client.keys("*"),
            lambda: client.delete("chorus:list"),
            lambda: client.set("chorus:x", 1),
            lambda: client.eval("return redis.call('DEL', KEYS[1])", 1, "chorus:list"),
            lambda: client.execute_command("ACL", "SETUSER", "operator", "+@all"),
            lambda: client.execute_command("REPLICAOF", "127.0.0.1", "1"),
        ):
            with pytest.raises((redis_sync.exceptions.NoPermissionError, redis_sync.ResponseError)):
                refused()
