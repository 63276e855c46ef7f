"""A dead letter is named by kind, field, number and digest, without anything personal, and unknown ones are small."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.logging import trace_of
from app.core.queue import DeadLetter, Event
from app.core.queue.events import Failure
from app.domain.webhook import parse_webhook
from app.sandbox import webhooks as wa
from app.services.dead_letters import about, view
from app.services.ingest_service import decode, encode

BUSINESS = wa.Business("106540352242922")
AMINA = wa.Person("33612345678", "Amina")
WAMID = "wamid.HBgLMzM2MTIzNDU2NzgVAgARGBI5"


def events(*changes: tuple[wa.Business, dict[str, Any]]) -> list[Event]:
    return [encode(event) for event in parse_webhook(wa.envelope(*changes))]


def letter(event: Event, reason: str = "x") -> DeadLetter:
    return DeadLetter("0-1-0", event, reason, 1, 2.0, (Failure(1.0, reason),))


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        (wa.messages_change(BUSINESS, [wa.text(AMINA, "my kumquat", id=WAMID)], [AMINA]), "message", "messages"),
        (wa.statuses_change(BUSINESS, [wa.status(WAMID, "read", recipient=AMINA.wa_id)]), "status", "statuses"),
        (wa.echoes_change(BUSINESS, [wa.echo(BUSINESS, AMINA.wa_id, "kumquat", id=WAMID)]), "echo", "message_echoes"),
    ],
)
def test_an_event_is_named_by_kind_field_number_and_digest(change: Any, kind: str, field: str) -> None:
    (event,) = events(change)
    assert about(event) == {
        "event": f"{kind}:{BUSINESS.phone_number_id}:{trace_of(WAMID)}", "kind": kind, "field": field,
        "phone_number_id": BUSINESS.phone_number_id,
    }  # fmt: skip
    shown = repr(view(letter(event)))
    for personal in (AMINA.wa_id, WAMID, "kumquat", "Amina"):
        assert personal not in shown


def unknown(update: Any) -> Event:
    (event,) = events(wa.messages_change(BUSINESS, [update]))
    return event


def test_an_event_that_cannot_be_read_is_named_by_its_field() -> None:
    event = unknown({"no": "id", "text": "kumquat"})
    assert (about(event)["kind"], about(event)["field"]) == ("unknown", "messages")
    assert about(event)["event"].startswith(f"unknown:{BUSINESS.phone_number_id}:")
    assert "kumquat" not in repr(view(letter(event)))


def test_a_report_about_the_account_is_named_by_its_field() -> None:
    change = {"field": "account_update", "value": {"event": "DISABLED_UPDATE", "phone_number": "33612345678"}}
    (event,) = [encode(each) for each in parse_webhook(change)]
    assert (about(event)["kind"], about(event)["field"]) == ("notice", "account_update")
    assert "33612345678" not in repr(view(letter(event)))


def test_a_number_in_a_reason_of_an_earlier_version_is_not_shown() -> None:
    (event,) = [encode(each) for each in parse_webhook([])]
    shown = view(letter(event, "KeyError: '33612345678'"))
    assert shown["reason"] == shown["history"][0]["reason"] == "KeyError: '[redacted]'"


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"7", b'{"body":null}'])
def test_what_is_no_event_of_ours_is_shown_all_the_same(payload: bytes) -> None:
    assert about(Event("x", "unknown:y", payload))["kind"] == "unknown"


def test_an_event_that_cannot_be_read_is_kept_small() -> None:
    event = unknown({"no": "id", "text": "é" * 100_000})
    assert len(event.payload) < 10_000
    assert decode(event).body["reason"] == "malformed messages"


def test_a_long_message_is_never_cut() -> None:
    (event,) = events(wa.messages_change(BUSINESS, [wa.text(AMINA, "x" * 4096)], [AMINA]))
    assert decode(event).body["message"]["text"]["body"] == "x" * 4096
