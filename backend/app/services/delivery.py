"""Sending a stored reply, part by part: never twice, never lost, never over a person's head."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Expected
from app.core.logging import trace_of
from app.core.pacing import Limit, Pacer
from app.domain.errors import AccountRejected, SendAmbiguous, SendError, SendRejected, SendThrottled, Unavailable
from app.domain.models import Account, HandoverReason, Recipient, Reply, ReplyState
from app.domain.ports import Messenger, SendDecision, Store
from app.domain.text import split_text
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

PACE_SECONDS = 2.0
ACCOUNT_RETRY_SECONDS = 30.0
"""A refused token or number: people must act. The account's own circuit opens, and tries again by itself; a change of
the account wakes what waits."""
CHANGED_RETRY_SECONDS = 0.5
"""The refused token had been replaced meanwhile."""
PAIR_RATE = 131056
"""Too many messages to one customer; Meta wants 4^n seconds of silence (Cloud API, error codes)."""


PER_PAIR = Limit(6.0, 45)
"""One message per 6 s to one customer, 45 of them borrowed from the future (Cloud API, pair rate limit)."""


def per_number(messages_per_second: float) -> Limit:
    """A sixteenth of a second's messages at once, and not more than all of them in any second."""
    burst = max(1, int(messages_per_second // 16))
    return Limit(1 / max(messages_per_second - burst, messages_per_second / 2), burst)


class Postponed(Expected):
    """Nothing is wrong with the message; come back in `delay_seconds`. Not a failed attempt."""

    def __init__(self, delay_seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


class Delivered(NamedTuple):
    """The end of a reply. `reason`: why it did not go out, codes only; `""` if it did."""

    state: ReplyState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends the parts of one reply in order. The store decides, atomically, whether a part may go out."""

    store: Store
    accounts: AccountService
    messenger: Messenger
    pacer: Pacer
    reconcile_seconds: float
    reply_deadline_seconds: float
    clock: Clock = SYSTEM_CLOCK

    async def deliver(
        self,
        reply: Reply,
        *,
        account: Account,
        to: Recipient,
        accepted_at: datetime,
        fence: int,
        ensure_held: Callable[[], None],
        resend: bool,
    ) -> Delivered:
        """Bring `reply` to its end and return which. `resend`: an ambiguous part may go out again after
        `reconcile_seconds` without proof. `accepted_at`: since when somebody has waited for it. Raises `Postponed`,
        `Unavailable`, `SendThrottled`, `AccountRejected`, `Fenced`."""
        if reply.state is ReplyState.FAILED:
            # By an attempt that may have ended before it could call a person.
            return await self._ended(reply, SendDecision.FAILED)
        parts = split_text(reply.body or "")
        for index in range(reply.part, len(parts)):
            await self._pace(account, to)
            decision = await self.store.begin_part(
                reply.key, fence=fence, part=index, parts=len(parts), text=parts[index], resend=False
            )
            if decision is SendDecision.AMBIGUOUS:
                decision = await self._settle_ambiguous(reply, index, parts, fence, resend=resend)
            if decision is SendDecision.SENT:
                continue
            if decision is not SendDecision.SEND:
                return await self._ended(reply, decision)
            ended = await self._send(reply, index, parts, account, to, accepted_at, fence, ensure_held)
            if ended is not None:
                return ended
        return Delivered(ReplyState.SENT)

    def seconds_left(self, accepted_at: datetime) -> float:
        """Until somebody who has waited since `accepted_at` gets a person's help instead of an answer."""
        return (accepted_at + timedelta(seconds=self.reply_deadline_seconds) - self.clock.now()).total_seconds()

    async def give_up(self, reply: Reply, *, fence: int) -> None:
        """Leave `reply` to a person: WhatsApp takes nothing from the account. One that may have gone out stays as
        it is; one that did go out needs nobody."""
        if reply.state in (ReplyState.SENT, ReplyState.SILENCED):
            return
        if reply.state is ReplyState.PENDING:
            error = {"code": str(HandoverReason.ACCOUNT_BLOCKED), "message": "WhatsApp takes nothing from this account"}
            await self.store.fail_part(reply.key, fence=fence, part=reply.part, error=error, final=True)
        await self.store.set_needs_human(reply.conversation_id, HandoverReason.ACCOUNT_BLOCKED)

    async def _send(
        self,
        reply: Reply,
        index: int,
        parts: list[str],
        account: Account,
        to: Recipient,
        accepted_at: datetime,
        fence: int,
        ensure_held: Callable[[], None],
    ) -> Delivered | None:
        try:
            wamid = await self.messenger.send_text(
                account, to, parts[index], outbound_key=f"{reply.key}#{index}", ensure_held=ensure_held
            )
        except SendAmbiguous as exc:
            raise Postponed(self.reconcile_seconds, "waiting for the status that proves or refutes the send") from exc
        except SendRejected as exc:
            await self.store.fail_part(reply.key, fence=fence, part=index, error=_error(exc), final=True)
            await self.store.set_needs_human(reply.conversation_id, HandoverReason.SEND_FAILED)
            logger.warning("send rejected for good", extra={"reply": trace_of(reply.key), "wa_code": exc.wa_code})
            return Delivered(ReplyState.FAILED, f"send rejected: code {exc.wa_code}")
        except (SendThrottled, AccountRejected, Unavailable) as exc:
            await self.store.fail_part(reply.key, fence=fence, part=index, error=_error(exc), final=False)
            if isinstance(exc, SendThrottled):
                if exc.wa_code == PAIR_RATE:
                    exc.retry_after = await self.pacer.hold(account.phone_number_id, _peer(to))
            elif await self._is_hopeless(reply, account, accepted_at, exc):
                await self.give_up(replace(reply, part=index), fence=fence)
                why = exc.reason if isinstance(exc, AccountRejected) else account.blocked_reason
                return Delivered(ReplyState.FAILED, f"the account is blocked: {why}")
            raise
        await self.store.complete_part(reply.key, part=index, wamid=wamid, last=index == len(parts) - 1)
        await self.accounts.accepted(account)
        return None

    async def _is_hopeless(
        self, reply: Reply, account: Account, accepted_at: datetime, exc: AccountRejected | Unavailable
    ) -> bool:
        """The account is blocked, and the customer has waited long enough. A person is called at the first refusal."""
        left = self.seconds_left(accepted_at)
        is_blocked = account.is_blocked
        if isinstance(exc, AccountRejected):
            refusal = await self.accounts.refused(account, exc.reason)
            if not refusal.is_current:
                raise Postponed(CHANGED_RETRY_SECONDS, "the account has just changed") from exc
            is_blocked = refusal.is_blocked
            await self.store.set_needs_human(reply.conversation_id, HandoverReason.ACCOUNT_BLOCKED)
            exc.retry_after = min(ACCOUNT_RETRY_SECONDS, left) if left > 0 else ACCOUNT_RETRY_SECONDS
        elif exc.retry_after and 0 < left < exc.retry_after:
            raise Postponed(left, str(exc)) from exc  # at the deadline it may be hopeless
        return is_blocked and left <= 0

    async def _pace(self, account: Account, to: Recipient) -> None:
        """Wait for this number's and this customer's turn, if it is soon; else give the slot to somebody else."""
        waited = 0.0
        while wait := await self.pacer.ask(account.phone_number_id, _peer(to)):
            if waited + wait > PACE_SECONDS:
                raise Postponed(wait, "paced: WhatsApp's rate limits")
            await self.clock.sleep(wait)
            waited += wait

    async def _settle_ambiguous(
        self, reply: Reply, index: int, parts: list[str], fence: int, *, resend: bool
    ) -> SendDecision:
        """An earlier attempt may or may not have gone out: the status webhook had its time, or gets the rest of it."""
        since = reply.sending_since or self.clock.now()
        left = (since + timedelta(seconds=self.reconcile_seconds) - self.clock.now()).total_seconds()
        if left > 0:
            raise Postponed(left, "waiting for the status that proves or refutes the send")
        if resend:
            return await self.store.begin_part(
                reply.key, fence=fence, part=index, parts=len(parts), text=parts[index], resend=True
            )
        error = {"code": SendAmbiguous.code, "message": "no proof that the message went out"}
        await self.store.fail_part(reply.key, fence=fence, part=index, error=error, final=True)
        await self.store.set_needs_human(reply.conversation_id, HandoverReason.SEND_UNPROVEN)
        return SendDecision.FAILED

    async def _ended(self, reply: Reply, decision: SendDecision) -> Delivered:
        if decision is SendDecision.SILENCED:
            return Delivered(ReplyState.SILENCED, "a person has the conversation, or the bot is off")
        why = _why(reply, decision)
        await self.store.set_needs_human(reply.conversation_id, why)
        code = (reply.error or {}).get("code")
        return Delivered(ReplyState.FAILED, f"{why}: code {code}" if code is not None else str(why))


def _why(reply: Reply, decision: SendDecision) -> HandoverReason:
    if decision is SendDecision.WINDOW_CLOSED:
        return HandoverReason.WINDOW_CLOSED
    unproven = reply.error is not None and reply.error.get("code") == SendAmbiguous.code
    return HandoverReason.SEND_UNPROVEN if unproven else HandoverReason.SEND_FAILED


def _peer(to: Recipient) -> str:
    return to.wa_id or to.user_id or ""


def _error(exc: Exception) -> dict[str, object]:
    code = (
        exc.wa_code if isinstance(exc, SendError) and exc.wa_code is not None else getattr(exc, "code", "unavailable")
    )
    return {"code": code, "message": str(exc)}
