"""API keys of an account: how programs act for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import ApiKeyIn, ApiKeyOut, ApiKeyWithSecretOut

router = json_router("/accounts/{account_id}/api-keys", "api keys")

ApiKeyId = Annotated[str, Path(description="Of one of the account's keys.")]


@router.get("", responses=problems(401, 403, 404, 422, 503))
async def list_api_keys(replica: Replica, user: CurrentUser, account_id: str) -> list[ApiKeyOut]:
    """For owners: the oldest first, without the keys themselves."""
    return [ApiKeyOut.model_validate(key) for key in await replica.keys.list_for(user, account_id)]


@router.post("", status_code=201, responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def create_api_key(replica: Replica, user: CurrentUser, account_id: str, body: ApiKeyIn) -> ApiKeyWithSecretOut:
    """For owners; at most 50 for an account (409 `too_many_api_keys`). The answer has the key, which is not shown
    again. It is sent as `Authorization: Bearer chorus_…` and may do what a member with its role may."""
    made, key = await replica.keys.create(user, account_id, name=body.name, role=body.role)
    return ApiKeyWithSecretOut(**ApiKeyOut.model_validate(made).model_dump(), key=key)


@router.delete("/{api_key_id}", status_code=204, responses=problems(401, 403, 404, 422, 503))
async def revoke_api_key(replica: Replica, user: CurrentUser, account_id: str, api_key_id: ApiKeyId) -> Response:
    """For owners. It opens nothing any more, at any replica, from the moment of the answer."""
    await replica.keys.revoke(user, account_id, api_key_id)
    return Response(status_code=204)
