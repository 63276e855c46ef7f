"""What the model's answers cost a conversation and its account, and when they have had enough for the day."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field

from prometheus_client import Counter

from app.domain.fitting import estimated_tokens
from app.domain.models import Conversation, Generation, Prompt
from app.domain.usage import DailyLimit, DailyLimits, Spent, Usage, UsageChange

logger = logging.getLogger(__name__)

FILE_TOKENS = 258
"""Of a small picture or a page (Gemini API, page on tokens)."""

UNANSWERED = Counter(
    "chorus_daily_limit_total", "Runs of messages that the model was not asked about: a daily limit", ["reason"]
)
TOKENS = Counter("chorus_model_tokens_total", "Tokens of the model's calls, counted or estimated", ["kind"])


@dataclass(slots=True)
class Bill:
    """The calls behind one answer. What the model does not count is estimated: no call is free."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, prompt: Prompt, generation: Generation) -> None:
        asked, said = generation.input_tokens, generation.output_tokens
        self._add(
            _tokens(prompt) if asked is None else asked, estimated_tokens(generation.text) if said is None else said
        )

    def add_refused(self, prompt: Prompt) -> None:
        """The model read it, and said nothing that may be used."""
        self._add(_tokens(prompt), 0)

    def _add(self, asked: int, said: int) -> None:
        self.input_tokens += max(0, asked)
        self.output_tokens += max(0, said)
        TOKENS.labels("input").inc(max(0, asked))
        TOKENS.labels("output").inc(max(0, said))

    def total(self) -> Spent | None:
        """`None`: the model was not asked."""
        if not self.input_tokens and not self.output_tokens:
            return None
        return Spent(self.id, self.input_tokens, self.output_tokens)


@dataclass(frozen=True, slots=True)
class DailyGuard:
    """Today's limits at work."""

    limits: DailyLimits

    def used_up(self, usage: Usage, budget: int | None) -> DailyLimit | None:
        """The limit that forbids another answer today, if there is one. `budget`: the account's own. Counted: ask once
        for each run of messages."""
        reached = self.limits.with_budget(budget).reached(usage)
        if not reached:
            return None
        UNANSWERED.labels(reached[0]).inc()
        return reached[0]

    def tell(self, change: UsageChange | None, conversation: Conversation) -> None:
        """Log the limits that this answer was the first to reach, once a day in the whole fleet."""
        for limit in self.limits.crossed(change) if change else ():
            whose = {} if limit.is_of_the_account else {"conversation": conversation.id}
            logger.warning(
                "daily limit reached: the bot calls a person until midnight UTC",
                extra={"limit": str(limit), "account": conversation.account_id, **whose},
            )


def _tokens(prompt: Prompt) -> int:
    words = estimated_tokens(prompt.system) + sum(estimated_tokens(turn.text) for turn in prompt.turns)
    return words + FILE_TOKENS * len(prompt.files)
