"""The story of one run of customer messages: from what WhatsApp delivered to what the customer reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from prometheus_client import Counter, Histogram

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import in_words
from app.core.metrics import SLOW_SECONDS
from app.domain.edits import questions
from app.domain.errors import (
    Conflict,
    Erased,
    SendError,
    Unavailable,
    UnknownAccount,
)
from app.domain.handover import has_keyword
from app.domain.models import (
    WINDOW_HOURS,
    Account,
    Author,
    Background,
    BotProfile,
    Conversation,
    HandoverReason,
    Inbound,
    InboundMessage,
    OpenedAnswer,
    Opening,
    Reply,
    ReplyState,
)
from app.domain.opt_out import Wish, confirmation, wish
from app.domain.ports import Messenger, Model, Store
from app.domain.prompt import MESSAGE_BYTES
from app.domain.usage import DailyLimits
from app.domain.webhook import expects_answer, needs_a_person, opens_chat
from app.services.account_service import NO_LIMITS, AccountService
from app.services.attachments import Attachments, Collecting
from app.services.composer import Answer, Composer
from app.services.courtesy import Courtesy
from app.services.delivery import Begun, Delivered, Delivery, Postponed
from app.services.interim import Interim, Wait
from app.services.run import Handled, Run, RunHold, Work, types_of
from app.services.spending import DailyGuard

logger = logging.getLogger(__name__)

HISTORY_MESSAGES = 30
CHARACTERS = MESSAGE_BYTES + 1
"""One more than the prompt takes of a message: then it is cut there, with a note."""
OPTED_OUT = "the customer wants no automatic answers"

STAGE_SECONDS = Histogram(
    "chorus_stage_seconds",
    "Time of each stage of an answer: store, load, generate, send",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, *SLOW_SECONDS),
)


HANDOVERS = Counter("chorus_handovers_total", "Replies with which a person is called, by why", ["reason"])


class _Stopped(Exception):
    """The customer wrote STOP while the answer was made."""


class BotService:
    def __init__(
        self,
        *,
        accounts: AccountService,
        store: Store,
        model: Model,
        messenger: Messenger,
        delivery: Delivery,
        interim: Interim,
        attachments: Attachments,
        limits: DailyLimits = NO_LIMITS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._model = model
        self._messenger = messenger
        self._courtesy = Courtesy(messenger, clock=clock)
        self._delivery = delivery
        self._interim = interim
        self._attachments = attachments
        self._daily = DailyGuard(limits)
        self._composer = Composer(accounts, store, model, attachments, delivery, self._daily, clock)
        self._clock = clock

    async def handle(self, run: Run, hold: RunHold) -> Handled:
        """Store the run and answer it. Safe to repeat after a crash at any point: it finds what was already done.

        Raises `UnknownAccount`, `Postponed`, `Fenced`, `Unavailable`, or a `SendError`.
        """
        files = self._attachments.enter(run.messages, run.accepted_at)
        stages: dict[str, float] = {}
        try:
            with _stage(stages, "store", self._clock):
                account = await self._account(run)
                inbound = await self._record(account, run, await self._opening(account, run, hold))
            files.add(account, run.messages)
            handled = await self._handle_stored(run, hold, account, inbound, files, stages)
            # People see also what the bot does not answer.
            await self._composer.fetched(account, inbound.conversation, files)
            return handled
        except Erased:
            if len(run.messages) > 1:
                raise  # the others are not: each is judged alone
            return Handled("erased", 1, stages, "the customer was erased")
        finally:
            await files.close()

    async def _handle_stored(
        self, run: Run, hold: RunHold, account: Account, inbound: Inbound, files: Collecting, stages: dict[str, float]
    ) -> Handled:
        """Does the bot answer, and may it now?"""
        conversation = inbound.conversation
        if any(needs_a_person(message) for message in run.messages):
            await self._store.set_needs_human(conversation.id, HandoverReason.UNREADABLE)
        asked, covers = questions(run.messages, inbound)
        if not asked:
            return await self._greet(Work(run, hold, account, conversation, (), (), stages))
        work = Work(run, hold, account, conversation, asked, covers, stages, files=files, opened=inbound.opened)
        if silence := await self._heed_wish(work) or await self._keep_silent(work):
            return silence
        left = self._delivery.seconds_left(run.accepted_at)
        if account.is_blocked and left <= 0:
            return await self._leave_to_a_person(work)
        if blocked := self._messenger.blocked_seconds(account):
            raise Postponed(
                min(blocked, left) if left > 0 else blocked, f"whatsapp: {self._messenger.blocked_reason(account)}"
            )
        return await self._reply(work)

    async def _reply(self, work: Work) -> Handled:
        """Open the reply, make its text, store it, send it."""
        with _stage(work.stages, "load", self._clock):
            profile = await self._accounts.profile(work.account.id)
            opened = work.opened or await self._open_answer(work, profile)
        try:
            reply, answer = await self._answer(work, profile, opened)
        except _Stopped:
            work.account = await self._account(work.run)
            return await self._opt_out(work)
        self._courtesy.answer_is_there(work.conversation.id)
        if reply is None:
            return await self._end_loop(work, profile)
        if answer is not None:
            # Making it took seconds, in which the account may have been switched off, or got another token.
            work.account = await self._account(work.run)
            if silence := self._switched_off(work):
                return silence
        with _stage(work.stages, "send", self._clock):
            begun = None
            if answer is not None:
                reply, begun = await self._save(work, reply, answer)
            state, reason = await self._deliver(work, reply, profile, begun)
        await self._end_interim(work, reply)
        return Handled(_OUTCOMES[state], _finished(work, reply), work.stages, reason or work.reason)

    async def _heed_wish(self, work: Work) -> Handled | None:
        """The customer says, or has said, that they want no automatic answers."""
        wanted = await self._wish(work.account, work.asked)
        if wanted is Wish.STOP:
            return await self._opt_out(work)
        if work.conversation.opted_out_since is None:
            return None
        if wanted is Wish.START:
            work.conversation = await self._store.opt_in(work.conversation.id)
            if silence := await self._keep_silent(work):
                await self._confirm(work, Wish.START)
                return silence
            return None  # the answer says it
        return await self._leave_alone(work)

    async def _keep_silent(self, work: Work) -> Handled | None:
        """The bot has nothing to say here, or may not."""
        account, conversation, everything = work.account, work.conversation, len(work.run.messages)
        if silence := self._switched_off(work):
            return silence
        if not conversation.bot_enabled:
            return Handled("bot_off", everything, work.stages, "the conversation's bot is off")
        if self._is_paused(account, conversation, work.covers):
            return Handled("paused", everything, work.stages, "a person is to come")
        if self._clock.now() - max(m.timestamp for m in work.asked) > timedelta(hours=WINDOW_HOURS):
            await self._store.set_needs_human(conversation.id, HandoverReason.WINDOW_CLOSED)
            why = f"the last message is older than {WINDOW_HOURS} h"
            return Handled("window_closed", everything, work.stages, why)
        return None

    def _switched_off(self, work: Work) -> Handled | None:
        if work.account.is_active:
            return None
        return Handled("bot_off", len(work.run.messages), work.stages, "the account is not active")

    async def _wish(self, account: Account, asked: Sequence[InboundMessage]) -> Wish | None:
        """Do these messages say whether the customer wants automatic answers?"""
        profile = await self._accounts.profile(account.id)
        return wish((message.text for message in asked), profile.stop_words)

    async def _opt_out(self, work: Work) -> Handled:
        """No automatic answers from now on. The customer reads so once; when that cannot be said now, it is done all
        the same. In this order: from then on nothing of the bot's is sent."""
        if work.conversation.opted_out_since is None:
            await self._confirm(work, Wish.STOP)
        await self._store.opt_out(work.conversation.id)
        return await self._leave_alone(work)

    async def _confirm(self, work: Work, heeded: Wish) -> None:
        """Tell the customer that their wish was heeded: also in a pause, and where a person has the conversation. The
        store lets these replies out while the bot is silent, by their keys. Not tried for ever."""
        if not work.account.is_active:
            return
        word = [message for message in work.asked if await self._wish(work.account, [message]) is heeded][-1]
        reply = await self._store.open_reply(
            work.conversation.id,
            key=f"{_CONFIRMATION_KEYS[heeded]}{word.wa_message_id}",
            author=Author.BOT,
            covers=(),
            fence=work.hold.fence,
            body=confirmation(heeded, word.text, work.conversation.contact.wa_id),
        )
        try:
            with _stage(work.stages, "send", self._clock):
                await self._deliver(work, reply, await self._accounts.profile(work.account.id))
        except (SendError, Unavailable, Postponed) as exc:
            logger.warning("a wish was heeded without a word", extra={"reason": in_words(exc)})

    async def _leave_alone(self, work: Work) -> Handled:
        """No automatic answer; who asks for a person is heard all the same."""
        profile = await self._accounts.profile(work.account.id)
        if has_keyword(profile.handover_keywords, [message.text for message in work.asked if message.text]):
            await self._store.set_needs_human(work.conversation.id, HandoverReason.CUSTOMER_ASKED)
        return Handled("opted_out", len(work.run.messages), work.stages, OPTED_OUT)

    def _is_paused(self, account: Account, conversation: Conversation, covers: Sequence[str]) -> bool:
        """The customer waits for a person. The reply that told them so is still brought to its end."""
        until, key = conversation.bot_paused_until, conversation.handover_key or ""
        return until is not None and self._clock.now() < until and key.removesuffix(f"@{account.id}") not in covers

    async def aclose(self) -> None:
        """End what runs in the background. Idempotent."""
        await self._courtesy.aclose()

    async def _greet(self, work: Work) -> Handled:
        """The customer wrote nothing. If they opened the chat: the profile's greeting, once for the conversation,
        without the model. It calls no person, and a late one is no greeting."""
        nothing = Handled("nothing_to_answer", len(work.run.messages), work.stages, types_of(work.run.messages))
        opened = [message for message in work.run.messages if opens_chat(message)]
        if not opened or not work.account.is_active or not work.conversation.bot_enabled:
            return nothing
        if self._delivery.seconds_left(opened[-1].timestamp) < 0:
            return nothing
        profile = await self._accounts.profile(work.account.id)
        if profile.greeting_text is None or not profile.greeting_text.strip():
            return nothing
        if await self._store.history(work.conversation.id, limit=1, exclude=()):
            return nothing  # they know each other
        if blocked := self._messenger.blocked_seconds(work.account):
            raise Postponed(blocked, f"whatsapp: {self._messenger.blocked_reason(work.account)}")
        reply = await self._store.open_reply(
            work.conversation.id,
            key=f"greeting:{work.conversation.id}",
            author=Author.BOT,
            covers=(),
            fence=work.hold.fence,
            body=profile.greeting_text,
        )
        if reply.state is ReplyState.FAILED or reply.state in _FINISHED:
            return nothing
        with _stage(work.stages, "send", self._clock):
            state, reason = await self._deliver(work, reply, profile)
        return Handled(_OUTCOMES[state], len(work.run.messages), work.stages, reason)

    async def _account(self, run: Run) -> Account:
        account = await self._accounts.by_phone_number_id(run.phone_number_id)
        if account is None:
            raise UnknownAccount(run.phone_number_id)
        return account

    async def _opening(self, account: Account, run: Run, hold: RunHold) -> Opening | None:
        """Of the reply to the whole run, in the call that stores it. None where something that is known before may keep
        the bot silent."""
        if not account.is_active or account.is_blocked or self._messenger.blocked_seconds(account):
            return None
        newest = max(message.timestamp for message in run.messages)
        if self._clock.now() - newest > timedelta(hours=WINDOW_HOURS) or not all(map(expects_answer, run.messages)):
            return None
        try:
            profile = await self._accounts.profile(account.id)
        except Unavailable:
            return None  # the messages are stored all the same
        if wish((message.text for message in run.messages), profile.stop_words):
            return None
        return Opening(hold.fence, HISTORY_MESSAGES, CHARACTERS, profile.auto_reply_minutes)

    async def _record(self, account: Account, run: Run, opening: Opening | None = None) -> Inbound:
        return await self._store.record_inbound(
            account.id,
            wa_id=run.wa_id,
            user_id=run.user_id,
            name=run.name,
            messages=run.messages,
            other_wa_id=run.other_wa_id,
            opening=opening,
        )

    async def _leave_to_a_person(self, work: Work) -> Handled:
        """WhatsApp takes nothing from the account, and the customer has waited long enough. The messages are stored;
        the bot answers again from the next one on, once the account is restored."""
        reply = await self._open_reply(work)
        await self._delivery.give_up(reply, fence=work.hold.fence)
        await self._end_interim(work, reply)
        why = f"WhatsApp takes nothing from the account: {work.account.blocked_reason}"
        return Handled("account_blocked", len(work.run.messages), work.stages, why)

    async def _end_loop(self, work: Work, profile: BotProfile) -> Handled:
        """The other side is probably a robot, and two robots would go on for ever: a person looks at it."""
        # In this order: after a crash in between the bot must not be silent without a person having been called.
        await self._store.set_needs_human(work.conversation.id, HandoverReason.REPLY_LOOP)
        await self._store.set_bot(work.conversation.id, enabled=False)
        facts = {"conversation": work.conversation.id, "replies": profile.auto_reply_limit}
        logger.warning("bot paused: too many replies", extra=facts | {"minutes": profile.auto_reply_minutes})
        why = f"{profile.auto_reply_limit} replies within {profile.auto_reply_minutes} minutes"
        return Handled("reply_loop", len(work.run.messages), work.stages, why)

    async def _open_reply(self, work: Work) -> Reply:
        return await self._store.open_reply(
            work.conversation.id, key=work.covers[0], author=Author.BOT, covers=work.covers, fence=work.hold.fence
        )

    async def _open_answer(self, work: Work, profile: BotProfile) -> OpenedAnswer:
        return await self._store.open_answer(
            work.conversation.id,
            key=work.covers[0],
            covers=work.covers,
            fence=work.hold.fence,
            limit=HISTORY_MESSAGES,
            characters=CHARACTERS,
            minutes=profile.auto_reply_minutes,
        )

    async def _answer(
        self, work: Work, profile: BotProfile, opened: OpenedAnswer
    ) -> tuple[Reply | None, Answer | None]:
        """The reply as an earlier attempt left it, with its text; or the reply and an answer that is to become its
        text; or neither: there were too many replies of late."""
        reply, background = opened.reply, opened.background
        work.leave_out(frozenset(reply.elsewhere))
        if reply.state is not ReplyState.PENDING or not (reply.body is None or _is_outdated(reply, work)):
            return reply, None
        if work.elsewhere:  # what stands in other replies is no longer asked: it belongs to the history
            background = await self._background(work)
        if opened.recent_replies >= profile.auto_reply_limit:
            return None, None
        if not self._model.blocked_seconds(profile):  # else no answer comes soon
            self._courtesy.show_typing(work.account, work.conversation.id, work.asked[-1].wa_message_id)
        with _stage(work.stages, "generate", self._clock):
            answer = await self._told_if_late(work, profile, background, reply)
            return reply, await self._once_more(work, profile, answer)

    async def _told_if_late(self, work: Work, profile: BotProfile, background: Background, reply: Reply) -> Answer:
        """The answer. A customer who waits long for it, or has to wait for another try, gets the interim text."""
        wait = Wait(reply, work.account, work.run.accepted_at, profile.interim_text, work.hold)
        try:
            return await self._interim.while_making(wait, self._composer.compose(work, profile, background))
        except Postponed as exc:
            raise await self._interim.before(wait, exc) from exc

    async def _end_interim(self, work: Work, reply: Reply) -> None:
        await self._interim.end(reply.key, accepted_at=work.run.accepted_at, fence=work.hold.fence)

    async def _once_more(self, work: Work, profile: BotProfile, answer: Answer) -> Answer:
        """An answer to all that is asked by now, which may be `answer` itself. Once: a customer who keeps typing must
        not postpone the answer for ever. When this fails, `answer` is sent as it is; the rest stays in the mailbox."""
        before = replace(work)
        try:
            if not await self._grew(work):
                return answer
            if await self._wish(work.account, work.asked) is Wish.STOP:
                raise _Stopped
            return await self._composer.compose(work, profile, await self._background(work))
        except (Unavailable, Postponed) as exc:
            logger.warning("what came meanwhile is answered later", extra={"reason": in_words(exc)})
        work.run, work.conversation, work.reason = before.run, before.conversation, before.reason
        work.asked, work.covers = before.asked, before.covers
        return answer

    async def _save(self, work: Work, reply: Reply, answer: Answer) -> tuple[Reply, Begun | None]:
        """Before anything is sent. Raises `Postponed`, also if another reply has taken some of its messages by now."""
        work.hold.ensure_held()
        given: dict[str, Any] = {
            "fence": work.hold.fence, "covers": work.covers, "body": answer.text, "spent": work.bill.total(),
            "handover": answer.handover,
        }  # fmt: skip
        begun = None
        try:
            if answer.fallback is not None:
                saved = await self._store.save_fallback(reply.key, **given, fallback=answer.fallback)
            elif answer.text.strip():
                saved, begun = await self._delivery.save_and_begin(reply, **given, account=work.account)
            else:
                saved = await self._store.save_body(reply.key, **given)
        except Conflict as exc:
            raise Postponed(0, str(exc)) from exc
        self._daily.tell(saved.usage_change, work.conversation)
        if answer.handover is not None:
            HANDOVERS.labels(answer.handover.reason).inc()
        return saved, begun

    async def _grew(self, work: Work) -> bool:
        """Did the customer write or edit while the answer was made? Then it is stored and part of what is asked."""
        run = await work.hold.refresh()
        if len(run.messages) <= len(work.run.messages):
            return False
        before = work.asked
        work.ask(run, await self._record(work.account, run))
        if work.files is not None:
            work.files.add(work.account, run.messages)
        return work.asked != before

    async def _background(self, work: Work) -> Background:
        return await self._store.background(
            work.conversation.id, limit=HISTORY_MESSAGES, exclude=work.covers, characters=CHARACTERS
        )

    async def _deliver(self, work: Work, reply: Reply, profile: BotProfile, begun: Begun | None = None) -> Delivered:
        if reply.state in _FINISHED:
            return Delivered(reply.state)
        return await self._delivery.deliver(
            reply,
            account=work.account,
            hold=work.hold,
            accepted_at=work.run.accepted_at,
            resend=profile.resend_ambiguous,
            begun=begun,
        )


@contextmanager
def _stage(stages: dict[str, float], name: str, clock: Clock) -> Iterator[None]:
    """Milliseconds of one stage, for the canonical line and the metric; kept when the stage fails."""
    start = clock.monotonic()
    try:
        yield
    finally:
        seconds = clock.monotonic() - start
        STAGE_SECONDS.labels(name).observe(seconds)
        stages[name] = round(seconds * 1000, 2)


_CONFIRMATION_KEYS = {Wish.STOP: "opt_out:", Wish.START: "opt_in:"}
"""The database knows them (chorus.is_confirmation)."""
_FINISHED = frozenset({ReplyState.SENT, ReplyState.SILENCED})
_OUTCOMES = {ReplyState.SENT: "replied", ReplyState.FAILED: "send_failed", ReplyState.SILENCED: "silenced"}


def _is_outdated(reply: Reply, work: Work) -> bool:
    """Was a message that the waiting answer is about edited since? An answer that was sent in part stays, and one
    about a message that is not in the run."""
    asked = {message.wa_message_id for message in work.asked}
    edits = [wamid for wamid in work.covers if wamid not in asked]
    can_be_remade = reply.part == 0 and work.covers[0] in reply.covers and set(reply.covers) <= set(work.covers)
    return can_be_remade and any(edit not in reply.covers for edit in edits)


def _finished(work: Work, reply: Reply) -> int:
    """How many of the run's messages are finished: up to the last one the reply answers. What came after it, or what an
    earlier attempt's reply did not know of, stays in the mailbox and gets a reply of its own; so does what stands
    behind a message that another reply answers, or none."""
    unfinished = work.elsewhere.union(work.covers).difference(reply.covers)
    finished = 1
    for number, message in enumerate(work.run.messages, 1):
        if message.wa_message_id in unfinished:
            break
        if message.wa_message_id in reply.covers:
            finished = number
    return finished
