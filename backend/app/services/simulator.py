"""A conversation with the bot as it would be with an unsaved profile: the real prompt and the real model. Nothing is
stored and nothing is sent; it costs what one answer of the model costs, and that counts as the account's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.fleet.allowance import Allowance
from app.domain.errors import InvalidInput, ModelRefused, RateLimited
from app.domain.handover import handover_text, has_keyword
from app.domain.models import BotProfile, Generation, HandoverReason, Prompt, Role, Turn, User
from app.domain.ports import Model
from app.domain.profile_limits import check_profile
from app.domain.prompt import build_prompt
from app.domain.spoken import spoken
from app.domain.usage import DailyLimits, Spending, Usage
from app.services.account_service import AccountService
from app.services.spending import Bill

WINDOW_SECONDS = 600.0
MOST_ANSWERS = 60
"""For each account in a window."""
ANSWER_SECONDS = 25.0
"""Less than the shipped balancer waits for an answer."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the customer would read. `reason`: why a person would be called; `None`: none would. `prompt`: what the
    model was told; `None`: it was not asked."""

    text: str
    reason: HandoverReason | None
    prompt: Prompt | None


class Simulator:
    def __init__(
        self,
        accounts: AccountService,
        model: Model,
        answers: Allowance,
        *,
        limits: DailyLimits,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._accounts = accounts
        self._model = model
        self._answers = answers
        self._limits = limits
        self._clock = clock

    async def answer(self, user: User, account_id: str, changes: Mapping[str, Any], turns: Sequence[Turn]) -> Simulated:
        """For agents and owners. `changes`: of the profile, as for `AccountService.update_profile`; `turns`: the last
        is the customer's. Raises `InvalidInput`, `RateLimited`, `Unavailable`."""
        await self._accounts.authorize(user, account_id, Role.AGENT)
        stored = await self._accounts.profile(account_id)
        check_profile(stored, changes)
        history, asked = _parted(turns)
        profile = _edited(stored, changes)
        if wait := await self._answers.take(account_id):
            raise RateLimited("the simulator of this account has answered as often as it may", retry_after=wait)
        now = self._clock.now()
        if has_keyword(profile.handover_keywords, asked):
            return Simulated(handover_text(profile, now), HandoverReason.CUSTOMER_ASKED, None)
        await self._refuse_beyond_the_day(account_id, now)
        prompt = build_prompt(profile, None, history, asked, at=now)
        generation = await self._generate(account_id, prompt)
        if generation is None:
            return Simulated(handover_text(profile, now), HandoverReason.MODEL_REFUSED, prompt)
        return Simulated(*spoken(profile, generation, now), prompt)

    async def _refuse_beyond_the_day(self, account_id: str, now: datetime) -> None:
        """What the account may have of the model in a day is for its customers and for this alike."""
        account = await self._accounts.by_id(account_id)
        day = (await self._accounts.spent_today([account])).get(account_id)
        spent = Spending(day.answers, day.input_tokens, day.output_tokens) if day else Spending()
        if self._limits.with_budget(account.daily_token_budget).reached(Usage(account=spent)):
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            raise RateLimited(
                "the account has used up its day's answers or tokens", retry_after=(midnight - now).total_seconds()
            )

    async def _generate(self, account_id: str, prompt: Prompt) -> Generation | None:
        """`None`: the model refused."""
        bill, generation = Bill(), None
        try:
            generation = await self._model.generate(prompt, deadline=Deadline.after(ANSWER_SECONDS))
        except ModelRefused:
            bill.add_refused(prompt)
        else:
            bill.add(prompt, generation)
        if spent := bill.total():
            await self._accounts.spend(account_id, spent)
        return generation


def _parted(turns: Sequence[Turn]) -> tuple[Sequence[Turn], list[str]]:
    """What was said before, and the customer's messages that wait for an answer."""
    last = len(turns)
    while last and turns[last - 1].role == "user":
        last -= 1
    asked = [turn.text for turn in turns[last:]]
    if not asked:
        raise InvalidInput("the last turn must be the customer's", field="turns")
    return turns[:last], asked


def _edited(stored: BotProfile, changes: Mapping[str, Any]) -> BotProfile:
    """null puts the application's default back, as when it is saved."""
    defaults = BotProfile(stored.account_id)
    given = {name: getattr(defaults, name) if value is None else value for name, value in changes.items()}
    if "handover_keywords" in given:
        given["handover_keywords"] = tuple(given["handover_keywords"])
    return replace(stored, **given)
