"""A conversation with the bot as it would be with an unsaved profile: the real prompt and the real model. Nothing is
stored and nothing is sent; it costs what one answer of the model costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.allowance import Allowance
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.domain.errors import InvalidInput, ModelRefused, RateLimited
from app.domain.handover import handover_text, has_keyword, person_called
from app.domain.markup import to_whatsapp
from app.domain.models import BotProfile, HandoverReason, Role, Turn, User
from app.domain.ports import Model
from app.domain.profile_limits import check_profile
from app.domain.promises import promises_person
from app.domain.prompt import build_prompt
from app.services.account_service import AccountService

WINDOW_SECONDS = 600.0
MOST_ANSWERS = 60
"""For each account in a window."""
ANSWER_SECONDS = 25.0
"""Less than the shipped balancer waits for an answer."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the customer would read. `reason`: why a person would be called; `None`: none would."""

    text: str
    reason: HandoverReason | None


class Simulator:
    def __init__(
        self, accounts: AccountService, model: Model, answers: Allowance, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._accounts = accounts
        self._model = model
        self._answers = answers
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
            return Simulated(handover_text(profile, now), HandoverReason.CUSTOMER_ASKED)
        prompt = build_prompt(profile, None, history, asked, at=now)
        try:
            generation = await self._model.generate(prompt, deadline=Deadline.after(ANSWER_SECONDS))
        except ModelRefused:
            return Simulated(handover_text(profile, now), HandoverReason.MODEL_REFUSED)
        called = person_called(generation)
        said = called.message if called else generation.text
        text = to_whatsapp(said).strip() or said or handover_text(profile, now)
        if called:
            return Simulated(text, called.reason)
        return Simulated(text, HandoverReason.PROMISED if promises_person(text) else None)


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
