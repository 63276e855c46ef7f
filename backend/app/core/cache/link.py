"""The way to Redis for the shared tier: bounded, never retried, and not waited for while it is known to be away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from app.core.cache.keep import MIN_CALL_SECONDS
from app.core.cache.shard import Spend
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.redis import Redis, RedisError, Script, scan

T = TypeVar("T")

RETRY_SECONDS = 0.5
"""After a call that failed or was not answered in time, one call this often finds out whether Redis is back."""
LAST_STRETCH_SECONDS = 0.005
"""The end of every time limit only runs while our own loop does, so that an answer which waits in the socket buffer
behind our own work is not taken for a slow server."""
SCAN_PAGE = 1000
SCAN_SECONDS = 2.0


class RedisLink:
    """`redis` needs no time limit of its own: each call has one here, which costs less."""

    def __init__(self, redis: Redis, *, clock: Clock) -> None:
        self._redis = redis
        self._monotonic = clock.monotonic
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        return self._monotonic() < self._away_until

    async def mget(self, keys: Sequence[str], spend: Spend) -> list[bytes | None]:
        command: Callable[[], Awaitable[Any]] = lambda: self._redis.mget(keys)  # noqa: E731
        values: list[bytes | None] = await self._bounded(command, spend)
        return values

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], spend: Spend) -> Any:
        return await self._bounded(lambda: script(self._redis, keys, args), spend)

    async def scan(self, match: str) -> AsyncIterator[list[str]]:
        cursor = 0
        while True:
            at = cursor

            def page(at: int = at) -> Awaitable[Any]:
                return scan(self._redis, at, match=match, count=SCAN_PAGE)

            cursor, names = await self._bounded(page, Spend(SCAN_SECONDS))
            if names:
                yield [name.decode() for name in names]
            if cursor == 0:
                return

    async def _bounded(self, command: Callable[[], Awaitable[T]], spend: Spend) -> T:
        started = self._monotonic()
        if started < self._away_until:
            raise Unavailable("redis", "away a moment ago")
        if self._away_until:
            self._away_until = started + RETRY_SECONDS  # this call finds out, the others go on without
        try:
            async with patient_timeout(max(spend.seconds, MIN_CALL_SECONDS)):
                answer = await command()
        except (RedisError, OSError) as exc:
            self._away_until = self._monotonic() + RETRY_SECONDS
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
        finally:
            spend.seconds -= self._monotonic() - started
        self._away_until = 0.0
        return answer


@asynccontextmanager
async def patient_timeout(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but its last stretch begins when our loop gets round to it."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        last = min(LAST_STRETCH_SECONDS, seconds / 2)
        stretch = loop.call_later(max(0.0, seconds - last), lambda: limit.reschedule(loop.time() + last))
        try:
            yield
        finally:
            stretch.cancel()
