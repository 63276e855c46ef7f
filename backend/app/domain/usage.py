"""What the model's answers cost, and how much of it a conversation and an account may have in a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum


class DailyLimit(StrEnum):
    """By the name of its setting. Stable words: a metric's label and what /accounts shows."""

    MESSAGES_PER_CONVERSATION = "daily_messages_per_conversation"
    TOKENS_PER_CONVERSATION = "daily_tokens_per_conversation"
    MESSAGES_PER_ACCOUNT = "daily_messages_per_account"
    TOKENS_PER_ACCOUNT = "daily_tokens_per_account"
    TOKEN_BUDGET = "daily_token_budget"
    """The account's own, as its owner set it."""

    @property
    def is_of_the_account(self) -> bool:
        return self in (DailyLimit.MESSAGES_PER_ACCOUNT, DailyLimit.TOKENS_PER_ACCOUNT, DailyLimit.TOKEN_BUDGET)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of the calls behind one answer, those whose text was not used included. `id`: of the making of this
    answer; what comes with the same id is counted once."""

    id: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Spending:
    """Answers of the model, and tokens in both directions."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """Since midnight UTC, by the database's clock."""

    conversation: Spending = Spending()
    account: Spending = Spending()


@dataclass(frozen=True, slots=True)
class UsageChange:
    """Around one answer, in the order in which the answers of an account are counted."""

    before: Usage
    after: Usage


@dataclass(frozen=True, slots=True)
class AccountDay:
    """One account's day (UTC)."""

    account_id: str
    day: date
    answers: int
    input_tokens: int
    output_tokens: int
    messages: int = 0
    """Of customers, that the answers are to."""


@dataclass(frozen=True, slots=True)
class DailyLimits:
    """0: no limit. Checked before the model is asked, so that answers made at the same moment may go over it."""

    messages_per_conversation: int = 0
    tokens_per_conversation: int = 0
    messages_per_account: int = 0
    tokens_per_account: int = 0
    token_budget: int = 0

    def with_budget(self, tokens: int | None) -> DailyLimits:
        """These, and what the account set for itself."""
        return replace(self, token_budget=tokens) if tokens else self

    def reached(self, usage: Usage) -> tuple[DailyLimit, ...]:
        return tuple(self._reached(usage))

    def crossed(self, change: UsageChange) -> tuple[DailyLimit, ...]:
        """Those that were not reached before."""
        known = self.reached(change.before)
        return tuple(limit for limit in self.reached(change.after) if limit not in known)

    def _reached(self, usage: Usage) -> Iterator[DailyLimit]:
        for kind, limit, spent in (
            (DailyLimit.TOKEN_BUDGET, self.token_budget, usage.account.tokens),
            (DailyLimit.MESSAGES_PER_CONVERSATION, self.messages_per_conversation, usage.conversation.answers),
            (DailyLimit.TOKENS_PER_CONVERSATION, self.tokens_per_conversation, usage.conversation.tokens),
            (DailyLimit.MESSAGES_PER_ACCOUNT, self.messages_per_account, usage.account.answers),
            (DailyLimit.TOKENS_PER_ACCOUNT, self.tokens_per_account, usage.account.tokens),
        ):
            if 0 < limit <= spent:
                yield kind
