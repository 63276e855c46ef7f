"""Accounts: the businesses and their WhatsApp numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import AccountChanges, AccountIn, AccountOut, SpentTodayOut, UsageDayOut
from app.domain.models import Account, Role
from app.domain.usage import AccountDay

router = json_router("/accounts", "accounts")

Days = Annotated[int, Query(ge=1, le=366, description="So many days, today included.")]


@router.get("", responses=problems(401, 422, 503))
async def list_accounts(replica: Replica, user: CurrentUser) -> list[AccountOut]:
    """Yours, by name, with what their answers have cost today; to the operator all."""
    return await _shown(replica, await replica.accounts.list_for(user))


@router.post("", status_code=201, responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def create_account(replica: Replica, user: CurrentUser, body: AccountIn) -> AccountOut:
    """The operator creates accounts; with `SIGNUP=open` signed-in people do too, and own them. Then WhatsApp is asked
    whether the access token opens the number (422 if not), 10 times an hour and person at most (429)."""
    (created,) = await _shown(replica, [await replica.signup.create_account(user, **body.model_dump())])
    return created


@router.patch("/{account_id}", responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def update_account(replica: Replica, user: CurrentUser, account_id: str, body: AccountChanges) -> AccountOut:
    """For owners: any subset of the fields."""
    await replica.accounts.authorize(user, account_id, Role.OWNER)
    changes = body.model_dump(exclude_unset=True)
    (updated,) = await _shown(replica, [await replica.accounts.update(account_id, changes)])
    return updated


@router.get("/{account_id}/usage", responses=problems(401, 404, 422, 503))
async def get_usage(replica: Replica, user: CurrentUser, account_id: str, days: Days = 30) -> list[UsageDayOut]:
    """For members: what the model's answers cost, a row for each day (UTC), today first."""
    await replica.accounts.authorize(user, account_id, Role.VIEWER)
    return [UsageDayOut.model_validate(day) for day in await replica.accounts.usage(account_id, days=days)]


async def _shown(replica: Replica, accounts: Sequence[Account]) -> list[AccountOut]:
    """With what their answers have cost today."""
    days = await replica.accounts.spent_today(accounts)
    return [
        AccountOut.model_validate(account).model_copy(
            update={"spent_today": _spent(replica, account, days.get(account.id))}
        )
        for account in accounts
    ]


def _spent(replica: Replica, account: Account, day: AccountDay | None) -> SpentTodayOut:
    if day is None:
        return SpentTodayOut()
    return SpentTodayOut(
        answers=day.answers,
        input_tokens=day.input_tokens,
        output_tokens=day.output_tokens,
        limits_reached=tuple(map(str, replica.accounts.limits_reached(account, day))),
    )
