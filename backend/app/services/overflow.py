"""What finds no room in the queue: one customer's flood, or an account whose conversations wait for too long.

    1. put: into the queue, or the journal in its place. It diverts what exceeds a mailbox, or an account's share
       (core/lua/queue_put.lua): that goes into a table, in the same request, and Meta gets its 200. Everything beside
       it is in the queue.
    2. drain, on one replica: each row is recorded as what it is. A message is stored and a person is called, the bot
       does not answer it; a status is applied; an echo turns the bot off. Then the row goes. While Redis, which says
       which replica it is, is away, every replica drains.
    3. An account may hold at most as much of the table as is still free. What exceeds that is refused with 503, so that
       Meta delivers it again; the others' events of the same request are stored.

A row that is recorded twice changes nothing. What cannot be recorded becomes a dead letter, once Redis is there. The
windows: a message here may be recorded before an older one that still waits in its mailbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import place_of
from app.core.queue import Event, PutResult, Queue, QueueFull, QueueUnavailable
from app.domain.errors import Conflict, Erased, Unavailable, Unprocessable
from app.domain.models import HandoverReason
from app.domain.ports import OverflowStore
from app.domain.webhook import Kind
from app.services.account_notices import AccountNotices
from app.services.conversation_service import ConversationService
from app.services.ingest_service import Destination, Incoming, decode

logger = logging.getLogger(__name__)

PAGE = 200
FULL_RETRY_SECONDS = 5.0
TELL_SECONDS = 30.0


class Overflow:
    """Stands in for the `put` of the queue, or of the journal."""

    def __init__(
        self,
        queue: Destination,
        store: OverflowStore,
        *,
        max_rows: int,
        max_bytes: int,
        put_timeout_seconds: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`max_rows`, and `max_bytes` of payload, bound the table. `put_timeout_seconds`: for what the database is
        asked to keep."""
        self._queue = queue
        self._store = store
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._put_timeout_seconds = put_timeout_seconds
        self._clock = clock
        self._told_at = float("-inf")

    async def put(self, events: Sequence[Event]) -> PutResult:
        """As `Queue.put`, and nothing is left diverted. Raises `Unavailable` as well when the database does not take
        what the queue has no room for; what it had room for is stored by then, and safe to repeat."""
        result = await self._queue.put(events)
        if result.diverted:
            await self.keep(result.diverted)
        return result

    async def keep(self, events: Sequence[Event]) -> None:
        """Store what there is no room for elsewhere. Raises `QueueFull`, `Unavailable`: put all of it again."""
        try:
            async with asyncio.timeout(self._put_timeout_seconds):
                _, refused = await self._store.overflow_put(events, max_rows=self._max_rows, max_bytes=self._max_bytes)
        except Conflict as exc:
            raise QueueFull("queue", str(exc), retry_after=FULL_RETRY_SECONDS) from exc
        except TimeoutError as exc:
            raise Unavailable("database", "the overflow was not taken in time", retry_after=1.0) from exc
        if refused:
            raise QueueFull("queue", "an account has its share of the overflow", retry_after=FULL_RETRY_SECONDS)
        if self._clock.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = self._clock.monotonic()
            logger.warning("no room in the queue: stored for a person", extra={"events": len(events)})


class OverflowDrain:
    """The other half: on one replica at a time, though two do no harm."""

    def __init__(
        self, queue: Queue, store: OverflowStore, conversations: ConversationService, notices: AccountNotices
    ) -> None:
        self._queue = queue
        self._store = store
        self._leave = conversations.leave_to_a_person
        self._one: Mapping[str, Callable[[Incoming], Awaitable[object]]] = {
            Kind.MESSAGE: lambda incoming: self._leave([incoming], HandoverReason.OVERFLOW),
            Kind.STATUS: conversations.apply_status,
            Kind.ECHO: conversations.record_echo,
            Kind.NOTICE: notices.receive,
        }

    async def drain(self) -> bool:
        """Record one page. Returns whether there is more. Raises `Unavailable`; what was recorded by then is recorded
        again, which changes nothing."""
        rows = await self._store.overflow_peek(limit=PAGE)
        by_mailbox: dict[str, list[Event]] = {}
        for _, event in rows:
            by_mailbox.setdefault(event.mailbox, []).append(event)
        kept: set[str] = set()
        for mailbox, events in by_mailbox.items():
            kept.update(await self._record(mailbox.partition(":")[0], events))
        done = [row for row, event in rows if event.id not in kept]
        if done:
            await self._store.overflow_delete(done)
            logger.warning("overflow recorded", extra={"events": len(done), "mailboxes": len(by_mailbox)})
        return len(done) == PAGE

    async def _record(self, kind: str, events: Sequence[Event]) -> list[str]:
        """Returns the ids of those that stay: dead letters for which Redis is not there."""
        if kind == Kind.MESSAGE and len(events) > 1:
            with suppress(Erased, Unprocessable, TypeError, ValueError, LookupError, AttributeError):  # then one by one
                await self._leave([decode(event) for event in events], HandoverReason.OVERFLOW)
                return []
        kept = []
        for event in events:
            try:
                await self._one.get(kind, _refuse)(decode(event))
                continue
            except Unavailable:
                raise
            except Erased:
                continue
            except Unprocessable as exc:
                reason = exc.reason
            except Exception as exc:
                logger.error("an event that found no room cannot be recorded", exc_info=exc)
                reason = place_of(exc)
            try:
                await self._queue.dead_letters.add(event, reason)
            except QueueUnavailable:
                kept.append(event.id)
        return kept


async def _refuse(incoming: Incoming) -> None:
    raise Unprocessable(str(incoming.body.get("reason", "no room in the queue")))
