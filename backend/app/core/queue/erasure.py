"""Forgetting what is about one person: mailboxes, ids that were seen, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.core.queue.dead_letters import DeadLetters
from app.core.queue.events import DeadLetter
from app.core.queue.shards import Shards, in_chunks
from app.core.redis.script import Script

ERASE = Script("queue_erase", prelude="queue_dead")

MAX_MAILBOXES = 50
"""In one call; each holds 1,000 events at most."""
MAX_IDS = 1000
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

    def __init__(self, shards: Shards, dead_letters: DeadLetters) -> None:
        self._shards = shards
        self._dead_letters = dead_letters
        self.erased = Erased()

    async def mailboxes(self, names: Sequence[str]) -> None:
        """Each whole, also one that a worker holds: its token is void from now on, which it learns when it extends."""
        for shard, part in self._shards.split(names, str).items():
            for chunk in in_chunks(part, MAX_MAILBOXES):
                await self._call(shard, (len(chunk), *chunk))

    async def ids(self, ids: Sequence[str]) -> None:
        """The marks of ids, whichever shard has them: a mailbox's name is not part of one."""
        for shard in range(len(self._shards)):
            for chunk in in_chunks(ids, MAX_IDS):
                await self._call(shard, (0, *chunk))

    async def ids_with(self, separator: str, ids: Sequence[str]) -> None:
        """The marks of ids that have something behind `separator`. Reads the names of all keys, a page at a time."""
        known = frozenset(ids)
        for shard in range(len(self._shards)):
            async for page in self._shards.scan(shard, f"d:*{separator}*", page=SCAN_PAGE):
                found = [name[2:] for name in page if name[2:].rpartition(separator)[0] in known]
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
        broken, forgotten, gone = await self._shards.call_in_time(ERASE, shard, args)
        self.erased.claims += broken
        self.erased.marks += forgotten
        self.erased.event_ids += [event_id.decode() for event_id in gone]
