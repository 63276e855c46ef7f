"""One word to a customer who waits for the model: once in a silence, before the answer or the fallback text.

    1. the customer has waited `after_seconds`, and the model is away, or has been asked for a while and says nothing
    2. the interim text becomes a reply of its own, which answers no message: `interim:<key of the reply they wait for>`
    3. the store silences it if the last thing they got is such a text, or a fallback text
    4. it takes the way of every reply: a bot that was switched off, or WhatsApp's closed window, ends it there
    5. when the wait is over, what is not known to have gone out never will

A conversation that waits comes back for it in time, also when the model is to be asked only later. Who is answered
within `after_seconds` costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import in_words
from app.domain.errors import Fenced, SendError, Unavailable
from app.domain.models import Account, Author, Fallback, Reply, ReplyState
from app.domain.ports import Messenger, Store
from app.services.delivery import Delivery, Hold, Postponed

logger = logging.getLogger(__name__)

T = TypeVar("T")

NEARLY_SECONDS = 5.0
"""An answer that has been in the making for less, or a fallback text that is due sooner, is the better word."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Of one customer, for `reply`."""

    reply: Reply
    account: Account
    accepted_at: datetime
    text: str
    """The interim text; blank: nothing is to be sent."""
    hold: Hold


class Interim:
    def __init__(
        self,
        store: Store,
        messenger: Messenger,
        delivery: Delivery,
        *,
        after_seconds: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`after_seconds`: 0 for never."""
        self._store = store
        self._messenger = messenger
        self._delivery = delivery
        self._after_seconds = after_seconds
        self._nearly_seconds = min(NEARLY_SECONDS, after_seconds)
        self._clock = clock

    async def while_making(self, wait: Wait, making: Coroutine[Any, Any, T]) -> T:
        """What `making` returns or raises. The customer is told meanwhile if it takes too long; what is being sent then
        is finished first, so that it comes before the answer."""
        due = max(self._seconds_until(wait), self._nearly_seconds)
        if due == math.inf:
            return await making
        made = asyncio.create_task(making)
        try:
            await asyncio.wait([made], timeout=due)
            if not made.done():
                await self._try_to_tell(wait)
        except BaseException:
            made.cancel()
            await asyncio.wait([made])
            raise
        return await made

    async def before(self, wait: Wait, postponed: Postponed) -> Postponed:
        """Instead of `postponed`, which puts the conversation off because of the model: the same, once the customer
        has been told, or sooner, in time for that. Raises as `Delivery.tell`."""
        due = self._seconds_until(wait)
        if due <= 0:
            await self._tell(wait)
        elif due < postponed.delay_seconds:
            return Postponed(due, str(postponed), is_punctual=True)
        return postponed

    async def end(self, wait_for: str, *, accepted_at: datetime, fence: int) -> None:
        """The wait for the reply with this key is over."""
        if self._after_seconds and self._waited(accepted_at) >= self._after_seconds:
            await self._delivery.end_unsent(_key(wait_for), fence=fence)

    def _waited(self, accepted_at: datetime) -> float:
        return (self._clock.now() - accepted_at).total_seconds()

    def _seconds_until(self, wait: Wait) -> float:
        """0 or less: now. `inf`: never, because nothing is to be said, WhatsApp takes nothing from the account, or the
        fallback text comes first."""
        if not self._after_seconds or not wait.text.strip() or wait.account.is_blocked:
            return math.inf
        due = self._after_seconds - self._waited(wait.accepted_at)
        left = self._delivery.seconds_left(wait.accepted_at) - max(0.0, due)
        return due if left >= self._nearly_seconds else math.inf

    async def _tell(self, wait: Wait) -> None:
        # As it is by now: the customer has waited for a while.
        account = await self._delivery.accounts.by_phone_number_id(wait.account.phone_number_id)
        if account is None or not account.is_active or self._messenger.blocked_seconds(account):
            return
        reply = await self._store.open_reply(
            wait.reply.conversation_id, key=_key(wait.reply.key), author=Author.BOT, covers=(), fence=wait.hold.fence
        )
        if reply.state is ReplyState.PENDING and reply.body is None:
            reply = await self._store.save_fallback(
                reply.key, fence=wait.hold.fence, covers=(), body=wait.text, fallback=Fallback.INTERIM
            )
        if reply.state not in (ReplyState.PENDING, ReplyState.SENDING):
            return
        went_out = await self._delivery.tell(reply, account=account, hold=wait.hold, accepted_at=wait.accepted_at)
        facts = {"conversation": reply.conversation_id, "seconds": round(self._waited(wait.accepted_at), 1)}
        if went_out:
            logger.info("interim text sent: the customer waits for the model", extra=facts)

    async def _try_to_tell(self, wait: Wait) -> None:
        """Its trouble is not the answer's."""
        try:
            await self._tell(wait)
        except (Fenced, Postponed, SendError, Unavailable) as exc:
            logger.warning("no interim text", extra={"reason": in_words(exc)})


def _key(wait_for: str) -> str:
    return f"interim:{wait_for}"
