"""Where a mailbox lives, and the one way in which Redis is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar
from zlib import crc32

from app.core.queue.events import QueueUnavailable
from app.core.redis import Redis, RedisError, Script, within

T = TypeVar("T")

CALL_SECONDS = 2.0
"""Every call but `put`, which has its own budget. The client's socket timeout may be shorter."""
RETRY_AFTER_SECONDS = 1.0


class Shards:
    """The keys of shard n are `<namespace>:{q<n>}:…`: one cluster slot each, so that one script may touch them all."""

    def __init__(self, redis: Redis, *, namespace: str, count: int) -> None:
        self.redis = redis
        socket_timeout = redis.get_connection_kwargs().get("socket_timeout")  # type: ignore[no-untyped-call]
        self.patience_seconds = min(CALL_SECONDS, socket_timeout or CALL_SECONDS)
        """After this long nobody waits for an answer any more."""
        self.prefixes = [f"{namespace}:{{q{shard}}}:" for shard in range(count)]

    def __len__(self) -> int:
        return len(self.prefixes)

    def of(self, mailbox: bytes) -> int:
        """The shard of `mailbox`; the same in every replica and every version."""
        return crc32(mailbox) % len(self.prefixes)

    async def call(
        self, script: Script, shard: int, args: Sequence[Any], *, timeout_seconds: float = CALL_SECONDS
    ) -> Any:
        """Run `script` on `shard`. Raises `QueueUnavailable`; whether it ran is then unknown."""
        return await bounded(script(self.redis, (self.prefixes[shard],), args), script.name, timeout_seconds)


async def bounded(command: Awaitable[T], name: str, timeout_seconds: float = CALL_SECONDS) -> T:
    """The answer of a Redis command within `timeout_seconds`, or `QueueUnavailable`."""
    try:
        return await within(timeout_seconds, command)
    except (RedisError, OSError) as exc:
        silent = f"no answer within {timeout_seconds:.1f} s" if isinstance(exc, TimeoutError) else type(exc).__name__
        reason = str(exc) or silent
        raise QueueUnavailable("queue", f"{name}: {reason}", retry_after=RETRY_AFTER_SECONDS) from exc


async def all_of(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Every result, in order. Waits for all of them also when one fails, then raises the first failure."""
    asked = list(awaitables)
    if len(asked) == 1:  # one shard: `gather` would cost more than all the rest of a put
        return [await asked[0]]
    results = await asyncio.gather(*asked, return_exceptions=True)
    good: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        good.append(result)
    return good
