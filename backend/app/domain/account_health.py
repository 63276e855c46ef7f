"""Is an account healthy? What Meta said about its token, its number and its webhook subscription, and what follows.

Meta is asked three questions (`Inspection`), `judge` answers (`Judgement`). A question that could not be asked makes
nothing invalid: then there is no verdict, and the one before stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.models import Account, BlockReason

EXPIRES_SOON = timedelta(days=7)
MESSAGING, MANAGEMENT = "whatsapp_business_messaging", "whatsapp_business_management"
"""The permissions of a token: to send, and to read what the number and its subscription are."""

_GONE = frozenset({"BANNED", "DELETED", "DISCONNECTED", "MIGRATED"})
_LIMITED = frozenset({"FLAGGED", "PENDING", "RATE_LIMITED", "RESTRICTED", "UNVERIFIED"})
"""Of a number's `status` (Graph API, WhatsApp Business phone number)."""
_NO_NAME = frozenset({"DECLINED", "EXPIRED"})


class Verdict(StrEnum):
    """`attention`: it works, and a person should look at it."""

    HEALTHY = "healthy"
    ATTENTION = "attention"
    UNHEALTHY = "unhealthy"


class State(StrEnum):
    """Of one part of the report. `unknown`: Meta was not asked, or does not tell."""

    OK = "ok"
    ATTENTION = "attention"
    BAD = "bad"
    UNKNOWN = "unknown"


class Problem(StrEnum):
    """What is wrong with an account. Stored, shown, an event's reason and a metric's label: stable words. The first
    ones are every `BlockReason`: nothing can be sent."""

    TOKEN_INVALID = "token_invalid"
    TOKEN_UNREADABLE = "token_unreadable"
    TOKEN_MALFORMED = "token_malformed"
    PERMISSION_MISSING = "permission_missing"
    NUMBER_NOT_REGISTERED = "number_not_registered"
    DISPLAY_NAME_UNAPPROVED = "display_name_unapproved"
    ACCOUNT_LOCKED = "account_locked"
    POLICY_VIOLATION = "policy_violation"
    PAYMENT_PROBLEM = "payment_problem"
    MESSAGING_LIMIT = "messaging_limit"
    NOT_SUBSCRIBED = "not_subscribed"
    TOKEN_EXPIRES = "token_expires"
    MANAGEMENT_MISSING = "management_permission_missing"
    NUMBER_RESTRICTED = "number_restricted"
    QUALITY_LOW = "quality_low"
    NAME_DECLINED = "name_declined"

    @property
    def words(self) -> str:
        """What is wrong and what to do, without a full stop."""
        return _WORDS[self]

    @property
    def is_unhealthy(self) -> bool:
        """The account does not do its work."""
        return self.block is not None or self is Problem.NOT_SUBSCRIBED

    @property
    def block(self) -> BlockReason | None:
        """Why nothing can be sent, if that is what it means."""
        return _BLOCKS.get(self)


_BLOCKS = {Problem(reason.value): reason for reason in BlockReason}
_WORDS: Mapping[Problem, str] = {
    Problem.TOKEN_INVALID: "the token is expired, revoked or wrong; give a new one",
    Problem.TOKEN_UNREADABLE: "no ENCRYPTION_KEY opens the stored token; append the key that encrypted it, or give a"
    " new token",
    Problem.TOKEN_MALFORMED: "the stored token has characters that no token has; give it anew",
    Problem.PERMISSION_MISSING: f"the token lacks a permission that sending needs: {MESSAGING}, and access to the"
    " WhatsApp Business account",
    Problem.NUMBER_NOT_REGISTERED: "the number does not exist, is not connected, or is not open to this token",
    Problem.DISPLAY_NAME_UNAPPROVED: "Meta has not approved the number's display name",
    Problem.ACCOUNT_LOCKED: "Meta lets this account send nothing; WhatsApp Manager says what it wants",
    Problem.POLICY_VIOLATION: "Meta has blocked the account for a policy; see Business Support Home",
    Problem.PAYMENT_PROBLEM: "Meta has no valid payment method of the business",
    Problem.MESSAGING_LIMIT: "the number has reached Meta's limit of messages",
    Problem.NOT_SUBSCRIBED: "Meta sends this app no webhooks of the account: subscribe it (docs/meta.md, step 6)",
    Problem.TOKEN_EXPIRES: f"the token ends within {EXPIRES_SOON.days} days; give a permanent one",
    Problem.MANAGEMENT_MISSING: f"the token lacks {MANAGEMENT}: Meta does not tell everything about the account",
    Problem.NUMBER_RESTRICTED: "Meta restricts the number",
    Problem.QUALITY_LOW: "customers block or report the number: its quality is RED, and Meta may restrict it",
    Problem.NAME_DECLINED: "Meta does not accept the number's display name",
}


@dataclass(frozen=True, slots=True)
class MetaSaid:
    """Meta's own words, in one line without tokens and phone numbers, and its codes."""

    words: str
    code: int | None = None
    subcode: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Meta answered, and said no. `reason`: what its code says about the account as a whole."""

    said: MetaSaid
    reason: BlockReason | None = None


@dataclass(frozen=True, slots=True)
class NotTold:
    """No answer to this question. `why`: our words. `is_outage`: another time there will be one."""

    why: str
    is_outage: bool = True


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """`debug_token`. `expires_at`: `None` for a token without end. `scopes`: empty if Meta names none."""

    is_valid: bool
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    app_id: str | None = None
    said: MetaSaid | None = None


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """Meta's values as they are; `None` for what it does not tell. `said`: why it lets the number not send."""

    display_phone_number: str | None = None
    verified_name: str | None = None
    quality_rating: str | None = None
    messaging_limit_tier: str | None = None
    status: str | None = None
    name_status: str | None = None
    throughput: str | None = None
    can_send_message: str | None = None
    said: MetaSaid | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionFacts:
    """The apps that get the webhooks of the number's WhatsApp Business account."""

    app_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Meta's answers. `app_id`: of our app, `None` if the settings do not say. `unusable`: the stored token could not
    be used, and nothing was asked."""

    token: TokenFacts | Refused | NotTold
    number: NumberFacts | Refused | NotTold
    subscription: SubscriptionFacts | Refused | NotTold
    app_id: str | None = None
    waba_id: str | None = None
    unusable: BlockReason | None = None


@dataclass(frozen=True, slots=True)
class TokenReport:
    state: State
    valid: bool | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    said: MetaSaid | None = None
    unknown: str | None = None
    """Why something is not known, in our words."""


@dataclass(frozen=True, slots=True)
class NumberReport:
    state: State
    display_phone_number: str | None = None
    verified_name: str | None = None
    quality_rating: str | None = None
    messaging_limit_tier: str | None = None
    status: str | None = None
    name_status: str | None = None
    throughput: str | None = None
    can_send_message: str | None = None
    said: MetaSaid | None = None
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionReport:
    state: State
    subscribed: bool | None = None
    waba_id: str | None = None
    app_id: str | None = None
    said: MetaSaid | None = None
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What one check found. `problems`: the worst first."""

    token: TokenReport
    number: NumberReport
    subscription: SubscriptionReport
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a check says. `verdict` is `None` if it could not be made; then `failure` says why, in our words."""

    report: Report
    verdict: Verdict | None
    failure: str | None = None

    @property
    def reason(self) -> Problem | None:
        """The worst problem, `None` if there is no verdict or none is needed."""
        return self.report.problems[0] if self.verdict and self.report.problems else None

    @property
    def block(self) -> BlockReason | None:
        return self.reason.block if self.reason else None


@dataclass(frozen=True, slots=True)
class AccountHealth:
    """What is known of an account. `checked_at`: of the last check that could be made, which `verdict`, `reason` and
    `report` are from; `tried_at` and `failure`: of the last one, `failure` is `None` if it could be made."""

    verdict: Verdict | None = None
    reason: Problem | None = None
    report: Report | None = None
    checked_at: datetime | None = None
    tried_at: datetime | None = None
    failure: str | None = None
    last_inbound_at: datetime | None = None
    """When a customer wrote last."""


@dataclass(frozen=True, slots=True)
class ProblemCount:
    """How many active accounts have this as their worst problem."""

    verdict: Verdict
    reason: Problem
    count: int


@dataclass(frozen=True, slots=True)
class HealthRound:
    """Active accounts whose check is due, those that changed first, and what was found of all."""

    due: tuple[Account, ...] = ()
    problems: tuple[ProblemCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the store made of a check. `current`: the account still had the token that was asked with; if not, nothing
    was written, and the account is due again."""

    current: bool
    was: Verdict | None
    was_blocked: bool
    is_blocked: bool


def judge(seen: Inspection, now: datetime) -> Judgement:
    """The verdict on an account. Pure."""
    if seen.unusable is not None:
        return _unusable(Problem(seen.unusable.value))
    token, of_token = _token(seen, now)
    number, of_number = _number(seen.number)
    subscription, of_subscription = _subscription(seen)
    problems = tuple(sorted({*of_token, *of_number, *of_subscription}, key=list(Problem).index))
    report = Report(token, number, subscription, problems)
    if any(problem.is_unhealthy for problem in problems):
        return Judgement(report, Verdict.UNHEALTHY)
    if failure := _failure(seen):
        return Judgement(report, None, failure)
    return Judgement(report, Verdict.ATTENTION if problems else Verdict.HEALTHY)


def _unusable(problem: Problem) -> Judgement:
    why = "not asked: the stored token cannot be used"
    parts = NumberReport(State.UNKNOWN, unknown=why), SubscriptionReport(State.UNKNOWN, unknown=why)
    return Judgement(Report(TokenReport(State.BAD, unknown=problem.words), *parts, (problem,)), Verdict.UNHEALTHY)


def _failure(seen: Inspection) -> str | None:
    """Why there is no verdict although no problem was found. What `debug_token` adds is not needed for one."""
    if isinstance(seen.number, NotTold):
        return seen.number.why
    if isinstance(seen.number, Refused):
        if seen.number.reason is BlockReason.TOKEN_INVALID:
            return "Meta contradicts itself: the token is valid, and refused"
        return "Meta does not describe the number"
    if isinstance(seen.subscription, NotTold) and seen.subscription.is_outage:
        return seen.subscription.why
    return None


def _token(seen: Inspection, now: datetime) -> tuple[TokenReport, list[Problem]]:
    """A token that opens its number works, whatever `debug_token` says: that looks through one app's eyes."""
    facts = seen.token if isinstance(seen.token, TokenFacts) else None
    refusal = seen.number if isinstance(seen.number, Refused) else None
    if refusal is not None and refusal.reason is not BlockReason.TOKEN_INVALID:
        refusal = None  # of the number, not of the token
    said = seen.token.said if isinstance(seen.token, Refused | TokenFacts) else None
    said = refusal.said if refusal else said
    unknown = seen.token.why if isinstance(seen.token, NotTold) else None
    ended = facts is not None and (not facts.is_valid or (facts.expires_at is not None and facts.expires_at <= now))
    if isinstance(seen.number, NumberFacts):
        if facts is None or ended:  # nothing is known of its end and its permissions
            return TokenReport(State.OK, valid=True, said=said, unknown=unknown), []
    elif ended or (refusal and facts is None):
        ends = facts.expires_at if facts else None
        return TokenReport(State.BAD, valid=False, expires_at=ends, said=said), [Problem.TOKEN_INVALID]
    elif facts is None or refusal:
        return TokenReport(State.UNKNOWN, said=said, unknown=unknown), []
    problems = list(_lacking(facts, now))
    return TokenReport(_state(problems), valid=True, expires_at=facts.expires_at, scopes=facts.scopes), problems


def _state(problems: Sequence[Problem]) -> State:
    if any(problem.is_unhealthy for problem in problems):
        return State.BAD
    return State.ATTENTION if problems else State.OK


def _lacking(facts: TokenFacts, now: datetime) -> Iterator[Problem]:
    if facts.scopes and MESSAGING not in facts.scopes:
        yield Problem.PERMISSION_MISSING
    if facts.scopes and MANAGEMENT not in facts.scopes:
        yield Problem.MANAGEMENT_MISSING
    if facts.expires_at is not None and facts.expires_at - now <= EXPIRES_SOON:
        yield Problem.TOKEN_EXPIRES


def _number(seen: NumberFacts | Refused | NotTold) -> tuple[NumberReport, list[Problem]]:
    if isinstance(seen, NotTold):
        return NumberReport(State.UNKNOWN, unknown=seen.why), []
    if isinstance(seen, Refused):
        if seen.reason is None or seen.reason is BlockReason.TOKEN_INVALID:  # the second is the token's affair
            return NumberReport(State.UNKNOWN, said=seen.said), []
        return NumberReport(State.BAD, said=seen.said), [Problem(seen.reason.value)]
    problems = []
    status = (seen.status or "").upper()
    if status in _GONE:
        problems.append(Problem.ACCOUNT_LOCKED if status == "BANNED" else Problem.NUMBER_NOT_REGISTERED)
    elif seen.can_send_message == "BLOCKED":
        problems.append(Problem.ACCOUNT_LOCKED)
    if status in _LIMITED or seen.can_send_message == "LIMITED":
        problems.append(Problem.NUMBER_RESTRICTED)
    if (seen.quality_rating or "").upper() == "RED":
        problems.append(Problem.QUALITY_LOW)
    if (seen.name_status or "").upper() in _NO_NAME:
        problems.append(Problem.NAME_DECLINED)
    report = NumberReport(
        _state(problems), seen.display_phone_number, seen.verified_name, seen.quality_rating, seen.messaging_limit_tier,
        seen.status, seen.name_status, seen.throughput, seen.can_send_message, seen.said,
    )  # fmt: skip
    return report, problems


def _subscription(seen: Inspection) -> tuple[SubscriptionReport, list[Problem]]:
    told = seen.subscription
    app_id = seen.app_id or (seen.token.app_id if isinstance(seen.token, TokenFacts) else None)
    report = SubscriptionReport(State.UNKNOWN, waba_id=seen.waba_id, app_id=app_id)
    if isinstance(told, NotTold):
        return replace(report, unknown=told.why), []
    if isinstance(told, Refused):
        return replace(report, said=told.said), []
    if app_id in told.app_ids:
        return replace(report, state=State.OK, subscribed=True), []
    if not told.app_ids or seen.app_id:
        return replace(report, state=State.BAD, subscribed=False), [Problem.NOT_SUBSCRIBED]
    # Other apps than the token's are subscribed, and the settings do not say which one is ours.
    why = "another app is subscribed; name ours in META_APP_SECRET (<app id>:<secret>)"
    return replace(report, unknown=why), []
