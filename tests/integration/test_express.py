"""Commands past redis-py's pool: each gets its own answer, and what became of its connection fails no later one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from redis.asyncio import Redis

from app.core.redis import Express, NoScriptError, RedisConnectionError, ResponseError, Script, connect
from tests.support.proxy import proxied

MANY = 8


@asynccontextmanager
async def express_to(url: str, *, max_connections: int = MANY) -> AsyncIterator[tuple[Express, Redis]]:
    client = connect(url, timeout_seconds=None, max_connections=max_connections, name="express")
    try:
        yield Express(client), client
    finally:
        await client.aclose()


def connections_to(url: str) -> list[dict[str, str]]:
    with redis.Redis.from_url(url) as admin:
        return [each for each in admin.client_list() if each["name"] == "express"]


async def echo_many(express: Express) -> None:
    said = [f"{number}" for number in range(MANY)]
    heard = await asyncio.gather(*(express.execute_command("ECHO", word) for word in said))
    assert [word.decode() for word in heard] == said


async def test_commands_one_after_the_other_use_one_connection(valkey_url: str) -> None:
    async with express_to(valkey_url) as (express, _):
        for _ in range(20):
            assert await express.execute_command("PING") == b"PONG"
        assert len(connections_to(valkey_url)) == 1
        await echo_many(express)
        await echo_many(express)
        assert len(connections_to(valkey_url)) == MANY
    assert connections_to(valkey_url) == []


@pytest.mark.parametrize("reset", [False, True])
async def test_idle_connections_that_were_closed_fail_no_command(valkey_url: str, *, reset: bool) -> None:
    """As a server does when it restarts or after its `timeout`, and as many a load balancer does."""
    async with proxied(valkey_url) as line, express_to(line.url) as (express, client):
        await echo_many(express)
        line.cut(reset=reset)
        await asyncio.sleep(0.05)
        await echo_many(express)
        assert len(client.connection_pool._in_use_connections) == MANY


async def test_idle_connections_that_were_reset_fail_no_command_of_redis_py_either(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, express_to(line.url) as (_, client):
        await asyncio.gather(*(client.ping() for _ in range(MANY)))
        line.cut(reset=True)
        await asyncio.sleep(0.05)
        await asyncio.gather(*(client.ping() for _ in range(MANY)))


async def test_those_that_have_answered_since_are_kept(valkey_url: str) -> None:
    async with express_to(valkey_url) as (express, _):
        await echo_many(express)
        before = time.monotonic()
        kept = await asyncio.gather(*(express.execute_command("CLIENT", "ID") for _ in range(3)))
        await express.drop_idle(silent_since=before)
        await asyncio.sleep(0.02)
        assert {int(each["id"]) for each in connections_to(valkey_url)} == set(kept)


async def test_a_cancelled_command_leaves_its_answer_to_nobody(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, express_to(line.url, max_connections=2) as (express, _):
        assert await express.execute_command("PING") == b"PONG"
        for _ in range(5):
            line.freeze()
            late = asyncio.create_task(express.execute_command("ECHO", "late"))
            await asyncio.sleep(0.02)
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
            line.thaw()
            assert await express.execute_command("ECHO", "next") == b"next"


async def test_a_cancelled_command_costs_nobody_else_a_connection(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, express_to(line.url) as (express, _):
        await echo_many(express)
        before = {each["id"] for each in connections_to(valkey_url)}
        line.freeze()
        late = asyncio.create_task(express.execute_command("PING"))
        await asyncio.sleep(0.02)
        late.cancel()
        await asyncio.wait({late})
        line.thaw()
        await echo_many(express)
        assert len(before & {each["id"] for each in connections_to(valkey_url)}) == MANY - 1


async def test_a_connection_that_opens_slowly_is_there_for_the_next_command(valkey_url: str) -> None:
    """Opening one takes several answers, more than a command may take on a server at some distance."""
    async with proxied(valkey_url) as line, express_to(line.url) as (express, _):
        line.delay_seconds = 0.01
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.015):
                await express.execute_command("PING")
        await asyncio.sleep(0.09)
        async with asyncio.timeout(0.03):
            assert await express.execute_command("PING") == b"PONG"
        assert len(connections_to(valkey_url)) == 1


async def test_one_that_is_still_opening_when_it_is_closed_does_not_stay(valkey_url: str) -> None:
    async with proxied(valkey_url) as line:
        async with express_to(line.url) as (express, _):
            line.freeze()
            waiting = asyncio.create_task(express.execute_command("PING"))
            await asyncio.sleep(0.02)
            await express.aclose()
            with pytest.raises(RedisConnectionError):
                await waiting
        line.thaw()
        await asyncio.sleep(0.02)
        assert connections_to(valkey_url) == []


async def test_a_connection_that_is_cut_takes_the_idle_ones_along_and_no_room_in_the_pool(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, express_to(line.url) as (express, client):
        for _ in range(3):
            await echo_many(express)
            line.freeze()
            cut = asyncio.create_task(express.execute_command("ECHO", "cut"))
            await asyncio.sleep(0.02)
            line.cut()
            with pytest.raises(RedisConnectionError):
                await cut
            line.thaw()
        await echo_many(express)
        assert len(client.connection_pool._in_use_connections) == MANY


async def test_an_error_of_the_server_costs_no_connection(valkey_url: str) -> None:
    async with express_to(valkey_url) as (express, _):
        connection = await express.execute_command("CLIENT", "ID")
        with pytest.raises(ResponseError):
            await express.execute_command("NO-SUCH-COMMAND")
        beat = Script("cache_beat")
        with pytest.raises(NoScriptError):
            await beat.evalsha(express, ["p:"], [])
        sequence, now = await beat(express, ["p:"], [])
        assert int(sequence) == int(now) > 0
        assert await express.execute_command("CLIENT", "ID") == connection
