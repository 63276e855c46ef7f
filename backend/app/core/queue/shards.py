"""Where a mailbox lives, and how its server is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Any, TypeVar
from zlib import crc32

from app.core.errors import Unavailable
from app.core.queue.events import QueueUnavailable
from app.core.redis.door import Door
from app.core.redis.script import Script

T = TypeVar("T")

RETRY_AFTER_SECONDS = 1.0


class Shards:
    """The keys of shard n are `<namespace>:{q<n>}:…`: one cluster slot each, so that one script may touch them all."""

    def __init__(self, door: Door, *, namespace: str, count: int, urgent: bool = True) -> None:
        """`urgent`: asks also while Redis is known to be away. A worker has work to save; a webhook's sender does not
        wait."""
        self._doors = [door.of_one_shard() for _ in range(count)]
        self._urgent = urgent
        self.patience_seconds = door.timings.answer_seconds
        """After this long an answer is not waited for any more, unless a call names its own limit."""
        self.prefixes = [f"{namespace}:{{q{shard}}}:" for shard in range(count)]

    def __len__(self) -> int:
        return len(self.prefixes)

    def of(self, mailbox: bytes) -> int:
        """The shard of `mailbox`; the same in every replica and every version."""
        return crc32(mailbox) % len(self.prefixes)

    async def call(
        self, script: Script, shard: int, args: Sequence[Any], *, timeout_seconds: float | None = None
    ) -> Any:
        """Run `script` on `shard`. Raises `QueueUnavailable`; whether it ran is then unknown."""
        try:
            return await self._doors[shard].run(
                script, (self.prefixes[shard],), args, within_seconds=timeout_seconds, urgent=self._urgent
            )
        except Unavailable as exc:
            raise _of_the_queue(exc, script.name) from exc

    async def ask(self, name: str, shard: int, *command: Any) -> Any:
        """The answer to one command; `name` says in an error what it was for. Raises `QueueUnavailable`."""
        try:
            return await self._doors[shard].ask(*command, urgent=self._urgent)
        except Unavailable as exc:
            raise _of_the_queue(exc, name) from exc

    async def scan(self, name: str, shard: int, match: str, *, page: int) -> AsyncIterator[list[bytes]]:
        """Pages of the keys that match, which must carry the shard's hash tag. Raises `QueueUnavailable`."""
        try:
            async for names in self._doors[shard].scan(match, page=page):
                yield names
        except Unavailable as exc:
            raise _of_the_queue(exc, name) from exc


def _of_the_queue(exc: Unavailable, name: str) -> QueueUnavailable:
    return QueueUnavailable("queue", f"{name}: {exc}", retry_after=RETRY_AFTER_SECONDS)


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
