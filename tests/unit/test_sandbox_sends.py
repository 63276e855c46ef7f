"""What the stand-in accepts as a send, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from app.sandbox.sends import ReadReceipt, Refused, TextMessage, read_message

SEND = {"messaging_product": "whatsapp", "to": "+16505551234", "type": "text", "text": {"body": "Hi"}}


def send(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SEND, **changes}.items() if value is not None}


def test_a_text_message() -> None:
    message = read_message(send(biz_opaque_callback_data="out-1", context={"message_id": "wamid.1"}))
    assert message == TextMessage("16505551234", "+16505551234", "Hi", "out-1")


def test_a_business_scoped_user_id_goes_in_recipient() -> None:
    message = read_message(send(to=None, recipient="US.13491208655302741918"))
    assert isinstance(message, TextMessage)
    assert (message.to, message.is_user_id) == ("US.13491208655302741918", True)


def test_read_receipts_with_and_without_typing() -> None:
    receipt = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1"}
    assert read_message(receipt) == ReadReceipt("wamid.1")
    assert read_message(receipt | {"typing_indicator": {"type": "text"}}) == ReadReceipt("wamid.1")


def test_the_longest_text_and_callback_data_pass() -> None:
    assert read_message(send(text={"body": "é" * 4096}, biz_opaque_callback_data="x" * 512))


@pytest.mark.parametrize(
    ("payload", "code", "details"),
    [
        (None, 100, "JSON object"),
        ([], 100, "JSON object"),
        (send(messaging_product=None), 100, "messaging_product"),
        (send(to=None), 100, "to (or recipient) is required"),
        (send(to="16505551234"), 100, "plus sign"),
        (send(to="+1 650 555"), 100, "plus sign"),
        (send(to=16505551234), 100, "plus sign"),
        (send(to=None, recipient="16505551234"), 100, "business-scoped"),
        (send(recipient_type="group"), 100, "recipient_type"),
        (send(text=None), 100, "text['body'] is required"),
        (send(text={"body": ""}), 100, "text['body'] is required"),
        (send(text={"body": "x" * 4097}), 100, "4096 characters"),
        (send(text={"body": "x", "preview_url": "yes"}), 100, "preview_url"),
        (send(type="hologram"), 100, "Param type"),
        (send(type="template"), 131051, "text messages and files only"),
        (send(type="image"), 100, "id"),
        (send(type="audio", audio={"id": "1", "caption": "x"}), 100, "caption"),
        (send(context={"message_id": 1}), 100, "context"),
        (send(biz_opaque_callback_data="x" * 513), 100, "biz_opaque_callback_data"),
        ({"messaging_product": "whatsapp", "status": "delivered", "message_id": "wamid.1"}, 100, "status"),
        ({"messaging_product": "whatsapp", "status": "read"}, 100, "message_id"),
        ({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1", "typing_indicator": {}}, 100,
         "typing_indicator"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(payload: Any, code: int, details: str) -> None:
    with pytest.raises(Refused) as refused:
        read_message(payload)
    assert refused.value.code == code
    assert details in refused.value.details
