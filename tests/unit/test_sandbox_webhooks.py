"""Webhooks are encoded and signed the way Meta does it."""

from __future__ import annotations

import hashlib
import hmac
import json

from app.sandbox.webhooks import (
    Business,
    Person,
    echo,
    echoes_change,
    encode_like_meta,
    envelope,
    message,
    messages_change,
    reaction,
    sign,
    status,
    statuses_change,
    text,
    unsupported,
)

SHOP = Business("106540352242922")
AMINA = Person("33612345678", "Amina", "FR.1")


def test_non_ascii_and_slashes_are_escaped_as_meta_does() -> None:
    raw = encode_like_meta({"body": "Café 1/2 👍"})
    assert raw == rb'{"body":"Caf\u00e9 1\/2 \ud83d\udc4d"}'
    assert json.loads(raw) == {"body": "Café 1/2 👍"}


def test_the_signature_is_over_the_bytes_as_sent() -> None:
    raw = encode_like_meta({"body": "Café"})
    expected = hmac.new(b"secret", raw, hashlib.sha256).hexdigest()
    assert sign("secret", raw) == f"sha256={expected}"
    assert sign("secret", raw) != sign("secret", json.dumps({"body": "Café"}, ensure_ascii=False).encode())


def test_one_entry_per_business_account_with_its_changes_in_order() -> None:
    other = Business("200", waba_id="2")
    payload = envelope(
        messages_change(SHOP, [text(AMINA, "a")], [AMINA]),
        messages_change(other, [text(AMINA, "b")], [AMINA]),
        statuses_change(SHOP, [status("wamid.1", "sent", recipient="33612345678")]),
    )
    assert [(entry["id"], len(entry["changes"])) for entry in payload["entry"]] == [(SHOP.waba_id, 2), ("2", 1)]


def test_what_is_absent_is_absent_and_never_null() -> None:
    hidden = Person(None, None, "FR.1")
    _, change = messages_change(SHOP, [text(hidden, "x"), reaction(AMINA, "wamid.1", None), unsupported(AMINA)])
    assert "contacts" not in change["value"]
    first, removal, odd = change["value"]["messages"]
    assert "from" not in first
    assert first["from_user_id"] == "FR.1"
    assert removal["reaction"] == {"message_id": "wamid.1"}
    assert "unsupported" not in odd
    assert odd["errors"][0]["code"] == 131051
    assert b"null" not in encode_like_meta(change)


def test_unknown_types_and_extra_fields_can_be_built() -> None:
    built = message(AMINA, "hologram", {"x": 1}, context={"from": "1", "id": "wamid.0"}, id="wamid.1", at=1700000000)
    assert built == {
        "from": "33612345678", "from_user_id": "FR.1", "id": "wamid.1", "timestamp": "1700000000", "type": "hologram",
        "hologram": {"x": 1}, "context": {"from": "1", "id": "wamid.0"},
    }  # fmt: skip


def test_message_ids_are_unique() -> None:
    assert len({text(AMINA, "x")["id"] for _ in range(100)}) == 100


def test_an_echo_names_the_customer_it_went_to() -> None:
    _, change = echoes_change(SHOP, [echo(SHOP, "33612345678", "I take over")])
    assert change["field"] == "smb_message_echoes"
    assert change["value"]["message_echoes"][0]["to"] == "33612345678"


def test_statuses_to_a_hidden_number_name_the_user_id() -> None:
    assert status("w", "sent", recipient="US.1")["recipient_user_id"] == "US.1"
    assert status("w", "sent", recipient="336", callback_data="out-1")["biz_opaque_callback_data"] == "out-1"
