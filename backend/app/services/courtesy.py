"""Blue ticks and "typing…" while an answer is made: in the background, and dropped at the first sign of trouble.

A courtesy is worth no wait, no retry and no place of a send. The messenger makes it past the circuits. Here:

1. One for a burst: a conversation has one at a time, for the latest message, and a message has one in `TYPING_SECONDS`,
   however often its answer is begun.
2. It is sent when there is time: while a turn of the event loop takes longer than `SPARE_SECONDS` it waits, for
   `PATIENCE_SECONDS` at most, and it is dropped when the answer is there first.
3. Once it is under way nothing cancels it but the messenger's time limit: half an exchange costs a connection.
4. At most `MAX_AT_ONCE`, and a pause for its account after every failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Overloaded
from app.domain.errors import SendError, Unavailable
from app.domain.models import Account
from app.domain.ports import Messenger

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 20
SPARE_SECONDS = 0.005
"""A turn of the loop that takes longer has work to do for answers."""
LOOK_AGAIN_SECONDS = 0.05
PATIENCE_SECONDS = 2.0
TYPING_SECONDS = 25.0
"""So long WhatsApp shows the indicator (Cloud API, typing indicators)."""
MAX_REMEMBERED = 10_000
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


class _Waiting(NamedTuple):
    account: Account
    wa_message_id: str


class Courtesy:
    """`show_typing` returns at once and never raises; `aclose` ends what is still under way."""

    def __init__(self, messenger: Messenger, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._messenger = messenger
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By conversation, those that wait included."""
        self._waiting: dict[str, _Waiting] = {}
        self._shown: OrderedDict[str, float] = OrderedDict()
        """When messages had theirs, the oldest first."""
        self._troubles: OrderedDict[str, _Trouble] = OrderedDict()
        self._is_closed = False

    def show_typing(self, account: Account, conversation_id: str, wa_message_id: str) -> None:
        """Mark the message as read and show "typing…". Dropped while the account's courtesies fail, or too many run."""
        if self._is_closed:
            return
        if conversation_id in self._waiting:
            self._waiting[conversation_id] = _Waiting(account, wa_message_id)
            return
        number = account.phone_number_id
        trouble, now = self._troubles.get(number), self._clock.monotonic()
        if conversation_id in self._tasks or now < self._shown.get(wa_message_id, -TYPING_SECONDS) + TYPING_SECONDS:
            return
        if len(self._tasks) >= MAX_AT_ONCE or (trouble is not None and now < trouble.quiet_until):
            COURTESIES.labels("dropped").inc()
            return
        if trouble is not None:
            # One try a pause: the next message must not start another before this one is answered.
            self._troubles[number] = trouble._replace(quiet_until=now + trouble.pause_seconds)
        self._waiting[conversation_id] = _Waiting(account, wa_message_id)
        task = asyncio.create_task(self._when_there_is_time(conversation_id), name="courtesy")
        self._tasks[conversation_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(conversation_id, None))

    def answer_is_there(self, conversation_id: str) -> None:
        """Drop one that waits: "typing…" after the answer would be wrong. One that is under way stays."""
        if self._waiting.pop(conversation_id, None) is not None:
            COURTESIES.labels("dropped").inc()

    async def _when_there_is_time(self, conversation_id: str) -> None:
        has_time = await self._has_time(conversation_id)
        waiting = self._waiting.pop(conversation_id, None)
        if waiting is None:
            return
        if not has_time:
            COURTESIES.labels("dropped").inc()
            return
        await self._show_typing(*waiting)

    async def _has_time(self, conversation_id: str) -> bool:
        """False if there was none in `PATIENCE_SECONDS`."""
        give_up_at = self._clock.monotonic() + PATIENCE_SECONDS
        while conversation_id in self._waiting:
            began = self._clock.monotonic()
            await asyncio.sleep(0)  # one turn of the loop: all that is ready runs
            now = self._clock.monotonic()
            if now - began <= SPARE_SECONDS:
                return True
            if now >= give_up_at:
                return False
            await self._clock.sleep(LOOK_AGAIN_SECONDS)
        return True

    async def _show_typing(self, account: Account, wa_message_id: str) -> None:
        self._remember(wa_message_id)
        try:
            await self._messenger.mark_read(account, wa_message_id, typing=True)
        except Overloaded:  # sends have all the places
            COURTESIES.labels("dropped").inc()
        except (SendError, Unavailable) as exc:
            COURTESIES.labels("failed").inc()
            logger.info("no typing indicator", extra={"reason": str(exc)})
            self._be_quiet(account.phone_number_id)
        else:
            COURTESIES.labels("shown").inc()
            self._troubles.pop(account.phone_number_id, None)

    def _remember(self, wa_message_id: str) -> None:
        now = self._clock.monotonic()
        self._shown[wa_message_id] = now
        self._shown.move_to_end(wa_message_id)
        while len(self._shown) > MAX_REMEMBERED or next(iter(self._shown.values())) + TYPING_SECONDS <= now:
            self._shown.popitem(last=False)

    def _be_quiet(self, number: str) -> None:
        trouble = self._troubles.pop(number, None)
        pause = min(2 * trouble.pause_seconds, MAX_PAUSE_SECONDS) if trouble else FIRST_PAUSE_SECONDS
        self._troubles[number] = _Trouble(self._clock.monotonic() + pause, pause)
        if len(self._troubles) > MAX_ACCOUNTS_IN_TROUBLE:
            self._troubles.popitem(last=False)

    async def aclose(self) -> None:
        """Wait a moment for what is under way, then cancel it. Idempotent; nothing begins afterwards."""
        self._is_closed = True
        self._waiting.clear()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
