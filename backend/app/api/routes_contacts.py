"""Contacts: a customer is handed out, or erased."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
from fastapi.responses import StreamingResponse

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import ContactExportOut, ErasureOut
from app.domain.models import ContactExport, Json

router = json_router("/contacts", "contacts")


@router.delete("/{contact_id}", responses=problems(401, 403, 404, 422, 503))
async def erase_contact(replica: Replica, user: CurrentUser, contact_id: str) -> ErasureOut:
    """For owners: everything about this customer goes, from the database and from the queue, and what is being made for
    them is not sent. Cannot be undone. Answers what went; a repetition answers the same."""
    return ErasureOut.model_validate(await replica.privacy.erase(user, contact_id))


@router.get(
    "/{contact_id}/export",
    response_model=None,
    responses=problems(401, 403, 404, 422, 503) | {200: {"model": ContactExportOut}},
)
async def export_contact(replica: Replica, user: CurrentUser, contact_id: str) -> StreamingResponse:
    """For owners: all that is stored about this customer, in one document."""
    found, messages = await replica.privacy.export(user, contact_id)
    headers = {"Content-Disposition": f'attachment; filename="contact-{found.contact["id"]}.json"'}
    return StreamingResponse(_document(found, messages), media_type="application/json", headers=headers)


async def _document(found: ContactExport, messages: AsyncIterator[Json]) -> AsyncIterator[bytes]:
    """Message by message: a long history never stands in memory whole."""
    head = {
        "account_id": found.account_id,
        "contact": found.contact,
        "other_ids": found.other_ids,
        "conversations": found.conversations,
    }
    yield orjson.dumps(head)[:-1] + b',"messages":['
    comma = b""
    async for message in messages:
        yield comma + orjson.dumps(message)
        comma = b","
    yield b"]}"
