"""Accounts: the businesses and their WhatsApp numbers."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.deps import CurrentUser, Replica
from app.api.schemas import AccountChanges, AccountIn, AccountOut, SpentTodayOut
from app.domain.models import Role

router = APIRouter(prefix="/accounts", tags=["accounts"])


@router.get("")
async def list_accounts(replica: Replica, user: CurrentUser) -> list[AccountOut]:
    accounts = await replica.accounts.list_for(user)
    days = await replica.accounts.spent_today(accounts)
    spent = {
        id_: SpentTodayOut(
            answers=day.answers,
            input_tokens=day.input_tokens,
            output_tokens=day.output_tokens,
            limits_reached=replica.accounts.limits_reached(day),
        )
        for id_, day in days.items()
    }
    return [
        AccountOut.model_validate(account).model_copy(update={"spent_today": spent.get(account.id, SpentTodayOut())})
        for account in accounts
    ]


@router.post("", status_code=201)
async def create_account(replica: Replica, user: CurrentUser, body: AccountIn) -> AccountOut:
    return AccountOut.model_validate(await replica.accounts.create(user, **body.model_dump()))


@router.patch("/{account_id}")
async def update_account(replica: Replica, user: CurrentUser, account_id: str, body: AccountChanges) -> AccountOut:
    await replica.accounts.authorize(user, account_id, Role.OWNER)
    changes = body.model_dump(exclude_unset=True)
    return AccountOut.model_validate(await replica.accounts.update(account_id, changes))
