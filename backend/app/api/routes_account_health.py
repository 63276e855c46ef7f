"""Is an account healthy? Meta's words about its token, number and subscription, and what this system knows itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import NoticeOut
from app.domain.account_health import AccountHealth, Problem, Verdict
from app.domain.models import Account, Json

router = json_router("/accounts/{account_id}/health", "accounts")

Refresh = Annotated[bool, Query(description="Ask Meta now, unless that was within the last five seconds.")]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class MetaSaidOut(_Out):
    """Meta's own words and codes; tokens and phone numbers are taken out."""

    words: str
    code: int | None
    subcode: int | None


class _PartOut(_Out):
    state: Annotated[str, Field(examples=["ok", "attention", "bad", "unknown"])]
    """`unknown`: Meta was not asked, or does not tell; `unknown` beside it says why."""
    said: MetaSaidOut | None = None
    unknown: str | None = None


class TokenHealthOut(_PartOut):
    valid: bool | None = None
    expires_at: datetime | None = None
    """Null: it has no end, or Meta does not tell it."""
    scopes: tuple[str, ...] = ()


class NumberHealthOut(_PartOut):
    """Meta's values as they are."""

    display_phone_number: str | None = None
    verified_name: str | None = None
    quality_rating: str | None = None
    messaging_limit_tier: str | None = None
    status: str | None = None
    name_status: str | None = None
    throughput: str | None = None
    can_send_message: str | None = None


class SubscriptionHealthOut(_PartOut):
    """Does Meta send our app (`app_id`) the webhooks of the WhatsApp Business account (`waba_id`)?"""

    subscribed: bool | None = None
    waba_id: str | None = None
    app_id: str | None = None


class AccountProblemOut(BaseModel):
    code: Annotated[str, Field(examples=[str(problem) for problem in Problem])]
    """A word of the list; a newer version may have more."""
    words: str
    """What is wrong and what to do."""


class CircuitOut(BaseModel):
    """Of this account's sends: while it is open they wait."""

    state: str
    forced: bool
    failure_count: int
    retry_after: float
    why: str
    last_failure: str


class AccountHealthOut(BaseModel):
    """`verdict` is of the last check that could be made, at `checked_at`; null: there was none yet. `attention`: it
    works, and a person should look at it. `failure`: why the check of `tried_at` could not be made; null if it could.
    An account that is blocked (`blocked_reason`: WhatsApp refused its sends, or a check found why it would) is
    `unhealthy`."""

    account_id: str
    is_active: bool
    verdict: Annotated[str | None, Field(examples=[str(verdict) for verdict in Verdict])]
    problems: tuple[AccountProblemOut, ...]
    checked_at: datetime | None
    tried_at: datetime | None
    failure: str | None
    token: TokenHealthOut | None
    number: NumberHealthOut | None
    subscription: SubscriptionHealthOut | None
    circuit: CircuitOut
    blocked_reason: str | None
    blocked_since: datetime | None
    last_notice: NoticeOut | None
    last_inbound_at: datetime | None


@router.get("", responses=problems(401, 404, 422, 503))
async def get_account_health(
    replica: Replica, user: CurrentUser, account_id: str, *, refresh: Refresh = False
) -> AccountHealthOut:
    """For members: what Meta says about the account's token, number and webhook subscription, checked every ten
    minutes and after every change, and when a customer wrote last."""
    account, health = await replica.checks.view(user, account_id, refresh=refresh)
    return _shown(account, health, await replica.breakers.of_account(account.phone_number_id))


def _shown(account: Account, health: AccountHealth, circuit: Json) -> AccountHealthOut:
    report = health.report
    found = list(report.problems) if report else []
    if account.blocked_reason and account.blocked_reason not in found:
        found.insert(0, Problem(account.blocked_reason))
    return AccountHealthOut(
        account_id=account.id,
        is_active=account.is_active,
        verdict=Verdict.UNHEALTHY if account.is_blocked else health.verdict,
        problems=tuple(AccountProblemOut(code=problem, words=problem.words) for problem in found),
        checked_at=health.checked_at,
        tried_at=health.tried_at,
        failure=health.failure,
        token=TokenHealthOut.model_validate(report.token) if report else None,
        number=NumberHealthOut.model_validate(report.number) if report else None,
        subscription=SubscriptionHealthOut.model_validate(report.subscription) if report else None,
        circuit=CircuitOut.model_validate(dict(circuit)),
        blocked_reason=account.blocked_reason,
        blocked_since=account.blocked_since,
        last_notice=NoticeOut.model_validate(account.last_notice) if account.last_notice else None,
        last_inbound_at=health.last_inbound_at,
    )
