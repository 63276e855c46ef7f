"""What Meta posts, taken apart into events. Pure, and total: a shape nobody foresaw becomes an event too.

Source of the shapes: WhatsApp Cloud API webhook reference (messages, statuses, smb_message_echoes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from app.domain.models import InboundMessage

Json = Mapping[str, Any]


class Kind(StrEnum):
    """What an event is about; the first part of its mailbox's name, so that the kinds never wait for each other."""

    MESSAGE = "message"
    STATUS = "status"
    ECHO = "echo"
    """A person answered from the WhatsApp Business app."""
    OUTBOUND = "outbound"
    """A person answered through the API."""
    UNKNOWN = "unknown"
    """Kept as it came; handled as a dead letter with the reason."""


class WebhookEvent(NamedTuple):
    """One update. `id` is the same for every delivery of it; `mailbox` names what it must stay in order with.

    A tuple, because one is made for every webhook and a frozen dataclass costs five times as much to make.
    """

    id: str
    kind: Kind
    mailbox: str
    phone_number_id: str
    body: Json

    @property
    def is_immediate(self) -> bool:
        """Only what the bot answers waits for the customer to finish typing."""
        return self.kind is not Kind.MESSAGE or self.body["message"].get("type") in UNANSWERED_TYPES


def parse_webhook(payload: Any) -> list[WebhookEvent]:
    """Every update of every change of every entry, in order. Accepts the dashboard's test shape (no `entry`)."""
    if not isinstance(payload, dict):
        return [_unknown("", payload, "not an object")]
    if "entry" not in payload and "field" in payload:
        return _change(payload)
    entries = payload.get("entry")
    if not isinstance(entries, list):
        return [_unknown("", payload, "no entry")]
    events: list[WebhookEvent] = []
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if isinstance(changes, list):
            for change in changes:
                events += _change(change)
        else:
            events.append(_unknown("", entry, "no changes"))
    return events


def _change(change: Any) -> list[WebhookEvent]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        return [_unknown("", change, "no value")]
    metadata = value.get("metadata")
    number = str(metadata.get("phone_number_id") or "") if isinstance(metadata, dict) else ""
    events: list[WebhookEvent] = []
    known = False
    for key, read in _READERS:
        updates = value.get(key)
        if not isinstance(updates, list):
            continue
        known = True
        for update in updates:
            if isinstance(update, dict) and update.get("id") and number:
                events.append(read(number, update, value))
            else:
                events.append(_unknown(number, update, f"malformed {key}"))
    errors = value.get("errors")
    if errors:
        events.append(_unknown(number, {"errors": errors}, "errors reported by WhatsApp"))
    elif not known:
        events.append(_unknown(number, change, f"unsupported field {change.get('field')!s:.60}"))
    return events


def _message(number: str, message: Json, value: Json) -> WebhookEvent:
    if message.get("type") == "system":
        return _system(number, message)
    wa_id, user_id = _text(message.get("from")), _text(message.get("from_user_id"))
    name, card_user_id, card_wa_id = _contact(value, wa_id, user_id)
    user_id = user_id or card_user_id
    peer = group_of(message) or user_id or wa_id
    if peer is None:
        return _unknown(number, message, "message without a sender")
    body = {"message": message, "wa_id": wa_id, "user_id": user_id, "name": name, "other_wa_id": card_wa_id}
    return _event(number, Kind.MESSAGE, str(message["id"]), peer, body)


def _system(number: str, message: Json) -> WebhookEvent:
    """A note about a person, in a mailbox of its own: a new number must not wait behind what the old one wrote."""
    wa_id, user_id = _ids_before(message)
    peer = user_id or wa_id
    if peer is None:
        return _unknown(number, message, "system message about nobody")
    body = {"message": message, "wa_id": wa_id, "user_id": user_id, "name": None}
    return _event(number, Kind.MESSAGE, str(message["id"]), f"system-{peer}", body)


def _ids_before(message: Json) -> tuple[str | None, str | None]:
    """Number and user id from before the change that a system message reports; the new ones only if it names no others.

    `from` is the old number (Cloud API, system messages); a new user id may come without it.
    """
    node = message.get("system")
    node = node if isinstance(node, dict) else {}
    new_wa_id, new_user_id, sender = _text(node.get("wa_id")), _text(node.get("user_id")), message.get("from_user_id")
    wa_id = _text(message.get("from"))
    user_id = _text(node.get("previous_user_id")) or (_text(sender) if sender != new_user_id else None)
    if wa_id or user_id:
        return wa_id, user_id
    if new_wa_id and str(node.get("type")).endswith("user_id"):
        return new_wa_id, None  # the number stayed
    return (None, new_user_id) if new_user_id else (new_wa_id, None)


def group_of(message: Json) -> str | None:
    """The group a message was written in; `None`: a private conversation."""
    return _text(message.get("group_id"))


def _status(number: str, status: Json, _value: Json) -> WebhookEvent:
    wamid = str(status["id"])
    return _event(number, Kind.STATUS, f"{wamid}:{status.get('status')}", _text(status.get("recipient_id")) or wamid,
                  {"status": status})  # fmt: skip


def _echo(number: str, echo: Json, _value: Json) -> WebhookEvent:
    wa_id, user_id = _text(echo.get("to")), _text(echo.get("to_user_id"))
    peer = group_of(echo) or user_id or wa_id
    if peer is None:
        return _unknown(number, echo, "echo without a recipient")
    body = {"message": echo, "wa_id": wa_id, "user_id": user_id}
    return _event(number, Kind.ECHO, str(echo["id"]), peer, body)


_READERS = (("messages", _message), ("statuses", _status), ("message_echoes", _echo))


def _event(number: str, kind: Kind, event_id: str, peer: str, body: Json) -> WebhookEvent:
    return WebhookEvent(f"{kind}:{number}:{event_id}", kind, f"{kind}:{number}:{peer}", number, body)


def _unknown(number: str, shape: Any, reason: str) -> WebhookEvent:
    digest = hashlib.sha256(repr(shape).encode()).hexdigest()[:32]
    body = {"reason": reason, "shape": shape}
    return WebhookEvent(
        f"{Kind.UNKNOWN}:{number}:{digest}", Kind.UNKNOWN, f"{Kind.UNKNOWN}:{number or digest}", number, body
    )


def _contact(value: Json, wa_id: str | None, user_id: str | None) -> tuple[str | None, str | None, str | None]:
    """Name, business-scoped id and number on the card of this sender, if the payload has them: a batch may carry
    several cards, or none. A single card is the only sender's, also if its number is written in another form."""
    contacts = value.get("contacts")
    cards = [card for card in contacts if isinstance(card, dict)] if isinstance(contacts, list) else []
    for card in cards:
        ids = _text(card.get("wa_id")), _text(card.get("user_id"))
        if (wa_id and ids[0] == wa_id) or (user_id and ids[1] == user_id) or (len(cards) == 1 and _one_sender(value)):
            profile = card.get("profile")
            return (_text(profile.get("name")) if isinstance(profile, dict) else None), ids[1], ids[0]
    return None, None, None


def _one_sender(value: Json) -> bool:
    messages = value.get("messages")
    return isinstance(messages, list) and len({str(m.get("from")) for m in messages if isinstance(m, dict)}) == 1


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def to_inbound(message: Json, accepted_at: datetime) -> InboundMessage:
    """One message as we store it. A timestamp we cannot read becomes the time we accepted the message."""
    try:
        timestamp = datetime.fromtimestamp(int(message["timestamp"]), UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        timestamp = accepted_at
    kind = _text(message.get("type")) or "unknown"
    return InboundMessage(str(message["id"]), kind, _readable(kind, message), timestamp, message)


UNANSWERED_TYPES = frozenset({"reaction", "system"})
ANSWERABLE_TYPES = frozenset({
    "text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "button", "order",
    "unsupported", "edit",
})  # fmt: skip


def expects_answer(message: InboundMessage) -> bool:
    """Would the customer be surprised by silence? Not after a reaction, nor in a group, nor for types yet to be
    invented, nor after an edit whose words we cannot read: people rather than the bot should look at those."""
    if group_of(message.payload) or (message.type == "edit" and message.text is None):
        return False
    return message.type in ANSWERABLE_TYPES


def needs_a_person(message: InboundMessage) -> bool:
    return not expects_answer(message) and message.type not in UNANSWERED_TYPES


def _readable(kind: str, message: Json) -> str | None:
    """What the model can read of a message; `None` when there is nothing but media."""
    node = message.get(kind)
    if not isinstance(node, dict):
        return None
    if kind == "text":
        return _text(node.get("body"))
    if kind == "edit":
        return _edited(node)
    if kind == "button":
        return _text(node.get("text")) or _text(node.get("payload"))
    if kind == "interactive":
        return _interactive(node)
    if kind == "location":
        return _joined(
            "[location]", node.get("name"), node.get("address"), f"{node.get('latitude')},{node.get('longitude')}"
        )
    if kind == "order":
        return _order(node)
    caption = _text(node.get("caption"))
    return f"[{kind}] {caption}" if caption else None


def _edited(node: Json) -> str | None:
    """The new words of an edited message: its text, or its caption."""
    new = node.get("message")
    if not isinstance(new, dict):
        return None
    kind = _text(new.get("type"))
    return _readable(kind, new) if kind and kind != "edit" else None


def _interactive(node: Json) -> str | None:
    for name in ("button_reply", "list_reply"):
        choice = node.get(name)
        if isinstance(choice, dict):
            return _joined(choice.get("title"), choice.get("description"))
    form = node.get("nfm_reply")
    return _joined("[form]", form.get("body"), form.get("response_json")) if isinstance(form, dict) else None


def _order(node: Json) -> str | None:
    items = [
        f"{item.get('quantity', 1)} x {item.get('product_retailer_id', 'item')}"
        for item in node.get("product_items") or ()
        if isinstance(item, dict)
    ]
    return _joined("[order]", ", ".join(items), node.get("text"))


def _joined(*parts: Any) -> str | None:
    return " ".join(part.strip() for part in parts if isinstance(part, str) and part.strip()) or None
