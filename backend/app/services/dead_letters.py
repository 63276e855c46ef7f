"""Dead letters of messages and of events for other systems, as one list; and what each is about, in ids, codes and
digests: a customer's words, name and number stay where they are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.core.logging import trace_of
from app.core.queue import DeadLetter, DeadLetters, Event
from app.core.redaction import redact
from app.domain.webhook import Kind
from app.services.ingest_service import whatsapp_id
from app.services.outbox_relay import EVENT_KIND, endpoint_of

_FIELDS: Mapping[str, str] = {
    Kind.MESSAGE: "messages", Kind.STATUS: "statuses", Kind.ECHO: "message_echoes", Kind.OUTBOUND: "",
}  # fmt: skip
"""Where in a webhook an event of each kind comes from."""
OF_EVENTS = "e"
"""Before the id of a letter that is an event for another system."""
_FIRST = "0-0-0"
"""A cursor before every letter."""
_FIELD = re.compile(r"[A-Za-z_.]{1,60}")


def about(event: Event) -> dict[str, str]:
    """`event`: its kind, number and digest; log lines call it by the digest (`messages`). `field`: of the webhook that
    brought it. Empty where there is none."""
    kind = event.mailbox.partition(":")[0]
    if kind == EVENT_KIND:
        return _about_told(event)
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


def _about_told(event: Event) -> dict[str, str]:
    """`webhook_id`: the endpoint that did not take it. `event_id`: as the receiver would know it."""
    webhook_id, event_id = endpoint_of(event.mailbox), event.payload.decode(errors="replace")
    return {
        "event": f"{EVENT_KIND}:{webhook_id}:{event_id}",
        "kind": EVENT_KIND,
        "field": "",
        "phone_number_id": "",
        "webhook_id": webhook_id,
        "event_id": event_id,
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


class DeadLetterList:
    """Messages first, then events for other systems (kind `event`), the oldest of each first."""

    def __init__(self, messages: DeadLetters, events: DeadLetters) -> None:
        self._messages = messages
        self._events = events

    async def page(self, *, limit: int, cursor: str | None) -> tuple[list[DeadLetter], str | None]:
        """`limit` letters after `cursor`, and the cursor of the next page, `None` at the end. Raises `ValueError` for a
        cursor that is none."""
        letters: list[DeadLetter] = []
        if cursor is None or not cursor.startswith(OF_EVENTS):
            letters, more = await self._messages.page(limit=limit, cursor=cursor)
            if more:
                return letters, more
            cursor = OF_EVENTS + _FIRST
        room = limit - len(letters)
        events, more = await self._events.page(limit=max(1, room), cursor=cursor.removeprefix(OF_EVENTS))
        if not room:
            return letters, cursor if events else None
        letters += [replace(letter, id=OF_EVENTS + letter.id) for letter in events]
        return letters, OF_EVENTS + more if more else None

    async def replay(self, ids: Sequence[str]) -> int:
        """As `DeadLetters.replay`."""
        return await self._both(ids, self._messages.replay, self._events.replay)

    async def drop(self, ids: Sequence[str]) -> int:
        """As `DeadLetters.drop`."""
        return await self._both(ids, self._messages.drop, self._events.drop)

    async def _both(
        self,
        ids: Sequence[str],
        of_messages: Callable[[Sequence[str]], Awaitable[int]],
        of_events: Callable[[Sequence[str]], Awaitable[int]],
    ) -> int:
        events = [each.removeprefix(OF_EVENTS) for each in ids if each.startswith(OF_EVENTS)]
        messages = [each for each in ids if not each.startswith(OF_EVENTS)]
        return await of_messages(messages) + await of_events(events)
