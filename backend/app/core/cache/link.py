"""The way to Redis for one shard: in turn, and within what a read may still spend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from app.core.cache.keep import MIN_CALL_SECONDS
from app.core.cache.shard import Spend
from app.core.clock import Clock
from app.core.redis.door import Door
from app.core.redis.script import Script

T = TypeVar("T")

SCAN_PAGE = 1000
SCAN_SECONDS = 2.0


class RedisLink:
    """`slots`: of the calls that share a client. More of them would not be faster: one process keeps a handful of
    connections busy at most, and opening one costs a millisecond of its time."""

    def __init__(self, door: Door, slots: asyncio.Semaphore, *, clock: Clock) -> None:
        self._door = door
        self._slots = slots
        self._monotonic = clock.monotonic

    def mget(self, keys: Sequence[str], spend: Spend) -> Awaitable[list[bytes | None]]:
        return self._bounded(spend, self._door.ask, "MGET", *keys)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], spend: Spend) -> Awaitable[Any]:
        return self._bounded(spend, self._door.run, script, keys, args)

    async def scan(self, match: str) -> AsyncIterator[list[str]]:
        async for names in self._door.scan(match, page=SCAN_PAGE, within_seconds=SCAN_SECONDS):
            yield [name.decode() for name in names]

    async def _bounded(self, spend: Spend, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not spend.urgent:
            # Not part of the time limit: a queue of our own making says nothing about the server. If it hangs, those
            # before us find that out.
            await self._slots.acquire()
        started = self._monotonic()
        try:
            return await call(*args, within_seconds=max(spend.seconds, MIN_CALL_SECONDS), urgent=spend.urgent)
        finally:
            spend.seconds -= self._monotonic() - started
            if not spend.urgent:
                self._slots.release()
