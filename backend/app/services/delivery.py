"""Sending a stored reply, part by part: never twice, never lost, never over a person's head."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Expected
from app.core.failure_words import in_words
from app.core.fleet.pacing import Limit, Pacer
from app.core.logging import trace_of
from app.domain.errors import (
    AccountRejected,
    Fenced,
    NotFound,
    SendAmbiguous,
    SendError,
    SendRejected,
    SendThrottled,
    Unavailable,
)
from app.domain.media import Media, OutgoingFile, takes_caption
from app.domain.models import Account, Handover, HandoverReason, Recipient, Reply, ReplyState
from app.domain.ports import MediaStore, Messenger, SendDecision, Store
from app.domain.text import split_text
from app.domain.usage import Spent
from app.services.account_service import AccountService
from app.services.proofs import Proofs

logger = logging.getLogger(__name__)

PACE_SECONDS = 2.0
ACCOUNT_RETRY_SECONDS = 30.0
"""A refused token or number: people must act. The account's own circuit opens, and tries again by itself; a change of
the account wakes what waits."""
CHANGED_RETRY_SECONDS = 0.5
"""The refused token had been replaced meanwhile."""
RECORD_SECONDS = 120.0
"""How long a worker keeps trying to record what WhatsApp said, as long as it holds the conversation. After that the
receipt in Redis stands for it."""
RECORD_AGAIN_SECONDS = 1.0
PROOF_AGAIN_SECONDS = 1.0
PAIR_RATE = 131056
"""Too many messages to one customer; Meta wants 4^n seconds of silence (Cloud API, error codes)."""

_UNPROVEN: Mapping[str, object] = {"code": SendAmbiguous.code, "message": "no proof that the message went out"}
_BLOCKED: Mapping[str, object] = {
    "code": str(HandoverReason.ACCOUNT_BLOCKED), "message": "WhatsApp takes nothing from this account",
}  # fmt: skip
_REFUSED_NOW = (SendDecision.SEND, SendDecision.AMBIGUOUS)
"""`Store.refuse_part` has made the part fail; otherwise it had ended before."""

PER_PAIR = Limit(6.0, 45)
"""One message per 6 s to one customer, 45 of them borrowed from the future (Cloud API, pair rate limit)."""


def per_number(messages_per_second: float) -> Limit:
    """A sixteenth of a second's messages at once, and not more than all of them in any second."""
    burst = max(1, int(messages_per_second // 16))
    return Limit(1 / max(messages_per_second - burst, messages_per_second / 2), burst)


class Postponed(Expected):
    """Nothing is wrong with the message; come back in `delay_seconds`. Not a failed attempt. `is_punctual`: what comes
    then has a time of its own, and need not be spread as the tries after an outage are."""

    def __init__(self, delay_seconds: float, reason: str, *, is_punctual: bool = False) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds
        self.is_punctual = is_punctual


class Hold(Protocol):
    """The worker's hold on the conversation while it sends."""

    @property
    def fence(self) -> int: ...

    def ensure_held(self) -> None:
        """Raise `Fenced` if another worker may have the conversation by now. Call before every side effect."""
        ...


class Delivered(NamedTuple):
    """The end of a reply. `reason`: why it did not go out, codes only; `""` if it did."""

    state: ReplyState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """The first part of a reply, begun in the transaction that stored its text."""

    attempt: str
    decision: SendDecision


@dataclass(frozen=True, slots=True)
class _Step:
    """One part of a reply on its way."""

    reply: Reply
    index: int
    parts: list[str]
    account: Account
    hold: Hold
    accepted_at: datetime
    """Since when the customer waits for the reply."""
    attempt: str
    """Unique to this try."""
    file: OutgoingFile | None = None
    """What goes out in place of the text, which is what is stored."""

    @property
    def key(self) -> str:
        return f"{self.reply.key}#{self.index}"

    @property
    def text(self) -> str:
        return self.parts[self.index]

    @property
    def is_last(self) -> bool:
        return self.index == len(self.parts) - 1


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends the parts of one reply in order. The store decides, atomically, whether a part may go out."""

    store: Store
    accounts: AccountService
    messenger: Messenger
    pacer: Pacer
    proofs: Proofs
    files: MediaStore
    reconcile_seconds: float
    reply_deadline_seconds: float
    clock: Clock = SYSTEM_CLOCK

    async def deliver(
        self,
        reply: Reply,
        *,
        account: Account,
        hold: Hold,
        accepted_at: datetime,
        resend: bool,
        begun: Begun | None = None,
        file: Media | None = None,
    ) -> Delivered:
        """Bring `reply` to its end and return which. `resend`: an ambiguous part may go out again after
        `reconcile_seconds` in which a proof could have come and did not. `accepted_at`: since when the customer waits
        for it. `begun`: of `save_and_begin`, a moment ago. `file`: goes out first, with the reply's text as its
        caption if it takes one. Raises `Postponed`, `Unavailable`, `SendThrottled`,
        `AccountRejected`, `Fenced`."""
        if reply.state is ReplyState.FAILED:
            # By an attempt that may have ended before it could call a person.
            return await self._ended(reply, SendDecision.FAILED)
        parts = _parts(reply, file)
        for index in range(reply.part, len(parts)):
            has_begun = begun if index == 0 else None
            attempt = has_begun.attempt if has_begun else str(uuid.uuid4())
            step = _Step(reply, index, parts, account, hold, accepted_at, attempt)
            if has_begun is not None:
                decision = has_begun.decision
            else:
                await self._pace(step)
                if file is not None and index == 0:
                    begun_file = await self._begin_file(step, file)
                    if isinstance(begun_file, Delivered):
                        return begun_file
                    step, decision = begun_file
                else:
                    decision = await self._begin(step)
            if decision is SendDecision.AMBIGUOUS:
                decision = await self._settle_ambiguous(step, resend=resend)
            if decision is SendDecision.SENT:
                continue
            if decision is not SendDecision.SEND:
                return await self._ended(reply, decision)
            try:
                ended = await self._send(step)
            except SendAmbiguous as exc:
                why = "waiting for the status that proves or refutes the send"
                raise Postponed(self.reconcile_seconds, why) from exc
            if ended is not None:
                return ended
        return Delivered(ReplyState.SENT)

    async def save_and_begin(
        self,
        reply: Reply,
        *,
        covers: Sequence[str],
        body: str,
        spent: Spent | None,
        handover: Handover | None,
        account: Account,
        fence: int,
    ) -> tuple[Reply, Begun | None]:
        """Store the answer, which is not empty, and begin to send it in the same transaction. `None`: nothing is begun,
        because the reply has another text, or the text is stored alone: WhatsApp's limits make it wait, or the database
        lacks what the beginning needs. Raises `Unavailable`, `Fenced`, `Conflict`."""
        answer: dict[str, Any] = {"fence": fence, "covers": covers, "body": body, "spent": spent, "handover": handover}
        save = partial(self.store.save_body, reply.key, **answer)
        if await self.pacer.ask(account.phone_number_id, _peer(reply.to)):
            return await save(), None
        parts, attempt = split_text(body), str(uuid.uuid4())
        try:
            saved, decision = await self.store.save_and_begin(
                reply.key, **answer, parts=len(parts), text=parts[0], attempt=attempt
            )
        except (Unavailable, asyncio.CancelledError) as exc:
            await self._note_unsent(attempt)  # as in `_begin`
            if isinstance(exc, Unavailable) and exc.shared_by:
                return await save(), None  # a locked conversation: the model need not be asked again for that
            raise
        return saved, Begun(attempt, decision) if decision else None

    async def tell(self, reply: Reply, *, account: Account, hold: Hold, accepted_at: datetime) -> bool:
        """Send `reply`, a text of one message on which nothing depends; whether it went out for certain. One of unknown
        outcome is not sent again, not waited for, and calls no person; a status may still prove it. Raises as
        `deliver`."""
        step = _Step(reply, 0, split_text(reply.body or "")[:1], account, hold, accepted_at, str(uuid.uuid4()))
        await self._pace(step)
        decision = await self._begin(step)
        if decision is SendDecision.AMBIGUOUS:
            await self.end_unsent(reply.key, fence=hold.fence)
        if decision is not SendDecision.SEND:
            return decision is SendDecision.SENT
        try:
            return await self._send(step) is None
        except SendAmbiguous:
            await self._record_failure(step, _UNPROVEN, final=True)
            return False

    async def end_unsent(self, key: str, *, fence: int) -> None:
        """A text as for `tell` that is not known to have gone out never will. No such reply, or one that has ended:
        nothing happens."""
        with suppress(NotFound):
            await self.store.fail_part(key, fence=fence, part=0, error=_UNPROVEN, final=True)

    def seconds_left(self, accepted_at: datetime) -> float:
        """Until a customer who has waited since `accepted_at` gets a person's help instead of an answer."""
        return (accepted_at + timedelta(seconds=self.reply_deadline_seconds) - self.clock.now()).total_seconds()

    async def give_up(self, reply: Reply, *, fence: int) -> None:
        """Leave `reply` to a person: WhatsApp takes nothing from the account. One that may have gone out is unproven
        then, until a status says more; one that did go out needs no person."""
        if reply.state in (ReplyState.SENT, ReplyState.SILENCED):
            return
        if reply.state is not ReplyState.FAILED:
            error = _BLOCKED if reply.state is ReplyState.PENDING else _UNPROVEN
            await self.store.fail_part(reply.key, fence=fence, part=reply.part, error=error, final=True)
        await self.store.set_needs_human(reply.conversation_id, HandoverReason.ACCOUNT_BLOCKED)

    async def _begin(self, step: _Step, *, resend: bool = False) -> SendDecision:
        try:
            return await self.store.begin_part(
                step.reply.key, fence=step.hold.fence, part=step.index, parts=len(step.parts), text=step.text,
                resend=resend, attempt=step.attempt,
            )  # fmt: skip
        except (Unavailable, asyncio.CancelledError):
            # The database may have committed it, or do so later. Nothing is sent on the strength of it.
            await self._note_unsent(step.attempt)
            raise

    async def _begin_file(self, step: _Step, file: Media) -> tuple[_Step, SendDecision] | Delivered:
        """Upload, then begin: a worker that ends before has sent nothing."""
        try:
            step = replace(step, file=await self._uploaded(step, file))
        except SendRejected as exc:
            decision = await self._refuse(step, _error(exc))
            return await self._rejected(step, exc) if decision in _REFUSED_NOW else (step, decision)
        except (AccountRejected, Unavailable) as exc:
            if not await self._is_hopeless(step, exc):
                raise
            decision = await self._refuse(step, _BLOCKED)
            return await self._given_up(step, exc) if decision in _REFUSED_NOW else (step, decision)
        return step, await self._begin(step)

    async def _refuse(self, step: _Step, error: Mapping[str, object]) -> SendDecision:
        """Record that the part will not go out: the message is there, and shows that it failed. In one call, so that a
        worker that ends here leaves no message that seems to be on its way."""
        return await self.store.refuse_part(
            step.reply.key, fence=step.hold.fence, part=step.index, parts=len(step.parts), text=step.text,
            attempt=step.attempt, error=error,
        )  # fmt: skip

    async def _send(self, step: _Step) -> Delivered | None:
        try:
            wamid = await self._posted(step)
        except Fenced:
            await self._note_unsent(step.attempt)
            raise
        except SendRejected as exc:
            await self._record_failure(step, _error(exc), final=True)
            return await self._rejected(step, exc)
        except (SendThrottled, AccountRejected, Unavailable) as exc:
            await self._record_failure(step, _error(exc), final=False)
            if isinstance(exc, SendThrottled):
                if exc.wa_code == PAIR_RATE:
                    exc.retry_after = await self.pacer.hold(step.account.phone_number_id, _peer(step.reply.to))
            elif await self._is_hopeless(step, exc):
                return await self._given_up(step, exc)
            raise
        await self._record_success(step, wamid)
        await self.accounts.accepted(step.account)
        return None

    async def _given_up(self, step: _Step, exc: Exception) -> Delivered:
        await self.give_up(replace(step.reply, part=step.index), fence=step.hold.fence)
        why = exc.reason if isinstance(exc, AccountRejected) else step.account.blocked_reason
        return Delivered(ReplyState.FAILED, f"the account is blocked: {why}")

    async def _posted(self, step: _Step) -> str:
        post = partial(self.messenger.send_text, step.account, step.reply.to, step.text)
        if step.file is not None:
            post = partial(self.messenger.send_file, step.account, step.reply.to, step.file)
        return await post(outbound_key=step.key, ensure_held=step.hold.ensure_held)

    async def _uploaded(self, step: _Step, file: Media) -> OutgoingFile:
        """Raises as `Messenger.upload_file`."""
        step.hold.ensure_held()
        name = file.name or f"{file.kind}.{file.mime.rpartition('/')[2]}"
        uploaded_id = await self.messenger.upload_file(
            step.account, name=name, mime=file.mime, size=file.size or 0, pieces=lambda: self.files.read(file.id)
        )
        caption = (step.reply.body or "") if takes_caption(file.kind) else ""
        return OutgoingFile(file.kind, uploaded_id, name, caption)

    async def _rejected(self, step: _Step, exc: SendRejected) -> Delivered:
        """The part has failed by now."""
        await self.store.set_needs_human(step.reply.conversation_id, HandoverReason.SEND_FAILED)
        logger.warning("send rejected for good", extra={"reply": trace_of(step.reply.key), "wa_code": exc.wa_code})
        return Delivered(ReplyState.FAILED, f"send rejected: code {exc.wa_code}")

    async def _record_success(self, step: _Step, wamid: str) -> None:
        await self._record(
            step,
            lambda: self.store.complete_part(step.reply.key, part=step.index, wamid=wamid, last=step.is_last),
            note=lambda: self.proofs.note(step.key, wamid),
        )

    async def _record_failure(self, step: _Step, error: Mapping[str, object], *, final: bool) -> None:
        await self._record(
            step,
            lambda: self.store.fail_part(
                step.reply.key, fence=step.hold.fence, part=step.index, error=error, final=final
            ),
            note=lambda: self.proofs.note_unsent(step.attempt),
        )  # fmt: skip

    async def _record(
        self, step: _Step, write: Callable[[], Awaitable[None]], *, note: Callable[[], Awaitable[None]]
    ) -> None:
        """Write what WhatsApp said, again and again while this worker has the conversation. Should it lose it, or end,
        the next one finds the receipt. Raises `Unavailable` after `RECORD_SECONDS`, `Fenced`."""
        deadline = self.clock.monotonic() + RECORD_SECONDS
        is_noted = False
        while True:
            try:
                return await write()
            except Unavailable as exc:
                if not is_noted:
                    logger.warning(
                        "what became of a send cannot be recorded yet",
                        extra={"reply": step.reply.key, "reason": in_words(exc)},
                    )
                    is_noted = await self._try(note)
                if self.clock.monotonic() >= deadline:
                    raise
            await self.clock.sleep(RECORD_AGAIN_SECONDS)
            step.hold.ensure_held()

    async def _note_unsent(self, attempt: str) -> None:
        await self._try(lambda: self.proofs.note_unsent(attempt))

    async def _try(self, note: Callable[[], Awaitable[None]]) -> bool:
        try:
            await note()
        except Unavailable as exc:
            logger.warning("no receipt written", extra={"reason": in_words(exc)})
            return False
        return True

    async def _is_hopeless(self, step: _Step, exc: AccountRejected | Unavailable) -> bool:
        """The account is blocked, and the customer has waited long enough. A person is called at the first refusal."""
        left = self.seconds_left(step.accepted_at)
        is_blocked = step.account.is_blocked
        if isinstance(exc, AccountRejected):
            refusal = await self.accounts.refused(step.account, exc.reason)
            if not refusal.is_current:
                raise Postponed(CHANGED_RETRY_SECONDS, "the account has just changed") from exc
            is_blocked = refusal.is_blocked
            await self.store.set_needs_human(step.reply.conversation_id, HandoverReason.ACCOUNT_BLOCKED)
            exc.retry_after = min(ACCOUNT_RETRY_SECONDS, left) if left > 0 else ACCOUNT_RETRY_SECONDS
        elif exc.retry_after and 0 < left < exc.retry_after:
            raise Postponed(left, str(exc)) from exc  # at the deadline it may be hopeless
        return is_blocked and left <= 0

    async def _pace(self, step: _Step) -> None:
        """Wait for this number's and this customer's turn, if it is soon; else give the slot to another message."""
        waited = 0.0
        while wait := await self.pacer.ask(step.account.phone_number_id, _peer(step.reply.to)):
            if waited + wait > PACE_SECONDS:
                raise Postponed(wait, "paced: WhatsApp's rate limits")
            await self.clock.sleep(wait)
            waited += wait

    async def _settle_ambiguous(self, step: _Step, *, resend: bool) -> SendDecision:
        """An earlier attempt may or may not have gone out. First the receipts and the statuses that wait are asked;
        then the status webhook gets the rest of its time, and time in which none could be applied does not count."""
        reply = await self.store.open_reply(
            step.reply.conversation_id, key=step.reply.key, author=step.reply.author, covers=(), fence=step.hold.fence
        )
        if reply.attempt is not None and await self.proofs.is_unsent(reply.attempt):
            error = {"code": "not_sent", "message": "an earlier attempt ended before it sent anything"}
            await self.store.fail_part(reply.key, fence=step.hold.fence, part=step.index, error=error, final=False)
            return await self._begin(step)
        if await self.proofs.apply(step.account, step.reply.to, reply.key, part=step.index, last=step.is_last):
            return await self._begin(step)
        since = reply.sending_since or self.clock.now()
        enough = timedelta(seconds=self.reconcile_seconds + self.proofs.lost_seconds(since))
        left = (since + enough - self.clock.now()).total_seconds()
        if left > 0:
            raise Postponed(left, "waiting for the status that proves or refutes the send")
        if await self.proofs.are_on_their_way():
            raise Postponed(PROOF_AGAIN_SECONDS, "waiting for the events that came while the queue was away")
        if resend:
            return await self._begin(step, resend=True)
        await self.store.fail_part(reply.key, fence=step.hold.fence, part=step.index, error=_UNPROVEN, final=True)
        decision = await self._begin(step)  # a proof that came just now stands
        if decision is SendDecision.FAILED:
            await self.store.set_needs_human(reply.conversation_id, HandoverReason.SEND_UNPROVEN)
        return decision

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


def _parts(reply: Reply, file: Media | None) -> list[str]:
    """What is stored of each message that the reply becomes. A file that takes no caption has the text behind it."""
    if file is None:
        return split_text(reply.body or "")
    words = (reply.body or "") if takes_caption(file.kind) else ""
    first = f"[{file.kind}] {words}".strip()
    return [first] if takes_caption(file.kind) else [first, *split_text(reply.body or "")]


def _peer(to: Recipient) -> str:
    return to.wa_id or to.user_id or ""


def _error(exc: Exception) -> dict[str, object]:
    code = (
        exc.wa_code if isinstance(exc, SendError) and exc.wa_code is not None else getattr(exc, "code", "unavailable")
    )
    return {"code": code, "message": str(exc)}
