"""Messages go when they are older than MESSAGE_RETENTION_DAYS: on one replica, a small page at a time, once an hour."""

from __future__ import annotations

import logging

from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.ports import PrivacyStore

logger = logging.getLogger(__name__)

ROUND_SECONDS = 3600.0
CONVERSATIONS = 500
MESSAGES = 1000
"""On a page: some tens of milliseconds of the database's time."""


class Retention:
    """On one replica at a time, though two do no harm."""

    def __init__(self, store: PrivacyStore, *, days: int, clock: Clock = SYSTEM_CLOCK) -> None:
        """`days`: 0 for ever."""
        self._store = store
        self._days = days
        self._clock = clock
        self._due = 0.0
        self._after: str | None = None
        self._gone = 0

    async def forget(self) -> bool:
        """One page of a round. Returns whether there is more at once. Raises `Unavailable`: the round goes on where it
        was."""
        if self._clock.monotonic() < self._due:
            return False
        messages, self._after = await self._store.forget_messages(
            days=self._days, after=self._after, conversations=CONVERSATIONS, messages=MESSAGES
        )
        self._gone += messages
        if self._after is not None:
            return True
        if self._gone:
            logger.info("old messages are deleted", extra={"messages_deleted": self._gone, "days": self._days})
        self._due, self._gone = self._clock.monotonic() + ROUND_SECONDS, 0
        return False
