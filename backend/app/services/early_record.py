"""While a person watches an account, what its customers write is stored as soon as it is accepted, and not only when
the bot has waited for a second message: the person sees it at once.

Storing twice changes nothing, so the worker does what it always does. When this fails, the worker stores it later. It
costs a transaction, a quarter of an answer's CPU, and so it is done for a few messages a second: enough for what people
can read, and a small share of a replica that is busy.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import place_of
from app.core.feed import Feed
from app.core.queue import Event, PutResult, Queue
from app.domain.errors import ChorusError
from app.domain.webhook import Kind
from app.services.account_service import AccountService
from app.services.conversation_service import ConversationService
from app.services.ingest_service import Destination, decode

logger = logging.getLogger(__name__)

EARLY_FROM_SECONDS = 0.1
"""Of debouncing: below that a worker stores the message as soon, and to store it twice would cost for nothing."""
OF_MESSAGES = f"{Kind.MESSAGE}:"
"""How their mailboxes' names begin: statuses and notices are none of ours."""
MOST_AT_ONCE = 20
"""Conversations; what comes on top is stored by the worker."""
MOST_A_SECOND = 10
LATE_SECONDS = 10.0
"""After a message that was left to the worker those that follow in its conversation are, too: they keep their order."""
MOST_LATE = 1000
KNOWN_SECONDS = 60.0
"""How long it is known which account a number belongs to: messages of those that are not watched take no room."""
MOST_KNOWN = 10_000


class EarlyRecord:
    """In front of the queue (`Destination`)."""

    def __init__(
        self,
        destination: Destination,
        accounts: AccountService,
        conversations: ConversationService,
        feed: Feed,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._destination = destination
        self._accounts = accounts
        self._conversations = conversations
        self._feed = feed
        self._clock = clock
        self._second, self._count = float("-inf"), 0
        """When the present second began, and how many were stored early in it."""
        self._late: dict[str, float] = {}
        """Mailboxes left to the worker, until when; monotonic."""
        self._account_ids: dict[str, str] = {}
        """By the mailboxes' group, which is a number's."""
        self._forget_at = float("-inf")
        self._recording: dict[str, asyncio.Task[None]] = {}
        """By mailbox, the newest: the messages of one customer are stored in their order."""

    def put(self, events: Sequence[Event]) -> Coroutine[Any, Any, PutResult]:
        if not self._feed.is_watched:
            return self._destination.put(events)
        return self._put(events)

    async def _put(self, events: Sequence[Event]) -> PutResult:
        result = await self._destination.put(events)
        by_mailbox: dict[str, list[Event]] = {}
        for event in events:
            if event.mailbox.startswith(OF_MESSAGES) and self._may_be_watched(event.mailbox):
                by_mailbox.setdefault(event.mailbox, []).append(event)
        for mailbox, of_one in by_mailbox.items():
            before = self._recording.get(mailbox)
            if not self._has_room(mailbox, is_new=before is None):
                continue
            task = asyncio.create_task(self._record(of_one, before), name="early record")
            self._recording[mailbox] = task
            task.add_done_callback(partial(self._done, mailbox))
        return result

    def _may_be_watched(self, mailbox: str) -> bool:
        now = self._clock.monotonic()
        if now >= self._forget_at or len(self._account_ids) >= MOST_KNOWN:
            self._account_ids.clear()
            self._forget_at = now + KNOWN_SECONDS
        account_id = self._account_ids.get(Queue.group_of(mailbox))
        return account_id is None or self._feed.has_readers(account_id)

    def _has_room(self, mailbox: str, *, is_new: bool) -> bool:
        now = self._clock.monotonic()
        if now - self._second >= 1:
            self._second, self._count = now, 0
            self._late = {late: until for late, until in self._late.items() if until > now}
        is_full = self._count >= MOST_A_SECOND or (is_new and len(self._recording) >= MOST_AT_ONCE)
        if is_full or mailbox in self._late:
            if mailbox in self._late or len(self._late) < MOST_LATE:
                self._late[mailbox] = now + LATE_SECONDS
            return False
        self._count += 1
        return True

    def _done(self, mailbox: str, task: asyncio.Task[None]) -> None:
        if self._recording.get(mailbox) is task:
            del self._recording[mailbox]

    async def _record(self, events: Sequence[Event], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            now = time.time()
            messages = [
                m for m in (decode(event._replace(accepted_at=now)) for event in events) if m.kind is Kind.MESSAGE
            ]
            account = messages and await self._accounts.by_phone_number_id(messages[0].phone_number_id)
            if not account:
                return
            self._account_ids[Queue.group_of(events[0].mailbox)] = account.id
            if self._feed.has_readers(account.id):
                await self._conversations.record(messages)
        except (Unavailable, ChorusError):
            return  # the worker meets it, and says so
        except Exception as exc:  # noqa: BLE001  the worker decides what becomes of a message that cannot be stored
            logger.info("a message could not be stored early", extra={"reason": place_of(exc)})
