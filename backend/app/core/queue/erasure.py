"""Forgetting what is about one person: mailboxes, ids that were seen, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from app.core.clock import Clock
from app.core.queue.dead_letters import DeadLetters
from app.core.queue.events import DeadLetter, QueueUnavailable
from app.core.queue.server_clock import ServerClock
from app.core.queue.shards import RETRY_AFTER_SECONDS, Shards
from app.core.redis.door import literal
from app.core.redis.script import Script

ERASE = Script("queue_erase", prelude="queue_dead")

MAX_MAILBOXES = 50
"""In one call; each holds 1,000 events at most."""
MAX_IDS = 1000
TRIES = 3
"""The first one learns the server's time; another one follows if its clock went ahead meanwhile."""
PAGE = 200
SCAN_PAGE = 1000


@dataclass(slots=True)
class Erased:
    """What is gone from the queue."""

    claims: int = 0
    """Workers had these mailboxes, and have lost them."""
    marks: int = 0
    """Ids that were seen."""
    dead_letters: int = 0
    event_ids: list[str] = field(default_factory=list)
    """Of the events that waited or were being handled."""


class Erasure:
    """One of them, step by step; see `Queue.erase`. `erased`: what is gone so far."""

    def __init__(self, shards: Shards, dead_letters: DeadLetters, clock: Clock) -> None:
        self._shards = shards
        self._dead_letters = dead_letters
        self._clock = clock
        self._servers = [ServerClock() for _ in range(len(shards))]
        self.erased = Erased()

    async def mailboxes(self, names: Sequence[str]) -> None:
        """Each whole, also one that a worker holds: its token is void from now on, which it learns when it extends."""
        parts: dict[int, list[bytes]] = {}
        for name in (mailbox.encode() for mailbox in names):
            parts.setdefault(self._shards.of(name), []).append(name)
        for shard, part in parts.items():
            for chunk in _chunks(part, MAX_MAILBOXES):
                await self._call(shard, (len(chunk), *chunk))

    async def ids(self, ids: Sequence[str]) -> None:
        """The marks of ids, whichever shard has them: a mailbox's name is not part of one."""
        for shard in range(len(self._shards)):
            for chunk in _chunks(ids, MAX_IDS):
                await self._call(shard, (0, *chunk))

    async def ids_with(self, separator: str, ids: Sequence[str]) -> None:
        """The marks of ids that have something behind `separator`. Reads the names of all keys, a page at a time."""
        known = frozenset(ids)
        for shard, prefix in enumerate(self._shards.prefixes):
            start = len(f"{prefix}d:")
            async for page in self._shards.scan("erase", shard, f"{literal(prefix)}d:*{separator}*", page=SCAN_PAGE):
                names = [name.decode()[start:] for name in page]
                found = [name for name in names if name.rpartition(separator)[0] in known]
                if found:
                    await self._call(shard, (0, *found))

    async def letters(self, is_about: Callable[[DeadLetter], bool]) -> None:
        cursor = None
        while True:
            letters, cursor = await self._dead_letters.page(limit=PAGE, cursor=cursor)
            found = [letter for letter in letters if is_about(letter)]
            if found:
                self.erased.dead_letters += await self._dead_letters.drop([letter.id for letter in found])
                await self.ids([letter.event.id for letter in found])
                self.erased.event_ids += [letter.event.id for letter in found]
            if cursor is None:
                return

    async def _call(self, shard: int, args: Sequence[object]) -> None:
        broken, forgotten, gone = await self._in_time(shard, args)
        self.erased.claims += broken
        self.erased.marks += forgotten
        self.erased.event_ids += [event_id.decode() for event_id in gone]

    async def _in_time(self, shard: int, args: Sequence[object]) -> tuple[int, int, list[bytes]]:
        """With a deadline in the server's time: one that was frozen forgets nothing when it wakes."""
        server, asked = self._servers[shard], self._clock.monotonic()
        deadline = asked + self._shards.patience_seconds
        for _ in range(TRIES):
            call = (server.at(deadline), *args)
            now_ms, *found = await self._shards.call(ERASE, shard, call, timeout_seconds=max(0.0, deadline - asked))
            answered = self._clock.monotonic()
            server.learn(now_ms, asked=asked, answered=answered)
            if found:
                return found[0], found[1], found[2]
            asked = answered
        raise QueueUnavailable("queue", "erase: no time was left", retry_after=RETRY_AFTER_SECONDS)


def _chunks(items: Sequence[bytes] | Sequence[str], size: int) -> Iterator[Sequence[bytes] | Sequence[str]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
