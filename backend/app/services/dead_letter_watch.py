"""A message that was given up on calls a person. Every dead letter passes here, whatever made it one: a verdict of a
worker, a worker that died again and again, or no room in the queue. And an old one is forgotten: a text stays in Redis
no longer than it can be of use (docs/adr/0016)."""

from __future__ import annotations

import logging
import time

from prometheus_client import Counter

from app.core.queue import DeadLetter, Queue
from app.domain.errors import Unavailable, UnknownAccount
from app.services.conversation_service import ConversationService
from app.services.ingest_service import decode
from app.services.journal import Journal

logger = logging.getLogger(__name__)

PAGE = 100
FIRST_LOOK_SECONDS = 86400.0
"""How old a dead letter may be that was there before the first look."""
KEEP_SECONDS = 8 * 86400.0
"""As the ids of messages seen and the journal's rows: longer than the 7 days in which Meta redelivers."""

TOLD = Counter("chorus_dead_letters_told_total", "Dead letters seen, by whether a person was called", ["outcome"])


class DeadLetterWatch:
    """On one replica at a time, though two do no harm: to call a person twice changes nothing."""

    def __init__(
        self, queue: Queue, conversations: ConversationService, journal: Journal | None = None, *, events: Queue
    ) -> None:
        """`journal`: it keeps a row of each letter, which takes no room of what waits. `events`: whose dead letters are
        forgotten too; they call no person."""
        self._queue = queue
        self._events = events
        self._conversations = conversations
        self._journal = journal

    async def tell(self) -> bool:
        """One page. Returns whether there may be more. Raises `Unavailable`: the rest is told later."""
        # Asked first: letters of a later life are then left as they are, and never one that waits again buried.
        life = await self._queue.life() if self._journal else ""
        letters = await self._queue.dead_letters.untold(limit=PAGE, since=time.time() - FIRST_LOOK_SECONDS)
        if self._journal:
            await self._journal.bury([letter.event for letter in letters], life=life)
        for letter in letters:
            called = await self._call_a_person(letter)
            TOLD.labels("called" if called else "not_called").inc()
            await self._queue.dead_letters.told(letter.id)
        return len(letters) >= PAGE

    async def forget(self) -> bool:
        """What is too old, one page. Returns whether there may be more."""
        queues = (self._queue, self._events)
        forgotten = [await each.dead_letters.forget(older_than_seconds=KEEP_SECONDS, limit=PAGE) for each in queues]
        if any(forgotten):
            logger.warning("dead letters are forgotten: they are 8 days old", extra={"dead_letters": sum(forgotten)})
        return max(forgotten) >= PAGE

    async def _call_a_person(self, letter: DeadLetter) -> bool:
        try:
            return await self._conversations.tell_given_up(decode(letter.event))
        except Unavailable:
            raise
        except UnknownAccount:
            return False
        except Exception as exc:
            logger.error("nobody could be told of a dead letter", exc_info=exc, extra={"letter": letter.id})
            return False
