"""One WhatsApp text to the number that a profile names, when a person is called in a conversation of its account.

    1. the call itself leaves a row, in its own transaction, if the profile names a number (a trigger): once for a flag
       that is raised, once for a pause that begins
    2. one replica takes the rows; the store gives each to one caller
    3. the number has written to the business within 24 hours: the text is sent, one for all rows of that moment and no
       faster than WhatsApp lets one number be written to. Otherwise WhatsApp takes no free text for it, and the
       conversation shows `window_closed`
    4. what certainly did not go out is tried again, for a quarter of an hour. What may have gone out is not
    5. a status that says later that the text did not arrive is shown, too (`app.services.statuses`)

It stands for no other way of being told: the flag, its event and the list of conversations do not depend on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.failure_words import in_words
from app.core.fleet.pacing import Pacer
from app.domain.errors import SendAmbiguous, SendError, SendThrottled, Unavailable
from app.domain.foreign_text import NAME_CHARACTERS, one_line
from app.domain.models import HandoverNotice, HandoverReason, Json, NoticeOutcome, Recipient
from app.domain.ports import Messenger, Store
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

NOTICE_KEY = "notice:"
"""The texts' outbound keys begin so."""
PAGE = 100
MAX_LINES = 20
"""Of one text: what is called for at the same moment, as in an outage, comes together."""
AGAIN_SECONDS = 20.0
GIVE_UP = timedelta(minutes=15)
LAST_TRY_SECONDS = 5.0
"""No try begins later. A page that takes ten seconds is cut off (`app.services.caretaker`), and a text on its way then
counts as one that may have gone out."""
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
    HandoverReason.WINDOW_CLOSED: "their last message is older than a day",
    HandoverReason.SEND_FAILED: "the answer could not be delivered",
    HandoverReason.SEND_UNPROVEN: "it is not known whether the answer was delivered",
    HandoverReason.ACCOUNT_BLOCKED: "WhatsApp takes nothing from this number",
    HandoverReason.OVERFLOW: "more messages than the bot could take",
    HandoverReason.DEAD_LETTER: "a message was given up on",
    HandoverReason.UNANSWERED: "a message was found without an answer",
    HandoverReason.TOKEN_BUDGET: "the account has used up its tokens for today",
    HandoverReason.DAILY_LIMIT: "the bot has had its answers for today",
    HandoverReason.REPLY_LOOP: "so many replies that the other side may be a robot",
}
"""For those who are called; a reason that only a newer version knows is shown as it is."""


class HandoverNotices:
    def __init__(
        self, store: Store, accounts: AccountService, messenger: Messenger, pacer: Pacer, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._messenger = messenger
        self._pacer = pacer
        self._clock = clock

    async def send(self) -> bool:
        """One page. Returns whether there may be more at once. Raises `Unavailable` if the store is away."""
        deadline = Deadline.after(LAST_TRY_SECONDS, self._clock)
        taken = await self._store.take_notices(limit=PAGE, lost_after_seconds=LOST_AFTER_SECONDS)
        together: dict[tuple[str, str], list[HandoverNotice]] = {}
        for notice in taken:
            if notice.outcome is None:
                together.setdefault((notice.account_id, notice.number), []).append(notice)
            else:
                self._tell(notice, notice.outcome, "")
        await asyncio.gather(*(self._send(notices, deadline) for notices in together.values()))
        return len(taken) == PAGE

    async def _send(self, notices: Sequence[HandoverNotice], deadline: Deadline) -> None:
        """Those of one account to one number, in one text."""
        first = notices[0]
        try:
            account = await self._accounts.by_id(first.account_id)
            if wait := await self._pacer.ask(account.phone_number_id, first.number):
                await self._put_off(notices, wait)
                return
            wamid = await self._messenger.send_text(
                account,
                Recipient(first.number, None),
                words(notices),
                outbound_key=f"{NOTICE_KEY}{first.id}",
                ensure_held=lambda: deadline.check("whatsapp"),
            )
        except (SendThrottled, Unavailable) as exc:
            if self._clock.now() - first.created_at < GIVE_UP:
                await self._put_off(notices, exc.retry_after or AGAIN_SECONDS)
            else:
                await self._end(notices, NoticeOutcome.FAILED, in_words(exc), error=_error_of(exc))
        except SendAmbiguous as exc:
            await self._end(notices, NoticeOutcome.UNKNOWN, in_words(exc))
        except SendError as exc:
            await self._end(notices, NoticeOutcome.FAILED, in_words(exc), error=_error_of(exc))
        else:
            await self._end(notices, NoticeOutcome.SENT, "", wamid=wamid)

    async def _put_off(self, notices: Sequence[HandoverNotice], seconds: float) -> None:
        for notice in notices:
            await self._store.put_off_notice(notice.id, seconds=seconds)

    async def _end(
        self,
        notices: Sequence[HandoverNotice],
        outcome: NoticeOutcome,
        reason: str,
        *,
        wamid: str | None = None,
        error: Json | None = None,
    ) -> None:
        for notice in notices:
            await self._store.end_notice(notice.id, outcome, wamid=wamid, error=error)
            self._tell(notice, outcome, reason)

    def _tell(self, notice: HandoverNotice, outcome: NoticeOutcome, reason: str) -> None:
        NOTICES.labels(outcome).inc()
        level = logging.INFO if outcome is NoticeOutcome.SENT else logging.WARNING
        facts = {"conversation": notice.conversation_id, "outcome": str(outcome), "reason": reason}
        logger.log(level, "a person was called: the text to the profile's number", extra=facts)


def tell_of_failure(outbound_key: str, reason: str) -> None:
    """WhatsApp had accepted the text with this key, and reports that it did not arrive."""
    NOTICES.labels(NoticeOutcome.FAILED).inc()
    facts = {"reply": outbound_key, "outcome": str(NoticeOutcome.FAILED), "reason": reason}
    logger.warning("a person was called: the text to the profile's number did not arrive", extra=facts)


def _error_of(exc: SendError | Unavailable) -> Json | None:
    code = exc.wa_code if isinstance(exc, SendError) else None
    return {"code": code} if code is not None else None


def words(notices: Sequence[HandoverNotice]) -> str:
    """What the number reads: a line for each conversation."""
    lines = [_line(notice) for notice in notices[:MAX_LINES]]
    more = len(notices) - len(lines)
    return "\n".join([*lines, *([f"And {more} more."] if more else [])])


def _line(notice: HandoverNotice) -> str:
    name, number = one_line(notice.name or "", NAME_CHARACTERS), notice.wa_id and f"+{notice.wa_id}"
    who = " ".join([*([name] if name else []), *([f"({number})" if name else number] if number else [])])
    return f"{who or 'A customer'} is waiting for a person: {WORDS.get(notice.reason or '', notice.reason)}."
