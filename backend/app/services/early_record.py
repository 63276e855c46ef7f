"""While a person watches an account, what its customers write is stored as soon as it is accepted, and not only when
the bot has waited for a second message: the person sees it at once.

Storing twice changes nothing, so the worker does what it always does. When this fails, the worker stores it later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from app.core.errors import Unavailable
from app.core.failure_words import place_of
from app.core.feed import Feed
from app.core.queue import Event, PutResult
from app.domain.errors import ChorusError
from app.domain.webhook import Kind
from app.services.account_service import AccountService
from app.services.conversation_service import ConversationService
from app.services.ingest_service import Destination, decode

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 20
"""Conversations; what comes on top is stored by the worker."""


class EarlyRecord:
    """In front of the queue (`Destination`)."""

    def __init__(
        self, destination: Destination, accounts: AccountService, conversations: ConversationService, feed: Feed
    ) -> None:
        self._destination = destination
        self._accounts = accounts
        self._conversations = conversations
        self._feed = feed
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
            by_mailbox.setdefault(event.mailbox, []).append(event)
        for mailbox, of_one in by_mailbox.items():
            before = self._recording.get(mailbox)
            if before is None and len(self._recording) >= MOST_AT_ONCE:
                continue
            task = asyncio.create_task(self._record(of_one, before), name="early record")
            self._recording[mailbox] = task
            task.add_done_callback(partial(self._done, mailbox))
        return result

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
            if account and self._feed.has_readers(account.id):
                await self._conversations.record(messages)
        except (Unavailable, ChorusError):
            return  # the worker meets it, and says so
        except Exception as exc:  # noqa: BLE001  the worker decides what becomes of a message that cannot be stored
            logger.info("a message could not be stored early", extra={"reason": place_of(exc)})
