"""The webhooks of an account: where other systems hear of its events."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from app.api.deps import CurrentUser, Limit, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import (
    DeliveryOut,
    WebhookChanges,
    WebhookIn,
    WebhookOut,
    WebhookTestOut,
    WebhookWithSecretOut,
)

router = json_router("/accounts/{account_id}/webhooks", "events")

WebhookId = Annotated[str, Path(description="Of one of the account's webhooks.")]


@router.get("", responses=problems(401, 404, 422, 503))
async def list_webhooks(replica: Replica, user: CurrentUser, account_id: str) -> list[WebhookOut]:
    """For members: the oldest first, without secrets."""
    found = await replica.endpoints.list_for(user, account_id)
    return [WebhookOut.model_validate(endpoint) for endpoint in found]


@router.post("", status_code=201, responses=problems(400, 401, 403, 404, 409, 413, 422, 503))
async def create_webhook(replica: Replica, user: CurrentUser, account_id: str, body: WebhookIn) -> WebhookWithSecretOut:
    """For owners; at most 20 for an account (409 `too_many_webhooks`). The answer has the secret that the deliveries
    are signed with; it is not shown again. The URL is https, on port 443 or 8443, and leads to public addresses."""
    endpoint, secret = await replica.endpoints.create(user, account_id, url=body.url, events=body.events)
    return WebhookWithSecretOut(**WebhookOut.model_validate(endpoint).model_dump(), secret=secret)


@router.get("/{webhook_id}", responses=problems(401, 404, 422, 503))
async def get_webhook(replica: Replica, user: CurrentUser, account_id: str, webhook_id: WebhookId) -> WebhookOut:
    """For members."""
    return WebhookOut.model_validate(await replica.endpoints.get(user, account_id, webhook_id))


@router.patch("/{webhook_id}", responses=problems(400, 401, 403, 404, 413, 422, 503))
async def update_webhook(
    replica: Replica, user: CurrentUser, account_id: str, webhook_id: WebhookId, body: WebhookChanges
) -> WebhookWithSecretOut:
    """For owners: any subset of the fields. `enabled: true` switches it on again and forgets its failures.
    `rotate_secret: true` makes a new secret, shown in this answer alone; for `overlap_hours` (24) deliveries bear a
    signature with the one before, too."""
    changes = body.model_dump(exclude_unset=True)
    endpoint, secret = await replica.endpoints.update(user, account_id, webhook_id, changes)
    return WebhookWithSecretOut(**WebhookOut.model_validate(endpoint).model_dump(), secret=secret)


@router.delete("/{webhook_id}", status_code=204, responses=problems(401, 403, 404, 422, 503))
async def delete_webhook(replica: Replica, user: CurrentUser, account_id: str, webhook_id: WebhookId) -> Response:
    """For owners. What waits for it is not told any more."""
    await replica.endpoints.delete(user, account_id, webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/test", responses=problems(401, 403, 404, 422, 429, 503))
async def test_webhook(replica: Replica, user: CurrentUser, account_id: str, webhook_id: WebhookId) -> WebhookTestOut:
    """For owners: send one `webhook.test` now, within 10 s, also to one that is switched off. 30 for
    each account in ten minutes (429)."""
    return WebhookTestOut.model_validate(await replica.endpoints.test(user, account_id, webhook_id))


@router.get("/{webhook_id}/deliveries", responses=problems(401, 404, 422, 503))
async def list_deliveries(
    replica: Replica, user: CurrentUser, account_id: str, webhook_id: WebhookId, limit: Limit = 50
) -> list[DeliveryOut]:
    """For members: the last attempts, the newest first; 200 are kept."""
    found = await replica.endpoints.deliveries(user, account_id, webhook_id, limit=limit)
    return [DeliveryOut.model_validate(delivery) for delivery in found]
