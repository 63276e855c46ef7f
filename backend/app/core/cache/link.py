"""The way to Redis for the shared tier: bounded, never retried, and not waited for while it is known to be away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from app.core.cache.keep import MIN_CALL_SECONDS
from app.core.cache.servers import Servers
from app.core.cache.shard import Spend
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.redis import RedisError, Script

T = TypeVar("T")

RETRY_SECONDS = 0.5
"""After a call that failed or was not answered in time, one call this often finds out whether Redis is back."""
LAST_STRETCH_SECONDS = 0.005
"""The end of every time limit only runs while our own loop does, so that an answer which waits in the socket buffer
behind our own work is not taken for a slow server."""
SCAN_PAGE = 1000
SCAN_SECONDS = 2.0


class RedisLink:
    """A time limit in the client as well would cost 30 µs a call. Knows of one server's health: one a shard."""

    def __init__(self, servers: Servers, *, clock: Clock) -> None:
        self._servers = servers
        self._redis: Any = servers.commands
        self._monotonic = clock.monotonic
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        return self._monotonic() < self._away_until

    async def mget(self, keys: Sequence[str], spend: Spend) -> list[bytes | None]:
        # Without the argument checks of `mget`.
        values: list[bytes | None] = await self._bounded(lambda: self._redis.execute_command("MGET", *keys), spend)
        return values

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], spend: Spend) -> Any:
        return await self._bounded(lambda: script(self._redis, keys, args), spend)

    async def scan(self, match: str) -> AsyncIterator[list[str]]:
        cursor = 0
        while True:
            at = cursor

            def page(at: int = at) -> Awaitable[Any]:
                return self._servers.scan(at, match=match, count=SCAN_PAGE)

            cursor, names = await self._bounded(page, Spend(SCAN_SECONDS))
            if names:
                yield [name.decode() for name in names]
            if cursor == 0:
                return

    async def _bounded(self, command: Callable[[], Awaitable[T]], spend: Spend) -> T:
        if spend.urgent:
            return await self._call(command, spend)
        # Not part of the time limit: a queue of our own making says nothing about the server. If it hangs, those before
        # us find that out.
        async with self._servers.slots:
            return await self._call(command, spend)

    async def _call(self, command: Callable[[], Awaitable[T]], spend: Spend) -> T:
        started = self._monotonic()
        if started < self._away_until:
            raise Unavailable("redis", "away a moment ago")
        if self._away_until:
            self._away_until = started + RETRY_SECONDS  # this call finds out, the others go on without
        try:
            with Patience(max(spend.seconds, MIN_CALL_SECONDS)):
                answer = await command()
        except (RedisError, OSError) as exc:
            self._away_until = self._monotonic() + RETRY_SECONDS
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
        finally:
            spend.seconds -= self._monotonic() - started
        self._away_until = 0.0
        return answer


class Patience:
    """As `asyncio.timeout`, at a fraction of its cost, and its last stretch begins when our loop gets round to it."""

    __slots__ = ("_cancelling", "_expired", "_handle", "_loop", "_seconds", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        first = max(self._seconds - LAST_STRETCH_SECONDS, self._seconds / 2)
        self._handle = self._loop.call_later(first, self._stretch, self._seconds - first)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handle.cancel()
        if not self._expired:
            return
        # Another cancellation may have come as well: then it is that one that counts.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError("no answer in time")

    def _stretch(self, seconds: float) -> None:
        self._handle = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
