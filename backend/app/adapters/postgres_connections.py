"""The connections of one PostgreSQL store: opened when a call needs one, and used again by the next.

    connections = Connections(connect, limit=10, connect_seconds=3.0)
    connection = await connections.acquire()          # the one that was used last, else a new one
    try: ...
    finally: connections.release(connection)          # or `discard` when what comes back on it is not known

asyncpg's own pool resets a connection in a task of its own after every call, with two timers; our calls leave nothing
behind in the session. What this does not do: look whether an idle connection still works. One that has told its end is
not given out; one that ended silently fails the call that gets it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import asyncpg

IDLE_SECONDS = 300.0
LIFETIME_SECONDS = 3600.0
"""What a server's process remembers of a session grows."""


class _Idle(NamedTuple):
    connection: asyncpg.Connection
    since: float
    """By the event loop's clock."""


class Connections:
    """At most `limit`. `connect` opens one. For one event loop."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        limit: int,
        connect_seconds: float,
        idle_seconds: float = IDLE_SECONDS,
        lifetime_seconds: float = LIFETIME_SECONDS,
    ) -> None:
        """`connect_seconds`: for the wait for a turn and the opening of a connection together."""
        self._connect = connect
        self._limit = limit
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._lifetime_seconds = lifetime_seconds
        self._turns = asyncio.Semaphore(limit)
        self._idle: deque[_Idle] = deque()
        """The one that was used last at the end."""
        self._opened: dict[asyncpg.Connection, float] = {}
        """When; also those in use."""
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def acquire(self) -> asyncpg.Connection:
        """Raises what `connect` raises, `TimeoutError`, and `asyncpg.InterfaceError` once they are being closed."""
        if self._is_closed:
            raise asyncpg.InterfaceError("the connections are closed")
        if self._idle and not self._turns.locked():
            await self._turns.acquire()  # returns at once
            return await self._taken()
        async with asyncio.timeout(self._connect_seconds):
            await self._turns.acquire()
            return await self._taken()

    async def _taken(self) -> asyncpg.Connection:
        """For the holder of a turn."""
        try:
            while self._idle:
                connection = self._idle.pop().connection
                if not connection.is_closed():
                    return connection
                self._end(connection)
            if self._is_closed:
                raise asyncpg.InterfaceError("the connections are closed")
            connection = await self._connect()
        except BaseException:
            self._turns.release()
            raise
        self._opened[connection] = asyncio.get_running_loop().time()
        return connection

    def release(self, connection: asyncpg.Connection) -> None:
        """Its call has ended, and left nothing behind."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if connection.is_closed() or self._is_closed or now - self._opened[connection] > self._lifetime_seconds:
            self._end(connection)
        else:
            self._idle.append(_Idle(connection, now))
            if self._sweep is None:
                self._sweep = loop.call_later(self._idle_seconds, self._close_idle)
        self._turns.release()

    def discard(self, connection: asyncpg.Connection) -> None:
        """Instead of `release`: it serves no other call."""
        self._end(connection)
        self._turns.release()

    async def aclose(self, within_seconds: float) -> None:
        """Nothing is given out any more. What is in use may end within the time."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                for _ in range(self._limit):
                    await self._turns.acquire()
                await asyncio.gather(*(each.connection.close() for each in self._idle), return_exceptions=True)
        for connection in list(self._opened):
            self._end(connection)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._idle and self._idle[0].since + self._idle_seconds <= now:
            self._end(self._idle.popleft().connection)
        left = self._idle[0].since + self._idle_seconds if self._idle else None
        self._sweep = None if left is None else loop.call_at(left, self._close_idle)

    def _end(self, connection: asyncpg.Connection) -> None:
        self._opened.pop(connection, None)  # it may have ended with all others
        with suppress(asyncpg.InterfaceError):  # it may be lost already
            connection.terminate()
