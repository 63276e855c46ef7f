"""Accounts: the businesses and their WhatsApp numbers."""

from __future__ import annotations

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import AccountChanges, AccountIn, AccountOut
from app.domain.models import Role

router = json_router("/accounts", "accounts")


@router.get("", responses=problems(401, 422, 503))
async def list_accounts(replica: Replica, user: CurrentUser) -> list[AccountOut]:
    """Yours, by name; to the operator all."""
    return [AccountOut.model_validate(account) for account in await replica.accounts.list_for(user)]


@router.post("", status_code=201, responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def create_account(replica: Replica, user: CurrentUser, body: AccountIn) -> AccountOut:
    """The operator creates accounts; with `SIGNUP=open` signed-in people do too, and own them. Then WhatsApp is asked
    whether the access token opens the number (422 if not), 10 times an hour and person at most (429)."""
    return AccountOut.model_validate(await replica.signup.create_account(user, **body.model_dump()))


@router.patch("/{account_id}", responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def update_account(replica: Replica, user: CurrentUser, account_id: str, body: AccountChanges) -> AccountOut:
    """For owners: any subset of the fields."""
    await replica.accounts.authorize(user, account_id, Role.OWNER)
    changes = body.model_dump(exclude_unset=True)
    return AccountOut.model_validate(await replica.accounts.update(account_id, changes))
