"""From a verified webhook body to durable events. Nothing else happens before the 200."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import orjson
from prometheus_client import Counter

from app.core.logging import bind_messages
from app.core.metrics import BoundedNames
from app.core.queue import Event, PutResult
from app.core.tolerant_json import dumps, loads_shallow
from app.core.tracing import outgoing
from app.domain.app_secrets import FIRST_APP
from app.domain.models import Json
from app.domain.webhook import Kind, WebhookEvent, parse_webhook
from app.services.app_binding import AppBinding

logger = logging.getLogger(__name__)

MAX_UNKNOWN_FIELDS = 50
IGNORED = Counter(
    "chorus_webhook_ignored_total",
    "Changes and statuses that Chorus has no use for, by field (unknown ones too, the first 50 names)",
    ["field"],
)
_FIELD = re.compile(r"[A-Za-z_.]{1,60}")
_unknown_fields = BoundedNames(MAX_UNKNOWN_FIELDS)


class Destination(Protocol):
    """The queue, or what stands in for it while it is away."""

    async def put(self, events: Sequence[Event]) -> PutResult: ...


class IngestService:
    def __init__(
        self,
        destination: Destination,
        on_message: Callable[[str], None] = lambda _number: None,
        *,
        binding: AppBinding | None = None,
    ) -> None:
        """`on_message` is told the phone_number_id of every customer's message; it must be quick and not raise.
        `binding`: which app speaks for which number, if apps are told apart."""
        self._destination = destination
        self._on_message = on_message
        self._binding = binding

    def accept(self, payload: object, *, signed_by: str = FIRST_APP) -> Awaitable[PutResult]:
        """Store every update of `payload`, or raise `Unavailable` so that Meta delivers it again. What is about a
        number of another app than `signed_by` is dropped, told and counted.

        No coroutine: the payload is gone while its events wait for Redis, which is less for the garbage collector.
        """
        updates = parse_webhook(payload)
        if self._binding is None:
            return self._put(updates)
        return self._put_own(updates, self._binding, signed_by)

    async def _put_own(self, updates: Sequence[WebhookEvent], binding: AppBinding, signed_by: str) -> PutResult:
        return await self._put(await binding.permitted(updates, signed_by))

    def _put(self, updates: Sequence[WebhookEvent]) -> Awaitable[PutResult]:
        events: list[Event] = []
        for update in updates:
            if update.kind is Kind.MESSAGE:
                self._on_message(update.phone_number_id)
            if update.kind is not Kind.IGNORED or _count(update):
                events.append(encode(update))
        if not events:
            return _nothing_to_store()
        bind_messages([whatsapp_id(event) for event in events])
        return self._destination.put(events)


async def _nothing_to_store() -> PutResult:
    return PutResult(0, 0)


def _count(ignored: WebhookEvent) -> bool:
    """Always false: there is nothing to store. An unknown field's shape goes to the log, once a process."""
    field, shape = ignored.body["field"], ignored.body.get("sketch")
    if not _FIELD.fullmatch(field):  # it may be anything, and ends in a label
        field = "?"
    if shape is None:
        IGNORED.labels(field).inc()
        return False
    label, is_new = _unknown_fields.label(field)
    IGNORED.labels(label).inc()
    if is_new:
        logger.warning("a webhook field that Chorus does not know is ignored", extra={"field": label, "shape": shape})
    return False


def whatsapp_id(event: Event) -> str:
    """The id of the message an event is about: `<kind>:<number>:<this>[:<status>][#<row of the journal>]`."""
    return message_id_in(event.id) or event.id


def message_id_in(event_id: str) -> str:
    """As `whatsapp_id`; `""` if the event is about none."""
    parts = event_id.split(":")
    return parts[2].partition("#")[0] if len(parts) > 2 else ""


def encode(event: WebhookEvent) -> Event:
    content = {"kind": event.kind, "number": event.phone_number_id, "body": event.body}
    trace = outgoing()
    if trace is not None:
        content["trace"] = trace
    return Event(event.id, event.mailbox, dumps(content), event.is_immediate)


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
    content = loads_shallow(event.payload)
    accepted_at = datetime.fromtimestamp(event.accepted_at, UTC)
    return Incoming(Kind(content["kind"]), content["number"], content["body"], accepted_at)
