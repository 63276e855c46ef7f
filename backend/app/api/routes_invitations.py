"""Invitations: a link makes the person who opens it a member of an account."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request, Response

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import InvitationIn, InvitationOut, InvitationTokenIn, InvitationWithTokenOut, MembershipOut
from app.api.session_cookie import own_address

router = json_router("/accounts/{account_id}/invitations", "members")
accepting = json_router("/invitations", "members")

InvitationId = Annotated[str, Path(description="Of one of the account's invitations.")]


@router.get("", responses=problems(401, 403, 404, 422, 503))
async def list_invitations(replica: Replica, user: CurrentUser, account_id: str) -> list[InvitationOut]:
    """For owners: those that have not expired, the newest first, without their tokens."""
    found = await replica.invitations.list_for(user, account_id)
    return [InvitationOut.model_validate(invitation) for invitation in found]


@router.post("", status_code=201, responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def create_invitation(
    replica: Replica, user: CurrentUser, request: Request, account_id: str, body: InvitationIn
) -> InvitationWithTokenOut:
    """For owners; at most 50 open ones for an account (409 `too_many_invitations`). The answer has the token and a link
    to the console with it, which are not shown again: good once, for 7 days."""
    made, token = await replica.invitations.create(user, account_id, role=body.role)
    link = f"{replica.public_url or own_address(request)}/console#invitation={token}"
    return InvitationWithTokenOut(**InvitationOut.model_validate(made).model_dump(), token=token, link=link)


@router.delete("/{invitation_id}", status_code=204, responses=problems(401, 403, 404, 422, 503))
async def delete_invitation(
    replica: Replica, user: CurrentUser, account_id: str, invitation_id: InvitationId
) -> Response:
    """For owners: it cannot be accepted any more. A member whom it made stays one."""
    await replica.invitations.withdraw(user, account_id, invitation_id)
    return Response(status_code=204)


@accepting.post("/accept", responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def accept_invitation(replica: Replica, user: CurrentUser, body: InvitationTokenIn) -> MembershipOut:
    """For signed-in people, not anonymous ones: a member from now on. A higher role stays. Accepting it again gives the
    same answer; to others it is used (409 `invitation_used`), and after 7 days too late (409 `invitation_expired`)."""
    return MembershipOut.model_validate(await replica.invitations.accept(user, body.token))
