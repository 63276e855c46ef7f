"""What a dead letter is about, in ids, codes and digests: a customer's words, name and number stay where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.core.logging import trace_of
from app.core.queue import DeadLetter, Event
from app.core.redaction import redact
from app.domain.webhook import Kind
from app.services.ingest_service import whatsapp_id

_FIELDS: Mapping[str, str] = {
    Kind.MESSAGE: "messages", Kind.STATUS: "statuses", Kind.ECHO: "message_echoes", Kind.OUTBOUND: "",
}  # fmt: skip
"""Where in a webhook an event of each kind comes from."""
_FIELD = re.compile(r"[A-Za-z_.]{1,60}")


def about(event: Event) -> dict[str, str]:
    """`event`: its kind, number and digest; log lines call it by the digest (`messages`). `field`: of the webhook that
    brought it. Empty where there is none."""
    kind = event.mailbox.partition(":")[0]
    number, field = "", _FIELDS.get(kind, "")
    try:
        content = orjson.loads(event.payload)
        number = str(content.get("number") or "")
        if kind in {Kind.NOTICE, Kind.UNKNOWN}:
            field = _field(content["body"])
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        kind = kind or Kind.UNKNOWN  # of another version, or no event of ours: shown all the same
    digest = trace_of(whatsapp_id(event))
    return {
        "event": ":".join(part for part in (kind, number, digest) if part),
        "kind": kind,
        "field": field if _FIELD.fullmatch(field) else "",
        "phone_number_id": number,
    }


def _field(body: Mapping[str, object]) -> str:
    """A notice names its field; of an event that cannot be read its shape may, or the reason does."""
    shape = body.get("shape")
    named = body.get("field") or (shape.get("field") if isinstance(shape, dict) else None)
    if isinstance(named, str):
        return named
    words = str(body.get("reason")).split()
    return next((field for field in _FIELDS.values() if field in words), "")


def view(letter: DeadLetter) -> dict[str, Any]:
    """A letter for operators."""
    return {
        "id": letter.id,
        **about(letter.event),
        "reason": redact(letter.reason),
        "attempts": letter.attempts,
        "accepted_at": letter.event.accepted_at,
        "parked_at": letter.parked_at,
        "history": [{"at": failure.at, "reason": redact(failure.reason)} for failure in letter.history],
        "bytes": len(letter.event.payload),
    }
