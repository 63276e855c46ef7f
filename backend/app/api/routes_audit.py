"""The audit trail of an account: who changed what, when, from where."""

from __future__ import annotations

from app.api.deps import CurrentUser, Limit, Replica, SequenceCursor
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import AuditPage

router = json_router("/accounts/{account_id}/audit", "accounts")


@router.get("", responses=problems(401, 403, 404, 422, 503))
async def list_audit(
    replica: Replica, user: CurrentUser, account_id: str, limit: Limit = 50, cursor: SequenceCursor = None
) -> AuditPage:
    """For owners: changes of the account, its members, keys, invitations, webhooks and profile, and circuits that were
    forced; the newest first. Kept for AUDIT_RETENTION_DAYS."""
    page = await replica.audit.list_for(user, account_id, limit=limit, cursor=cursor)
    return AuditPage.model_validate(page)
