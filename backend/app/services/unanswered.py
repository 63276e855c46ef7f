"""Finds what Postgres has and the queue has lost: customers who wait, and nothing that would ever answer them.

Redis was wiped, started without its file, or failed over to a copy that lagged; or Postgres did, and has forgotten how
a reply ended. One replica looks every few seconds:

    1. the conversations in which something may wait, by a mark in their row (a partial index: what waits, not what is
       stored). Only what is older than
       `GRACE_SECONDS`.
    2. those that have a mailbox are the queue's business. On an ordinary day that, or an answer, is all of them.
    3. of the others, what no finished reply covers. Nothing: the mark goes. Asked in this order: an empty mailbox means
       that its effects were committed before, so that 3 sees them.
    4. put into the queue as it came, under the id that it had.
       Stored: Redis had lost it. A reply is stored under the id of its first message, so that one which was begun is
       found, and finished.
       A duplicate: another replica may have put it back a moment ago (2. and 3. are asked once more), or the queue has
       finished with it, and Postgres does not know how that ended. It may have been answered; a person is called. So it
       is for one that is about to be too late for WhatsApp's 24 hours.

A person who was called after the message came is enough: nothing is put back. What it does not do: find messages that
were accepted and not yet recorded in Postgres; those are gone with Redis' file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.queue import Event, Queue
from app.core.tolerant_json import dumps
from app.domain.models import WINDOW_HOURS, HandoverReason, Unanswered, Waiting
from app.domain.ports import Store
from app.domain.webhook import Kind, expects_answer, to_inbound
from app.services.conversation_service import outbound_event, outbound_mailbox

logger = logging.getLogger(__name__)

PAGE = 500
GRACE_SECONDS = 3.0
"""Longer than a look takes; most answers are there by then."""
LATE = timedelta(hours=WINDOW_HOURS) - timedelta(minutes=15)

FOUND = Counter(
    "chorus_unanswered_total", "Conversations found waiting without a mailbox, by what became of them", ["outcome"]
)


@dataclass(frozen=True, slots=True)
class _Lost:
    """What a conversation waits for: events as they came, and whether it is too late to answer."""

    waiting: Waiting
    events: list[Event]
    is_late: bool


class UnansweredSearch:
    """On one replica at a time, though two do no harm: the ids are known to the queue, and what another one put back
    calls no person."""

    def __init__(
        self, queue: Queue, store: Store, *, grace_seconds: float = GRACE_SECONDS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._grace_seconds = grace_seconds
        self._queue = queue
        self._store = store
        self._clock = clock
        self._after: Waiting | None = None

    async def look(self) -> bool:
        """One page. Returns whether there is more at once. Raises `Unavailable`."""
        page = await self._store.waiting_conversations(
            older_than_seconds=self._grace_seconds, limit=PAGE, after=self._after
        )
        self._after = page[-1] if len(page) == PAGE else None
        alone = await self._without_mailbox(page)
        if alone:
            await self._settle(alone)
        return self._after is not None

    async def _without_mailbox(self, page: Sequence[Waiting]) -> dict[str, Waiting]:
        if not page:
            return {}
        names = {waiting.conversation_id: _mailboxes(waiting) for waiting in page}
        there = await self._queue.waiting([name for each in names.values() for name in each])
        return {
            waiting.conversation_id: waiting for waiting in page if there.isdisjoint(names[waiting.conversation_id])
        }

    async def _settle(self, alone: dict[str, Waiting]) -> None:
        found = await self._store.unanswered(list(alone), fresh_seconds=self._grace_seconds)
        quiet = [alone[each.conversation_id] for each in found if not each.has_news]
        lost = [self._judge(alone[each.conversation_id], each) for each in found if not each.has_news]
        open_cases = [each for each in lost if each.events]
        results = await asyncio.gather(*(self._put_back(each) for each in open_cases))
        kept = {each.waiting.conversation_id for each, back in zip(open_cases, results, strict=True) if back}
        await self._store.stop_waiting([w for w in quiet if w.conversation_id not in kept])

    def _judge(self, waiting: Waiting, found: Unanswered) -> _Lost:
        number = waiting.phone_number_id
        events = [
            outbound_event(number, waiting.account_id, waiting.conversation_id, reply.key, reply.body)
            for reply in found.replies
        ]
        called = waiting.needs_human_since
        messages = [
            message
            for message in found.messages
            if waiting.is_served
            and (called is None or called < message.created_at)
            and expects_answer(to_inbound(message.payload, message.created_at))
        ]
        peer = {"wa_id": waiting.wa_id, "user_id": waiting.user_id, "name": waiting.name}
        for message in messages:
            content = {"kind": Kind.MESSAGE, "number": number, "body": {"message": message.payload, **peer}}
            event_id = f"{Kind.MESSAGE}:{number}:{message.wa_message_id}"
            events.append(Event(event_id, _mailboxes(waiting)[0], dumps(content)))
        is_late = bool(messages) and self._clock.now() - max(message.timestamp for message in messages) > LATE
        return _Lost(waiting, events, is_late)

    async def _put_back(self, lost: _Lost) -> bool:
        """Returns whether it is to be looked at again."""
        if lost.is_late:
            await self._call_a_person(lost.waiting, "late")
            return False
        result = await self._queue.put(lost.events)
        if result.accepted:
            FOUND.labels("queued").inc()
            logger.warning("found without a mailbox, queued again", extra={"messages": result.accepted})
        elif not result.diverted:
            if not await self._is_still_lost(lost):
                return True
            await self._call_a_person(lost.waiting, "unknown")
            return False
        return True

    async def _is_still_lost(self, lost: _Lost) -> bool:
        """No mailbox has it, and no reply. In this order, as ever: an empty mailbox had its effects before."""
        alone = await self._without_mailbox([lost.waiting])
        found = await self._store.unanswered(list(alone), fresh_seconds=self._grace_seconds) if alone else ()
        return any(self._judge(lost.waiting, each).events for each in found if not each.has_news)

    async def _call_a_person(self, waiting: Waiting, outcome: str) -> None:
        await self._store.set_needs_human(waiting.conversation_id, HandoverReason.UNANSWERED)
        FOUND.labels(outcome).inc()
        logger.warning("found without an answer, a person is called", extra={"conversation": waiting.conversation_id})


def _mailboxes(waiting: Waiting) -> list[str]:
    """Where its events may be; the first one is where they would go."""
    peers = [peer for peer in (waiting.user_id, waiting.wa_id) if peer]
    names = [f"{Kind.MESSAGE}:{waiting.phone_number_id}:{peer}" for peer in peers]
    by_version_1 = f"{Kind.OUTBOUND}:{waiting.conversation_id}"
    return [*names, outbound_mailbox(waiting.phone_number_id, waiting.conversation_id), by_version_1]
