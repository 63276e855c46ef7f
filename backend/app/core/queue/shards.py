"""Where a mailbox lives, and how its server is asked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from zlib import crc32

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.queue.events import QueueUnavailable
from app.core.redis.door import Door, literal
from app.core.redis.script import Script

T = TypeVar("T")

RETRY_AFTER_SECONDS = 1.0
TRIES = 3
"""Of a call in time: the first one learns the server's time, another one follows if its clock went ahead meanwhile."""


class Shards:
    """The keys of shard n are `<namespace>:{q<n>}:…`: one cluster slot each, so that one script may touch them all."""

    def __init__(
        self, door: Door, *, namespace: str, count: int, urgent: bool = True, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`urgent`: asks also while Redis is known to be away. A worker has work to save; a webhook's sender does not
        wait."""
        self._doors = [door.of_one_shard() for _ in range(count)]
        self._urgent = urgent
        self._clock = clock
        self._servers = [ServerClock() for _ in range(count)]
        self.patience_seconds = door.timings.answer_seconds
        """After this long an answer is not waited for any more, unless a call names its own limit."""
        self.prefixes = [f"{namespace}:{{q{shard}}}:" for shard in range(count)]

    def __len__(self) -> int:
        return len(self.prefixes)

    def of(self, mailbox: str) -> int:
        """The shard of `mailbox`; the same in every replica and every version."""
        return crc32(mailbox.encode()) % len(self.prefixes)

    def split(self, items: Iterable[T], mailbox_of: Callable[[T], str]) -> dict[int, list[T]]:
        """The items of each shard, in order; no shard without any."""
        parts: dict[int, list[T]] = {}
        for item in items:
            parts.setdefault(self.of(mailbox_of(item)), []).append(item)
        return parts

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

    async def call_in_time(
        self,
        script: Script,
        shard: int,
        args: Sequence[Any],
        *,
        header: Sequence[Any] = (),
        timeout_seconds: float | None = None,
    ) -> list[Any]:
        """As `call`, of a script that does nothing once its caller has left: a server that was frozen finds requests
        late. Between `header` and `args` it gets the time until which it is waited for, by the server's clock, and
        answers with its own time in front of the rest; without any rest it was too late, or the time here not known
        yet, and is asked again while there is time."""
        server, asked = self._servers[shard], self._clock.monotonic()
        deadline = asked + (self.patience_seconds if timeout_seconds is None else timeout_seconds)
        for _ in range(TRIES):
            if asked >= deadline:
                break
            call = (*header, server.at(deadline), *args)
            answer: list[Any]
            now_ms, *answer = await self.call(script, shard, call, timeout_seconds=deadline - asked)
            answered = self._clock.monotonic()
            server.learn(now_ms, asked=asked, answered=answered)
            if answer:
                return answer
            asked = answered
        raise QueueUnavailable("queue", f"{script.name}: no time was left", retry_after=RETRY_AFTER_SECONDS)

    async def call_each(self, script: Script, args: Sequence[Any] = ()) -> list[Any]:
        """The answers of every shard, in order, as from `call`."""
        return await all_of(self.call(script, shard, args) for shard in range(len(self)))

    async def ask(self, shard: int, command: str, key: str, *args: Any) -> Any:
        """The answer to one command about `key` of that shard. Raises `QueueUnavailable`."""
        try:
            return await self._doors[shard].ask(command, self.prefixes[shard] + key, *args, urgent=self._urgent)
        except Unavailable as exc:
            raise _of_the_queue(exc, key) from exc

    async def ask_each(self, command: str, key: str, *args: Any) -> list[Any]:
        """The answers of every shard, in order, as from `ask`."""
        return await all_of(self.ask(shard, command, key, *args) for shard in range(len(self)))

    async def scan(self, shard: int, pattern: str, *, page: int) -> AsyncIterator[list[str]]:
        """Pages of the keys that match, without the shard's prefix. Raises `QueueUnavailable`."""
        prefix = self.prefixes[shard]
        try:
            async for names in self._doors[shard].scan(literal(prefix) + pattern, page=page):
                yield [name.decode()[len(prefix) :] for name in names]
        except Unavailable as exc:
            raise _of_the_queue(exc, "scan") from exc


class ServerClock:
    """Which time a server shows at a moment of this process' monotonic clock, learned from its answers.

    An answer that was asked for at a, came at b and says t puts the server ahead of this process by t - b at least and
    by t - a at most. What is known is kept as long as it lies between the two; otherwise (the clock moved, or another
    server answers) it becomes the lower one. So `at` is early by as much as an answer took, and late only by what the
    server's clock has gone back by since its last answer.
    """

    def __init__(self) -> None:
        self._ahead_ms: float | None = None

    def at(self, moment: float) -> int:
        """The server's Unix time in ms when the monotonic clock here shows `moment`; 0 before the first answer."""
        return 0 if self._ahead_ms is None else math.floor(moment * 1000 + self._ahead_ms)

    def learn(self, now_ms: int, *, asked: float, answered: float) -> float:
        """The server said `now_ms` between these moments of the monotonic clock. Returns by how many seconds at least
        its clock has gone back since its last answer, 0 if it has not."""
        before, least, most = self._ahead_ms, now_ms - answered * 1000, now_ms + 1 - asked * 1000
        if before is not None and least <= before <= most:
            return 0.0
        self._ahead_ms = least
        return 0.0 if before is None else max(0.0, (before - most) / 1000)


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


def in_chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
