"""The way to Redis for the shared tier: bounded, never retried, and not waited for while it is known to be away."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from app.core.cache.keep import MIN_CALL_SECONDS
from app.core.cache.limits import Limit, Limits
from app.core.cache.servers import Servers
from app.core.cache.shard import NotSent, Spend
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.redis import RedisError, Script
from app.core.redis_trouble import redis_words

T = TypeVar("T")

RETRY_SECONDS = 0.5
"""After a call that failed or was not answered in time, one call this often finds out whether Redis is back."""
SCAN_PAGE = 1000
SCAN_SECONDS = 2.0


class RedisLink:
    """A time limit in the client as well would cost 30 µs a call. Knows of one server's health: one a shard."""

    def __init__(self, servers: Servers, *, clock: Clock) -> None:
        self._servers = servers
        self._redis: Any = servers.commands
        self._monotonic = clock.monotonic
        self._limits = Limits()
        self._away_until = 0.0

    def mget(self, keys: Sequence[str], spend: Spend) -> Awaitable[list[bytes | None]]:
        # Without the argument checks of `mget`.
        return self._bounded(spend, self._redis.execute_command, "MGET", *keys)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], spend: Spend) -> Awaitable[Any]:
        return self._bounded(spend, script, self._redis, keys, args)

    async def scan(self, match: str) -> AsyncIterator[list[str]]:
        cursor = 0
        page = functools.partial(self._servers.scan, match=match, count=SCAN_PAGE)
        while True:
            cursor, names = await self._bounded(Spend(SCAN_SECONDS), page, cursor)
            if names:
                yield [name.decode() for name in names]
            if cursor == 0:
                return

    async def _bounded(self, spend: Spend, command: Callable[..., Awaitable[T]], *args: Any) -> T:
        slots = self._servers.slots
        if not spend.urgent:
            # Not part of the time limit: a queue of our own making says nothing about the server. If it hangs, those
            # before us find that out.
            await slots.acquire()
        started = self._monotonic()
        try:
            if self._servers.closed:
                raise NotSent("redis", "this cache has left the fleet")
            if not spend.urgent and self._away_until:
                if started < self._away_until:
                    raise NotSent("redis", "away a moment ago")
                self._away_until = started + RETRY_SECONDS  # this call finds out, the others go on without
            with Limit(self._limits, max(spend.seconds, MIN_CALL_SECONDS)):
                answer = await command(*args)
        except (RedisError, OSError) as exc:
            self._away_until = self._monotonic() + RETRY_SECONDS
            if isinstance(exc, TimeoutError):
                await self._servers.distrust(silent_since=started)
            raise Unavailable("redis", redis_words(exc)) from exc
        finally:
            seconds = self._monotonic() - started
            spend.seconds -= seconds
            if not spend.urgent:
                slots.release()
        # An urgent call may wait for longer than a read does: that it was answered says little to them.
        if not spend.urgent or seconds < MIN_CALL_SECONDS:
            self._away_until = 0.0
        return answer
