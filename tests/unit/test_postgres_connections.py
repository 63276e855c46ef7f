"""Connections to PostgreSQL are used again, never more than allowed, and not kept for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from app.adapters.postgres_connections import Connections


class Connection:
    """What `Connections` uses of asyncpg's."""

    def __init__(self) -> None:
        self.ended = ""

    def is_closed(self) -> bool:
        return bool(self.ended)

    def terminate(self) -> None:
        self.ended = self.ended or "terminated"

    async def close(self) -> None:
        self.ended = "closed"


class Server:
    def __init__(self, **options: Any) -> None:
        self.opened: list[Connection] = []
        self.is_away = False
        self.connections = Connections(self._open, **{"limit": 2, "connect_seconds": 5.0, **options})

    async def _open(self) -> Any:
        if self.is_away:
            raise ConnectionRefusedError
        self.opened.append(Connection())
        return self.opened[-1]


async def test_the_connection_that_was_used_last_is_used_next() -> None:
    server = Server()
    first, second = await server.connections.acquire(), await server.connections.acquire()
    server.connections.release(first)
    server.connections.release(second)
    assert await server.connections.acquire() is second
    assert await server.connections.acquire() is first
    assert len(server.opened) == 2


async def test_a_call_beyond_the_limit_waits_for_one_and_leaves_when_it_is_cancelled() -> None:
    server = Server()
    first, _ = await server.connections.acquire(), await server.connections.acquire()
    waiting = [asyncio.create_task(server.connections.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    server.connections.release(first)
    assert await waiting[1] is first
    assert len(server.opened) == 2


async def test_a_call_that_waits_too_long_is_told_so() -> None:
    server = Server(limit=1, connect_seconds=0.01)
    await server.connections.acquire()
    with pytest.raises(TimeoutError):
        await server.connections.acquire()


async def test_one_that_is_discarded_or_has_ended_is_replaced() -> None:
    server = Server(limit=1)
    server.connections.discard(await server.connections.acquire())
    server.connections.release(await server.connections.acquire())
    server.opened[1].ended = "by the server"
    await server.connections.acquire()
    assert [each.ended for each in server.opened] == ["terminated", "by the server", ""]


async def test_a_failure_to_connect_keeps_no_place() -> None:
    server = Server(limit=1)
    server.is_away = True
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await server.connections.acquire()
    server.is_away = False
    await server.connections.acquire()


async def test_one_that_is_not_used_is_closed_after_a_while_and_the_others_stay() -> None:
    server = Server(idle_seconds=0.02)
    unused, used = await server.connections.acquire(), await server.connections.acquire()
    server.connections.release(unused)
    async with asyncio.timeout(5):
        while not unused.is_closed():
            await asyncio.sleep(0.005)
    assert not used.is_closed()


async def test_one_that_is_old_is_not_kept() -> None:
    server = Server(lifetime_seconds=0.0)
    old = await server.connections.acquire()
    await asyncio.sleep(0.002)
    server.connections.release(old)
    assert old.is_closed()


async def test_closing_waits_for_what_is_in_use_and_refuses_what_comes() -> None:
    server = Server()
    in_use, idle = await server.connections.acquire(), await server.connections.acquire()
    server.connections.release(idle)
    closing = asyncio.create_task(server.connections.aclose(5.0))
    await asyncio.sleep(0)
    with pytest.raises(asyncpg.InterfaceError):
        await server.connections.acquire()
    assert not in_use.is_closed()
    server.connections.release(in_use)
    await closing
    assert [each.ended for each in server.opened] == ["terminated", "closed"]


async def test_closing_does_not_wait_for_ever() -> None:
    server = Server()
    stuck = await server.connections.acquire()
    await server.connections.aclose(0.01)
    assert stuck.is_closed()
    server.connections.discard(stuck)
