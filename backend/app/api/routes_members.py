"""Members: the people who may act for an account, and as what."""

from __future__ import annotations

from fastapi import Response

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import MemberId, MemberIn, MemberOut

router = json_router("/accounts/{account_id}/members", "members")


@router.get("", responses=problems(401, 404, 422, 503))
async def list_members(replica: Replica, user: CurrentUser, account_id: str) -> list[MemberOut]:
    """For members: owners first, then agents, then viewers; at most 1,000."""
    return [MemberOut.model_validate(member) for member in await replica.accounts.members(user, account_id)]


@router.get("/{user_id}", responses=problems(401, 404, 422, 503))
async def get_member(replica: Replica, user: CurrentUser, account_id: str, user_id: MemberId) -> MemberOut:
    """For members."""
    return MemberOut.model_validate(await replica.accounts.member(user, account_id, user_id))


@router.put("/{user_id}", responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def set_member(
    replica: Replica, user: CurrentUser, account_id: str, user_id: MemberId, body: MemberIn
) -> MemberOut:
    """For owners: make a person a member, or change the role. `user_id` is the `sub` of their access tokens. The last
    owner stays one (409 `last_owner`), except to the operator."""
    return MemberOut.model_validate(await replica.accounts.set_member(user, account_id, user_id, body.role))


@router.delete("/{user_id}", status_code=204, responses=problems(401, 403, 404, 409, 422, 503))
async def remove_member(replica: Replica, user: CurrentUser, account_id: str, user_id: MemberId) -> Response:
    """For owners, and for every member who leaves. The access ends at once. The last owner stays (409 `last_owner`),
    except to the operator."""
    await replica.accounts.remove_member(user, account_id, user_id)
    return Response(status_code=204)
