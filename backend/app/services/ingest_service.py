"""From a verified webhook body to durable events. Nothing else happens before the 200."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from app.core.logging import bind_messages
from app.core.queue import Event, PutResult
from app.core.tracing import outgoing
from app.domain.webhook import Json, Kind, WebhookEvent, parse_webhook


class Destination(Protocol):
    """The queue, or what stands in for it while it is away."""

    async def put(self, events: Sequence[Event]) -> PutResult: ...


class IngestService:
    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def accept(self, payload: Any) -> Awaitable[PutResult]:
        """Store every update of `payload`, or raise `Unavailable` so that Meta delivers it again.

        No coroutine: the payload is gone while its events wait for Redis, which is less for the garbage collector.
        """
        events = [encode(event) for event in parse_webhook(payload)]
        bind_messages([whatsapp_id(event) for event in events])
        return self._destination.put(events)


def whatsapp_id(event: Event) -> str:
    """The id of the message an event is about: `<kind>:<number>:<this>[:<status>][#<row of the journal>]`."""
    parts = event.id.split(":")
    return parts[2].partition("#")[0] if len(parts) > 2 else event.id


def encode(event: WebhookEvent) -> Event:
    content = {"kind": event.kind, "number": event.phone_number_id, "body": event.body}
    trace = outgoing()
    if trace is not None:
        content["trace"] = trace
    return Event(event.id, event.mailbox, orjson.dumps(content), event.is_immediate)


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
