"""INGEST_FALLBACK=database: while the queue is away, events wait in Postgres, and join it in order when it is back.

    1. put: into the queue. It is away: into the inbox, and from then on everything goes there (*diverted*), so that no
       event overtakes an older one of its conversation.
    2. Every replica looks at the inbox once a second, and is diverted as long as it sees rows: what another replica has
       put aside must not be overtaken here either.
    3. Whoever finds rows moves them, oldest first: put into the queue, then delete. Two movers do no harm: the queue
       knows the ids. A crash between the two steps only repeats a put.
    4. The inbox is empty and nothing of ours is on its way into it: directly into the queue again.

The one window: a replica that has not noticed the outage at all (no event came its way) may, for up to a second after
the queue's return, put a message directly that is newer than one in the inbox.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.queue import Event, PutResult, Queue, QueueFull, QueueUnavailable
from app.domain.errors import Conflict, Unavailable
from app.domain.ports import InboxStore

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MOVE_ROWS = 500

DIVERTED = Gauge("chorus_inbox_diverted", "1 while webhooks are stored in the database instead of the queue")


class InboxFallback:
    """Stands in for the queue's `put`. `run` is its mover: a background loop of every replica."""

    def __init__(self, queue: Queue, store: InboxStore, *, max_rows: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._queue = queue
        self._store = store
        self._max_rows = max_rows
        self._clock = clock
        self._diverted = False
        self._writing = 0
        self._writes = 0

    async def put(self, events: Sequence[Event]) -> PutResult:
        """As `Queue.put`. Raises `QueueFull`, or `Unavailable` if the database is away too."""
        if not self._diverted:
            try:
                return await self._queue.put(events)
            except QueueUnavailable as exc:
                self._divert(str(exc))
        self._writing += 1
        self._writes += 1
        try:
            stored = await self._store.inbox_put(events, max_rows=self._max_rows)
        except Conflict as exc:
            raise QueueFull("queue", str(exc), retry_after=LOOK_SECONDS) from exc
        finally:
            self._writing -= 1
        return PutResult(stored, len(events) - stored)

    async def run(self) -> None:
        """Look, move, and look again at once while there is more."""
        while True:
            try:
                moved = await self._move()
            except Unavailable as exc:
                logger.warning("inbox not moved", extra={"reason": str(exc)})
                moved = 0
            if moved < MOVE_ROWS:
                await self._clock.sleep(LOOK_SECONDS)

    async def _move(self) -> int:
        quiet, writes = not self._writing, self._writes
        rows = await self._store.inbox_peek(limit=MOVE_ROWS)
        if rows:
            self._divert("rows in the inbox")
            await self._queue.put([event for _, event in rows])
            await self._store.inbox_delete([row for row, _ in rows])
            logger.warning("inbox moved into the queue", extra={"events": len(rows)})
        elif self._diverted and quiet and await self._queue_is_back() and self._writes == writes:
            # Nothing of ours was on its way while we looked: what we saw is all there is.
            self._diverted = False
            DIVERTED.set(0)
            logger.warning("webhooks go into the queue again")
        return len(rows)

    async def _queue_is_back(self) -> bool:
        try:
            await self._queue.stats()
        except QueueUnavailable:
            return False
        return True

    def _divert(self, reason: str) -> None:
        if not self._diverted:
            self._diverted = True
            DIVERTED.set(1)
            logger.warning("webhooks go into the database", extra={"reason": reason})
