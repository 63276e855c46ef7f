"""The bot profile: what the bot knows and how it speaks."""

from __future__ import annotations

from fastapi import APIRouter

from app.api.deps import CurrentUser, Replica
from app.api.schemas import ProfileChanges, ProfileOut
from app.domain.models import Role

router = APIRouter(prefix="/bot", tags=["bot"])


@router.get("/profile")
async def get_profile(replica: Replica, user: CurrentUser, account_id: str) -> ProfileOut:
    await replica.accounts.authorize(user, account_id, Role.VIEWER)
    return ProfileOut.model_validate(await replica.accounts.profile(account_id))


@router.put("/profile")
async def put_profile(replica: Replica, user: CurrentUser, account_id: str, body: ProfileChanges) -> ProfileOut:
    """Any subset of the fields; returns the whole profile."""
    await replica.accounts.authorize(user, account_id, Role.OWNER)
    changes = body.model_dump(exclude_unset=True)
    return ProfileOut.model_validate(await replica.accounts.update_profile(account_id, changes))
