"""Blue ticks and "typing…" while an answer is made: in the background, and dropped at the first sign of trouble.

A courtesy is worth no wait, no retry and no place of a send. The messenger makes it past the circuits; here it gets a
bounded number of tasks, each with a time limit of the messenger's, and a pause for its account after every failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.errors import SendError, Unavailable
from app.domain.models import Account
from app.domain.ports import Messenger

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 20
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
MAX_ACCOUNTS_IN_TROUBLE = 1000
CLOSE_SECONDS = 1.0

COURTESIES = Counter(
    "chorus_courtesies_total", "Read receipts with typing indicator, by what became of them", ["outcome"]
)


class _Trouble(NamedTuple):
    quiet_until: float
    pause_seconds: float


class Courtesy:
    """`show_typing` returns at once and never raises; `aclose` ends what is still under way."""

    def __init__(self, messenger: Messenger, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._messenger = messenger
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._troubles: OrderedDict[str, _Trouble] = OrderedDict()

    def show_typing(self, account: Account, wa_message_id: str) -> None:
        """Mark the message as read and show "typing…". Dropped while the account's courtesies fail, or too many run."""
        number = account.phone_number_id
        trouble, now = self._troubles.get(number), self._clock.monotonic()
        if len(self._tasks) >= MAX_AT_ONCE or (trouble is not None and now < trouble.quiet_until):
            COURTESIES.labels("dropped").inc()
            return
        if trouble is not None:
            # One try a pause: the next message must not start another before this one is answered.
            self._troubles[number] = trouble._replace(quiet_until=now + trouble.pause_seconds)
        task = asyncio.create_task(self._show_typing(account, wa_message_id), name="courtesy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _show_typing(self, account: Account, wa_message_id: str) -> None:
        try:
            await self._messenger.mark_read(account, wa_message_id, typing=True)
        except (SendError, Unavailable) as exc:
            COURTESIES.labels("failed").inc()
            logger.info("no typing indicator", extra={"reason": str(exc)})
            self._be_quiet(account.phone_number_id)
        else:
            COURTESIES.labels("shown").inc()
            self._troubles.pop(account.phone_number_id, None)

    def _be_quiet(self, number: str) -> None:
        trouble = self._troubles.pop(number, None)
        pause = min(2 * trouble.pause_seconds, MAX_PAUSE_SECONDS) if trouble else FIRST_PAUSE_SECONDS
        self._troubles[number] = _Trouble(self._clock.monotonic() + pause, pause)
        if len(self._troubles) > MAX_ACCOUNTS_IN_TROUBLE:
            self._troubles.popitem(last=False)

    async def aclose(self) -> None:
        """Wait a moment for what is under way, then cancel it. Idempotent."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
