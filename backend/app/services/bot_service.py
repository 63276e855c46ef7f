"""The story of one run of customer messages: from what WhatsApp delivered to what the customer reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from prometheus_client import Counter, Histogram

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.failure_words import in_words
from app.core.metrics import SLOW_SECONDS
from app.domain.edits import questions
from app.domain.errors import (
    AccountRejected,
    Conflict,
    Erased,
    ModelRefused,
    SendError,
    Unavailable,
    UnknownAccount,
)
from app.domain.handover import handover, handover_text, has_keyword
from app.domain.models import (
    WINDOW_HOURS,
    Account,
    Author,
    Background,
    BotProfile,
    Conversation,
    Fallback,
    Generation,
    Handover,
    HandoverReason,
    Inbound,
    InboundMessage,
    OpenedAnswer,
    Prompt,
    Reply,
    ReplyState,
    Turn,
)
from app.domain.opt_out import Wish, confirmation, wish
from app.domain.ports import Messenger, Model, Store
from app.domain.promises import promises_person
from app.domain.prompt import MESSAGE_BYTES, build_prompt
from app.domain.question import Question, read
from app.domain.spoken import spoken
from app.domain.usage import DailyLimit, DailyLimits
from app.domain.webhook import needs_a_person, opens_chat
from app.services.account_service import NO_LIMITS, AccountService
from app.services.attachments import NOTHING, Attachments, Collected, Collecting
from app.services.courtesy import Courtesy
from app.services.delivery import CHANGED_RETRY_SECONDS, Begun, Delivered, Delivery, Hold, Postponed
from app.services.interim import Interim, Wait
from app.services.spending import Bill, DailyGuard

logger = logging.getLogger(__name__)

HISTORY_MESSAGES = 30
CHARACTERS = MESSAGE_BYTES + 1
"""One more than the prompt takes of a message: then it is cut there, with a note."""
GENERATION_SECONDS = 40
"""For all attempts of one generation together; one attempt has 15 s."""
MODEL_RETRY_SECONDS = 5.0
"""How long a conversation waits when the model is unavailable and did not say for how long."""

OPTED_OUT = "the customer wants no automatic answers"

_TYPE = re.compile(r"[a-z_]{1,40}")
"""A type of a message in Meta's words; what looks otherwise is no type."""

STAGE_SECONDS = Histogram(
    "chorus_stage_seconds",
    "Time of each stage of an answer: store, load, generate, send",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, *SLOW_SECONDS),
)


HANDOVERS = Counter("chorus_handovers_total", "Replies with which a person is called, by why", ["reason"])


@dataclass(frozen=True, slots=True)
class Run:
    """The messages of one claim, oldest first, all of one customer."""

    phone_number_id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    messages: tuple[InboundMessage, ...]
    accepted_at: datetime
    """When the first of them was accepted."""
    other_wa_id: str | None = None
    """The number on the contact card, where it is not the one that wrote."""


class RunHold(Hold, Protocol):
    """The worker's hold on the conversation while it is being answered."""

    async def refresh(self) -> Run:
        """The run as it is now, with what has arrived since the claim."""
        ...


@dataclass(slots=True)
class Handled:
    """What became of a run. `count`: how many of the claim's events are finished."""

    outcome: str
    count: int
    stages: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    """Why the customer got something else than the model's answer, codes only; `""` if they got it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the customer is to read; `fallback`: why it is not the model's answer; `handover`: the person who is called
    with it."""

    text: str
    fallback: Fallback | None = None
    handover: Handover | None = None


@dataclass(slots=True)
class _Work:
    """One run on its way through the service."""

    run: Run
    hold: RunHold
    account: Account
    conversation: Conversation
    asked: tuple[InboundMessage, ...]
    covers: tuple[str, ...]
    """The ids of what was asked, and of the edits to it; the first one is asked."""
    stages: dict[str, float]
    elsewhere: frozenset[str] = frozenset()
    """The ids of what another reply answers: asked no more, and in the run until that reply is done."""
    reason: str = ""
    """As in `Handled`."""
    bill: Bill = field(default_factory=Bill)
    files: Collecting | None = None
    """Those of the run, on their way."""

    def ask(self, run: Run, inbound: Inbound) -> None:
        """What `run` asks, as it was stored."""
        asked, covers = questions(run.messages, inbound)
        self.run, self.conversation, self.asked, self.covers = run, inbound.conversation, asked, covers
        self.leave_out(self.elsewhere)

    def leave_out(self, elsewhere: frozenset[str]) -> None:
        self.elsewhere = elsewhere
        self.asked = tuple(message for message in self.asked if message.wa_message_id not in elsewhere)
        self.covers = tuple(wamid for wamid in self.covers if wamid not in elsewhere)


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
        self._clock = clock

    async def handle(self, run: Run, hold: RunHold) -> Handled:
        """Store the run and answer it. Safe to repeat after a crash at any point: it finds what was already done.

        Raises `UnknownAccount`, `Postponed`, `Fenced`, `Unavailable`, or a `SendError`.
        """
        files = self._attachments.enter(run.messages, run.accepted_at)
        stages: dict[str, float] = {}
        try:
            with _stage(stages, "store", self._clock):
                account = await self._accounts.by_phone_number_id(run.phone_number_id)
                if account is None:
                    raise UnknownAccount(run.phone_number_id)
                inbound = await self._record(account, run)
            files.add(account, run.messages)
            handled = await self._handle_stored(run, hold, account, inbound, files, stages)
            await self._fetched(account, inbound.conversation, files)  # people see what the bot does not answer
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
        conversation = inbound.conversation
        if any(needs_a_person(message) for message in run.messages):
            await self._store.set_needs_human(conversation.id, HandoverReason.UNREADABLE)
        asked, covers = questions(run.messages, inbound)
        if not asked:
            return await self._greet(_Work(run, hold, account, conversation, (), (), stages))
        work = _Work(run, hold, account, conversation, asked, covers, stages, files=files)
        if silence := await self._heed_wish(work) or await self._keep_silent(work):
            return silence
        left = self._seconds_left(work)
        if account.is_blocked and left <= 0:
            return await self._leave_to_a_person(work)
        if blocked := self._messenger.blocked_seconds(account):
            raise Postponed(
                min(blocked, left) if left > 0 else blocked, f"whatsapp: {self._messenger.blocked_reason(account)}"
            )
        with _stage(stages, "load", self._clock):
            profile = await self._accounts.profile(account.id)
            opened = await self._open_answer(work, profile)
        try:
            reply, answer = await self._answer(work, profile, opened)
        except _Stopped:
            return await self._opt_out(work)
        self._courtesy.answer_is_there(conversation.id)
        if reply is None:
            return await self._end_loop(work, profile)
        with _stage(stages, "send", self._clock):
            begun = None
            if answer is not None:
                reply, begun = await self._save(work, reply, answer)
            state, reason = await self._deliver(work, reply, profile, begun)
        await self._end_interim(work, reply)
        return Handled(_OUTCOMES[state], _finished(work, reply), stages, reason or work.reason)

    async def _heed_wish(self, work: _Work) -> Handled | None:
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

    async def _keep_silent(self, work: _Work) -> Handled | None:
        """The bot has nothing to say here, or may not."""
        account, conversation, everything = work.account, work.conversation, len(work.run.messages)
        if not account.is_active or not conversation.bot_enabled:
            why = "the conversation's bot is off" if account.is_active else "the account is not active"
            return Handled("bot_off", everything, work.stages, why)
        if self._is_paused(account, conversation, work.covers):
            return Handled("paused", everything, work.stages, "a person is to come")
        if self._clock.now() - max(m.timestamp for m in work.asked) > timedelta(hours=WINDOW_HOURS):
            await self._store.set_needs_human(conversation.id, HandoverReason.WINDOW_CLOSED)
            why = f"the last message is older than {WINDOW_HOURS} h"
            return Handled("window_closed", everything, work.stages, why)
        return None

    async def _wish(self, account: Account, asked: Sequence[InboundMessage]) -> Wish | None:
        """Do these messages say whether the customer wants automatic answers?"""
        profile = await self._accounts.profile(account.id)
        return wish((message.text for message in asked), profile.stop_words)

    async def _opt_out(self, work: _Work) -> Handled:
        """No automatic answers from now on. The customer reads so once; when that cannot be said now, it is done all
        the same. In this order: from then on nothing of the bot's is sent."""
        if work.conversation.opted_out_since is None:
            await self._confirm(work, Wish.STOP)
        await self._store.opt_out(work.conversation.id)
        return await self._leave_alone(work)

    async def _confirm(self, work: _Work, heeded: Wish) -> None:
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

    async def _leave_alone(self, work: _Work) -> Handled:
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

    async def _greet(self, work: _Work) -> Handled:
        """The customer wrote nothing. If they opened the chat: the profile's greeting, once for the conversation,
        without the model. It calls no person, and a late one is no greeting."""
        nothing = Handled("nothing_to_answer", len(work.run.messages), work.stages, _types(work.run.messages))
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

    async def _record(self, account: Account, run: Run) -> Inbound:
        return await self._store.record_inbound(
            account.id,
            wa_id=run.wa_id,
            user_id=run.user_id,
            name=run.name,
            messages=run.messages,
            other_wa_id=run.other_wa_id,
        )

    async def _leave_to_a_person(self, work: _Work) -> Handled:
        """WhatsApp takes nothing from the account, and the customer has waited long enough. The messages are stored;
        the bot answers again from the next one on, once the account is restored."""
        reply = await self._open_reply(work)
        await self._delivery.give_up(reply, fence=work.hold.fence)
        await self._end_interim(work, reply)
        why = f"WhatsApp takes nothing from the account: {work.account.blocked_reason}"
        return Handled("account_blocked", len(work.run.messages), work.stages, why)

    async def _end_loop(self, work: _Work, profile: BotProfile) -> Handled:
        """The other side is probably a robot, and two robots would go on for ever: a person looks at it."""
        # In this order: after a crash in between the bot must not be silent without a person having been called.
        await self._store.set_needs_human(work.conversation.id, HandoverReason.REPLY_LOOP)
        await self._store.set_bot(work.conversation.id, enabled=False)
        facts = {"conversation": work.conversation.id, "replies": profile.auto_reply_limit}
        logger.warning("bot paused: too many replies", extra=facts | {"minutes": profile.auto_reply_minutes})
        why = f"{profile.auto_reply_limit} replies within {profile.auto_reply_minutes} minutes"
        return Handled("reply_loop", len(work.run.messages), work.stages, why)

    async def _open_reply(self, work: _Work) -> Reply:
        return await self._store.open_reply(
            work.conversation.id, key=work.covers[0], author=Author.BOT, covers=work.covers, fence=work.hold.fence
        )

    async def _open_answer(self, work: _Work, profile: BotProfile) -> OpenedAnswer:
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
        self, work: _Work, profile: BotProfile, opened: OpenedAnswer
    ) -> tuple[Reply | None, _Answer | None]:
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

    async def _told_if_late(self, work: _Work, profile: BotProfile, background: Background, reply: Reply) -> _Answer:
        """The answer. A customer who waits long for it, or has to wait for another try, gets the interim text."""
        wait = Wait(reply, work.account, work.run.accepted_at, profile.interim_text, work.hold)
        try:
            return await self._interim.while_making(wait, self._compose(work, profile, background))
        except Postponed as exc:
            raise await self._interim.before(wait, exc) from exc

    async def _end_interim(self, work: _Work, reply: Reply) -> None:
        await self._interim.end(reply.key, accepted_at=work.run.accepted_at, fence=work.hold.fence)

    async def _once_more(self, work: _Work, profile: BotProfile, answer: _Answer) -> _Answer:
        """An answer to all that is asked by now, which may be `answer` itself. Once: a customer who keeps typing must
        not postpone the answer for ever. When this fails, `answer` is sent as it is; the rest stays in the mailbox."""
        before = replace(work)
        try:
            if not await self._grew(work):
                return answer
            if await self._wish(work.account, work.asked) is Wish.STOP:
                raise _Stopped
            return await self._compose(work, profile, await self._background(work))
        except (Unavailable, Postponed) as exc:
            logger.warning("what came meanwhile is answered later", extra={"reason": in_words(exc)})
        work.run, work.conversation, work.reason = before.run, before.conversation, before.reason
        work.asked, work.covers = before.asked, before.covers
        return answer

    async def _save(self, work: _Work, reply: Reply, answer: _Answer) -> tuple[Reply, Begun | None]:
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

    async def _grew(self, work: _Work) -> bool:
        """Did the customer write or edit while the answer was made? Then it is stored and part of what is asked."""
        run = await work.hold.refresh()
        if len(run.messages) <= len(work.run.messages):
            return False
        before = work.asked
        work.ask(run, await self._record(work.account, run))
        if work.files is not None:
            work.files.add(work.account, run.messages)
        return work.asked != before

    async def _background(self, work: _Work) -> Background:
        return await self._store.background(
            work.conversation.id, limit=HISTORY_MESSAGES, exclude=work.covers, characters=CHARACTERS
        )

    async def _compose(self, work: _Work, profile: BotProfile, background: Background) -> _Answer:
        """The answer: the model's, or what the profile says when the model cannot or need not be asked."""
        work.reason = ""
        collected = await self._fetched(work.account, work.conversation, work.files) if work.files else NOTHING
        if not collected.files or not profile.media_understanding:
            return await self._compose_of(work, profile, background, read(work.asked, collected, {}))
        wamids = [message.wa_message_id for message in work.asked]
        async with self._attachments.shown(collected, wamids, profile) as shown:
            question = read(work.asked, collected, shown)
            answer = await self._compose_of(work, profile, background, question)
        if question.for_a_person and answer.handover is None:
            return replace(answer, handover=handover(profile, HandoverReason.UNREADABLE))
        return answer

    async def _fetched(self, account: Account, conversation: Conversation, files: Collecting) -> Collected:
        """Raises `Postponed`, and `AccountRejected` as a send would: people must act."""
        try:
            return await files.all()
        except AccountRejected as exc:
            refusal = await self._accounts.refused(account, exc.reason)
            if not refusal.is_current:
                raise Postponed(CHANGED_RETRY_SECONDS, "the account has just changed") from exc
            await self._store.set_needs_human(conversation.id, HandoverReason.ACCOUNT_BLOCKED)
            raise

    async def _compose_of(
        self, work: _Work, profile: BotProfile, background: Background, question: Question
    ) -> _Answer:
        if not question.texts:
            work.reason = _types(work.asked)
            promised = HandoverReason.PROMISED if promises_person(profile.non_text_reply) else None
            return _answer(profile, profile.non_text_reply, promised)
        if has_keyword(profile.handover_keywords, question.texts):
            work.reason = "a keyword calls a person"
            asked_for_one = handover(profile, HandoverReason.CUSTOMER_ASKED)
            return _Answer(handover_text(profile, self._clock.now()), handover=asked_for_one)
        if limit := self._daily.used_up(background.usage, work.account.daily_token_budget):
            work.reason = f"daily limit: {limit}"
            return self._fallback(profile, Fallback.UNAVAILABLE, await self._used_up(limit, work.account))
        blocked = self._model.blocked_seconds(profile)
        if blocked > 0 and self._model.away_seconds(profile) <= self._seconds_left(work):
            raise Postponed(blocked, f"model unavailable: {self._model.blocked_reason(profile)}")
        try:
            return self._read(profile, await self._generate(work, profile, background.turns, question))
        except ModelRefused as exc:
            if question.files:  # perhaps it cannot open one: what the customer wrote is answered all the same
                logger.warning("refused, asking without the files", extra={"reason": exc.reason})
                answer = await self._compose_of(work, profile, background, question.without_files())
                return replace(answer, handover=answer.handover or handover(profile, HandoverReason.UNREADABLE))
            why = HandoverReason.MODEL_REFUSED
            fallback = Fallback.REFUSED if exc.about_the_text else Fallback.UNAVAILABLE
            work.reason = f"model refused: {exc.reason}"
            logger.warning("model refused", extra={"conversation": work.conversation.id, "reason": exc.reason})
        except Unavailable as exc:
            left = self._seconds_left(work)
            delay = max(exc.retry_after or min(MODEL_RETRY_SECONDS, left), self._model.away_seconds(profile))
            # A daily quota comes back too late for this customer: no use in making them wait for nothing.
            if 0 < delay <= left:
                raise Postponed(delay, f"model unavailable: {in_words(exc)}") from exc
            why, fallback = HandoverReason.MODEL_UNAVAILABLE, Fallback.UNAVAILABLE
            work.reason = f"model unavailable: {in_words(exc)}"
            logger.warning("no reply in time", extra={"conversation": work.conversation.id, "reason": str(exc)})
        return self._fallback(profile, fallback, why)

    def _read(self, profile: BotProfile, generation: Generation) -> _Answer:
        """The model's answer, and the person whom it calls."""
        text, reason = spoken(profile, generation, self._clock.now())
        return _answer(profile, text, reason)

    async def _used_up(self, limit: DailyLimit, account: Account) -> HandoverReason:
        if limit is not DailyLimit.TOKEN_BUDGET:
            return HandoverReason.DAILY_LIMIT
        await self._accounts.tell_budget(account)
        return HandoverReason.TOKEN_BUDGET

    def _fallback(self, profile: BotProfile, fallback: Fallback, why: HandoverReason) -> _Answer:
        return _Answer(handover_text(profile, self._clock.now()), fallback, handover(profile, why))

    async def _generate(
        self, work: _Work, profile: BotProfile, history: Sequence[Turn], question: Question
    ) -> Generation:
        """The model's answer. Raises `ModelRefused`, `Unavailable`."""
        name = work.conversation.contact.name or work.run.name
        deadline, now = Deadline.after(GENERATION_SECONDS), self._clock.now()
        texts, files = question.texts, question.files
        try:
            prompt = build_prompt(profile, name, history, texts, files, at=now)
            return await self._ask(work, prompt, question, deadline)
        except ModelRefused as exc:
            if not history or not exc.about_the_text:
                raise
            # Perhaps it refuses what was said before, also while the bot was off: no question may suffer from that.
            logger.info("refused, asking without the history", extra={"reason": exc.reason})
        return await self._ask(work, build_prompt(profile, name, (), texts, files, at=now), question, deadline)

    async def _ask(self, work: _Work, prompt: Prompt, question: Question, deadline: Deadline) -> Generation:
        try:
            generation = await self._model.generate(prompt, deadline=deadline)
        except ModelRefused as exc:
            if exc.about_the_text:
                work.bill.add_refused(prompt)
            raise
        work.bill.add(prompt, generation)
        if generation.contents:
            await self._attachments.describe(question.told(generation.contents))
        return generation

    def _seconds_left(self, work: _Work) -> float:
        """Until the customer gets the fallback text instead of an answer."""
        return self._delivery.seconds_left(work.run.accepted_at)

    async def _deliver(self, work: _Work, reply: Reply, profile: BotProfile, begun: Begun | None = None) -> Delivered:
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


def _answer(profile: BotProfile, text: str, reason: HandoverReason | None) -> _Answer:
    if reason is HandoverReason.PROMISED:
        logger.info("a person is called: the text promises one")
    return _Answer(text, handover=handover(profile, reason) if reason else None)


def _is_outdated(reply: Reply, work: _Work) -> bool:
    """Was a message that the waiting answer is about edited since? An answer that was sent in part stays, and one
    about a message that is not in the run."""
    asked = {message.wa_message_id for message in work.asked}
    edits = [wamid for wamid in work.covers if wamid not in asked]
    can_be_remade = reply.part == 0 and work.covers[0] in reply.covers and set(reply.covers) <= set(work.covers)
    return can_be_remade and any(edit not in reply.covers for edit in edits)


def _types(messages: Sequence[InboundMessage]) -> str:
    """Meta's words for what came instead of text."""
    return "no text: " + ", ".join(sorted({_type(message) for message in messages})[:5])


def _type(message: InboundMessage) -> str:
    return message.type if _TYPE.fullmatch(message.type) else "other"


def _finished(work: _Work, reply: Reply) -> int:
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
