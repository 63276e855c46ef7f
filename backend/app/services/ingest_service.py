"""From a verified webhook body to durable events. Nothing else happens before the 200."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from app.core.logging import bind_messages
from app.core.queue import Event, PutResult
from app.core.tracing import outgoing
from app.domain.webhook import Json, Kind, WebhookEvent, parse_webhook

UNKNOWN_BYTES = 2048
FIELD_CHARACTERS = 60


class Destination(Protocol):
    """The queue, or what stands in for it while it is away."""

    async def put(self, events: Sequence[Event]) -> PutResult: ...


class IngestService:
    def __init__(self, destination: Destination, on_message: Callable[[str], None] = lambda _number: None) -> None:
        """`on_message` is told the phone_number_id of every customer's message; it must be quick and not raise."""
        self._destination = destination
        self._on_message = on_message

    def accept(self, payload: Any) -> Awaitable[PutResult]:
        """Store every update of `payload`, or raise `Unavailable` so that Meta delivers it again.

        No coroutine: the payload is gone while its events wait for Redis, which is less for the garbage collector.
        """
        updates = parse_webhook(payload)
        for update in updates:
            if update.kind is Kind.MESSAGE:
                self._on_message(update.phone_number_id)
        events = [encode(update) for update in updates]
        bind_messages([whatsapp_id(event) for event in events])
        return self._destination.put(events)


def whatsapp_id(event: Event) -> str:
    """The id of the message an event is about: `<kind>:<number>:<this>[:<status>]`."""
    parts = event.id.split(":")
    return parts[2] if len(parts) > 2 else event.id


def encode(event: WebhookEvent) -> Event:
    body = _small(event.body) if event.kind is Kind.UNKNOWN else event.body
    content = {"kind": event.kind, "number": event.phone_number_id, "body": body}
    trace = outgoing()
    if trace is not None:
        content["trace"] = trace
    return Event(event.id, event.mailbox, orjson.dumps(content), event.is_immediate)


def _small(body: Json) -> Json:
    """An event that nothing handles is kept for people to look at, and its beginning tells them enough. An import of a
    phone's history, for example, comes as megabytes."""
    shape = body.get("shape")
    field = shape.get("field") if isinstance(shape, dict) else None
    small = {"reason": body["reason"], "field": field[:FIELD_CHARACTERS] if isinstance(field, str) else ""}
    text = orjson.dumps(shape, default=str)
    if len(text) <= UNKNOWN_BYTES:
        return small | {"shape": shape}
    return small | {"shape": text[:UNKNOWN_BYTES].decode(errors="ignore"), "note": f"cut: {len(text)} bytes in all"}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A claimed event, decoded."""

    kind: Kind
    phone_number_id: str
    body: Json
    accepted_at: datetime


def trace_carrier(event: Event) -> dict[str, str] | None:
    """The trace of the webhook that brought it, if there is one."""
    carrier = orjson.loads(event.payload).get("trace")
    return carrier if isinstance(carrier, dict) else None


def decode(event: Event) -> Incoming:
    """The inverse of `encode`."""
    content = orjson.loads(event.payload)
    accepted_at = datetime.fromtimestamp(event.accepted_at, UTC)
    return Incoming(Kind(content["kind"]), content["number"], content["body"], accepted_at)
