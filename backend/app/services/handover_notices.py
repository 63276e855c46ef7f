"""One WhatsApp text to the number that a profile names, when a person is called in a conversation of its account.

    1. the call itself leaves a row, in its own transaction, if the profile names a number (a trigger): once for a flag
       that is raised, once for a pause that begins
    2. one replica takes the rows; the store gives each to one caller
    3. the number has written to the business within 24 hours: the text is sent. Otherwise WhatsApp takes no free text
       for it, and the conversation shows `window_closed`
    4. what certainly did not go out is tried again, for a quarter of an hour. What may have gone out is not

It stands for no other way of being told: the flag, its event and the list of conversations do not depend on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import in_words
from app.domain.errors import SendAmbiguous, SendError, SendThrottled, Unavailable
from app.domain.foreign_text import NAME_CHARACTERS, one_line
from app.domain.models import HandoverNotice, HandoverReason, NoticeOutcome, Recipient
from app.domain.ports import Messenger, Store
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

PAGE = 20
AGAIN_SECONDS = 20.0
GIVE_UP = timedelta(minutes=15)
LOST_AFTER_SECONDS = 120.0
"""Longer than a send takes with all its retries."""

NOTICES = Counter(
    "chorus_handover_notices_total", "Texts to the numbers of profiles, by what became of them", ["outcome"]
)

WORDS: Mapping[str, str] = {
    HandoverReason.CUSTOMER_ASKED: "asked for one",
    HandoverReason.NEEDS_PERSON: "the bot cannot do what they need",
    HandoverReason.PROMISED: "the bot promised one",
    HandoverReason.MODEL_REFUSED: "the model refused to answer",
    HandoverReason.MODEL_UNAVAILABLE: "the model gave no answer in time",
    HandoverReason.UNREADABLE: "they sent something that the bot cannot read",
    HandoverReason.SEND_FAILED: "the answer could not be delivered",
    HandoverReason.TOKEN_BUDGET: "the account has used up its tokens for today",
    HandoverReason.DAILY_LIMIT: "the bot has had its answers for today",
    HandoverReason.REPLY_LOOP: "so many replies that the other side may be a robot",
}
"""For those who are called; a reason without words here is shown as it is."""


class HandoverNotices:
    def __init__(
        self, store: Store, accounts: AccountService, messenger: Messenger, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._messenger = messenger
        self._clock = clock

    async def send(self) -> bool:
        """One page. Returns whether there may be more at once. Raises `Unavailable` if the store is away."""
        taken = await self._store.take_notices(limit=PAGE, lost_after_seconds=LOST_AFTER_SECONDS)
        for notice in taken:
            if notice.outcome is not None:
                self._tell(notice, notice.outcome, "")
        await asyncio.gather(*(self._send(notice) for notice in taken if notice.outcome is None))
        return len(taken) == PAGE

    async def _send(self, notice: HandoverNotice) -> None:
        try:
            account = await self._accounts.by_id(notice.account_id)
            await self._messenger.send_text(
                account, Recipient(notice.number, None), words(notice), outbound_key=f"notice:{notice.id}"
            )
        except (SendThrottled, Unavailable) as exc:
            if self._clock.now() - notice.created_at < GIVE_UP:
                await self._store.put_off_notice(notice.id, seconds=exc.retry_after or AGAIN_SECONDS)
            else:
                await self._end(notice, NoticeOutcome.FAILED, in_words(exc))
        except SendAmbiguous as exc:
            await self._end(notice, NoticeOutcome.UNKNOWN, in_words(exc))
        except SendError as exc:
            await self._end(notice, NoticeOutcome.FAILED, in_words(exc))
        else:
            await self._end(notice, NoticeOutcome.SENT, "")

    async def _end(self, notice: HandoverNotice, outcome: NoticeOutcome, reason: str) -> None:
        await self._store.end_notice(notice.id, outcome)
        self._tell(notice, outcome, reason)

    def _tell(self, notice: HandoverNotice, outcome: NoticeOutcome, reason: str) -> None:
        NOTICES.labels(outcome).inc()
        level = logging.INFO if outcome is NoticeOutcome.SENT else logging.WARNING
        facts = {"conversation": notice.conversation_id, "outcome": str(outcome), "reason": reason}
        logger.log(level, "a person was called: the text to the profile's number", extra=facts)


def words(notice: HandoverNotice) -> str:
    """What the number reads."""
    name, number = one_line(notice.name or "", NAME_CHARACTERS), notice.wa_id and f"+{notice.wa_id}"
    who = " ".join([*([name] if name else []), *([f"({number})" if name else number] if number else [])])
    return f"{who or 'A customer'} is waiting for a person: {WORDS.get(notice.reason or '', notice.reason)}."
