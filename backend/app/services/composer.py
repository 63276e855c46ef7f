"""What the customer is to read: the model's answer, or what the profile says where the model cannot be asked.

1. what came with the messages is fetched, and shown to the model with their texts
2. without a text, with a word that calls a person, or over a daily limit the model is not asked
3. what the model refuses is asked again without the files, then without the history
4. a model that is away puts the conversation off, until the customer has waited for too long
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.core.clock import Clock
from app.core.deadline import Deadline
from app.core.failure_words import in_words
from app.domain.errors import AccountRejected, ModelRefused, Unavailable
from app.domain.handover import handover, handover_text, has_keyword
from app.domain.models import (
    Account,
    Background,
    BotProfile,
    Conversation,
    Fallback,
    Generation,
    Handover,
    HandoverReason,
    Prompt,
    Turn,
)
from app.domain.ports import Model, Store
from app.domain.promises import promises_person
from app.domain.prompt import build_prompt
from app.domain.question import Question, read
from app.domain.spoken import spoken
from app.domain.usage import DailyLimit
from app.services.account_service import AccountService
from app.services.attachments import NOTHING, Attachments, Collected, Collecting
from app.services.delivery import CHANGED_RETRY_SECONDS, Delivery, Postponed
from app.services.run import Work, types_of
from app.services.spending import DailyGuard

logger = logging.getLogger(__name__)

GENERATION_SECONDS = 40
"""For all attempts of one generation together; one attempt has 15 s."""
MODEL_RETRY_SECONDS = 5.0
"""How long a conversation waits when the model is unavailable and did not say for how long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the customer is to read; `fallback`: why it is not the model's answer; `handover`: the person who is called
    with it."""

    text: str
    fallback: Fallback | None = None
    handover: Handover | None = None


@dataclass(frozen=True, slots=True)
class Composer:
    """Asks the model, and knows what is said instead. It stores no reply and sends none; where WhatsApp refuses an
    account its own files, it calls a person."""

    accounts: AccountService
    store: Store
    model: Model
    attachments: Attachments
    delivery: Delivery
    daily: DailyGuard
    clock: Clock

    async def compose(self, work: Work, profile: BotProfile, background: Background) -> Answer:
        """The answer: the model's, or what the profile says when the model cannot or need not be asked."""
        work.reason = ""
        collected = await self.fetched(work.account, work.conversation, work.files) if work.files else NOTHING
        if not collected.files or not profile.media_understanding:
            return await self._compose_of(work, profile, background, read(work.asked, collected, {}))
        wamids = [message.wa_message_id for message in work.asked]
        async with self.attachments.shown(collected, wamids, profile) as shown:
            question = read(work.asked, collected, shown)
            answer = await self._compose_of(work, profile, background, question)
        if question.for_a_person and answer.handover is None:
            return replace(answer, handover=handover(profile, HandoverReason.UNREADABLE))
        return answer

    async def fetched(self, account: Account, conversation: Conversation, files: Collecting) -> Collected:
        """Raises `Postponed`, and `AccountRejected` as a send would: people must act."""
        try:
            return await files.all()
        except AccountRejected as exc:
            refusal = await self.accounts.refused(account, exc.reason)
            if not refusal.is_current:
                raise Postponed(CHANGED_RETRY_SECONDS, "the account has just changed") from exc
            await self.store.set_needs_human(conversation.id, HandoverReason.ACCOUNT_BLOCKED)
            raise

    async def _compose_of(self, work: Work, profile: BotProfile, background: Background, question: Question) -> Answer:
        if not question.texts:
            work.reason = types_of(work.asked)
            promised = HandoverReason.PROMISED if promises_person(profile.non_text_reply) else None
            return _answer(profile, profile.non_text_reply, promised)
        if has_keyword(profile.handover_keywords, question.texts):
            work.reason = "a keyword calls a person"
            asked_for_one = handover(profile, HandoverReason.CUSTOMER_ASKED)
            return Answer(handover_text(profile, self.clock.now()), handover=asked_for_one)
        if limit := self.daily.used_up(background.usage, work.account.daily_token_budget):
            work.reason = f"daily limit: {limit}"
            return self._fallback(profile, Fallback.UNAVAILABLE, await self._used_up(limit, work.account))
        blocked = self.model.blocked_seconds(profile)
        if blocked > 0 and self.model.away_seconds(profile) <= self._seconds_left(work):
            raise Postponed(blocked, f"model unavailable: {self.model.blocked_reason(profile)}")
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
            delay = max(exc.retry_after or min(MODEL_RETRY_SECONDS, left), self.model.away_seconds(profile))
            # A daily quota comes back too late for this customer: no use in making them wait for nothing.
            if 0 < delay <= left:
                raise Postponed(delay, f"model unavailable: {in_words(exc)}") from exc
            why, fallback = HandoverReason.MODEL_UNAVAILABLE, Fallback.UNAVAILABLE
            work.reason = f"model unavailable: {in_words(exc)}"
            logger.warning("no reply in time", extra={"conversation": work.conversation.id, "reason": str(exc)})
        return self._fallback(profile, fallback, why)

    def _read(self, profile: BotProfile, generation: Generation) -> Answer:
        """The model's answer, and the person whom it calls."""
        text, reason = spoken(profile, generation, self.clock.now())
        return _answer(profile, text, reason)

    async def _used_up(self, limit: DailyLimit, account: Account) -> HandoverReason:
        if limit is not DailyLimit.TOKEN_BUDGET:
            return HandoverReason.DAILY_LIMIT
        await self.accounts.tell_budget(account)
        return HandoverReason.TOKEN_BUDGET

    def _fallback(self, profile: BotProfile, fallback: Fallback, why: HandoverReason) -> Answer:
        return Answer(handover_text(profile, self.clock.now()), fallback, handover(profile, why))

    async def _generate(
        self, work: Work, profile: BotProfile, history: Sequence[Turn], question: Question
    ) -> Generation:
        """The model's answer. Raises `ModelRefused`, `Unavailable`."""
        name = work.conversation.contact.name or work.run.name
        deadline, now = Deadline.after(GENERATION_SECONDS), self.clock.now()
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

    async def _ask(self, work: Work, prompt: Prompt, question: Question, deadline: Deadline) -> Generation:
        try:
            generation = await self.model.generate(prompt, deadline=deadline)
        except ModelRefused as exc:
            if exc.about_the_text:
                work.bill.add_refused(prompt)
            raise
        work.bill.add(prompt, generation)
        if generation.contents:
            await self.attachments.describe(question.told(generation.contents))
        return generation

    def _seconds_left(self, work: Work) -> float:
        """Until the customer gets the fallback text instead of an answer."""
        return self.delivery.seconds_left(work.run.accepted_at)


def _answer(profile: BotProfile, text: str, reason: HandoverReason | None) -> Answer:
    if reason is HandoverReason.PROMISED:
        logger.info("a person is called: the text promises one")
    return Answer(text, handover=handover(profile, reason) if reason else None)
