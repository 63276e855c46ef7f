"""What Meta posts, taken apart into events. Total: an unknown shape becomes an event too.

Source of the shapes: WhatsApp Cloud API webhook reference (messages, statuses, smb_message_echoes, history, …).

    field                                    becomes
    messages, or none (a bare `value`)       messages, statuses, echoes, and one notice for each of `errors`
    smb_message_echoes, message_echoes       echoes
    history, calls, smb_app_state_sync, …    ignored: known, and nothing for us to do
    account_update, security, …              a notice (domain/notices.py)
    anything else                            ignored by name: only the field `messages` is ever answered
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from app.core.tolerant_json import dumps, sketch
from app.domain.foreign_text import NAME_CHARACTERS, one_line, quoted
from app.domain.models import STATUS_RANK, InboundMessage, Json, Status
from app.domain.notices import NOTICE_FIELDS, read_notice
from app.domain.phone import phone_digits, shortest_number

FUTURE_SECONDS = 60
"""A timestamp may be this much later than now: clocks differ."""
_EARLIEST = datetime(2009, 1, 1, tzinfo=UTC).timestamp()
"""WhatsApp did not exist before."""
_LATEST_SECONDS = 1e11
"""More is milliseconds or microseconds (in seconds it would be the year 5138)."""
MAX_UNKNOWN_BYTES = 4096
"""An update that is not understood is kept up to this length."""
TYPE_CHARACTERS = 60
MAX_PROBLEMS = 10
_USER_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9.]{1,140}", re.ASCII)
"""A business-scoped user id (Cloud API, business-scoped user ids)."""


class Kind(StrEnum):
    """What an event is about; the first part of its mailbox's name, so that the kinds never wait for each other."""

    MESSAGE = "message"
    STATUS = "status"
    ECHO = "echo"
    """A person answered from the WhatsApp Business app."""
    OUTBOUND = "outbound"
    """A person answered through the API."""
    NOTICE = "notice"
    """A report about the account, its number or its templates."""
    UNKNOWN = "unknown"
    """A message, status or echo that cannot be read, or no webhook at all: a dead letter with the reason, at most
    `MAX_UNKNOWN_BYTES` of it."""
    IGNORED = "ignored"
    """Nothing for us to do: counted by its field, stored nowhere. `body`: `field`, and for an unknown field
    `sketch`, its shape without contents."""


OF_A_NUMBER = (Kind.MESSAGE, Kind.STATUS, Kind.ECHO, Kind.OUTBOUND)
"""Their mailboxes are `<kind>:<number>:<peer>`: each kind waits for its own turn, and all take their number's room."""


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
        if self.kind is not Kind.MESSAGE:
            return True
        kind = self.body["message"].get("type")
        return isinstance(kind, str) and kind in _IMMEDIATE_TYPES


def parse_webhook(payload: object) -> list[WebhookEvent]:
    """Every update of every change of every entry, in order. Accepts the dashboard's test shape (no `entry`), and a
    bare `value`."""
    if not isinstance(payload, dict):
        return [_unknown("", payload, "not an object")]
    if "entry" not in payload:
        if "field" in payload:
            return _change(payload, {})
        if not _VALUE_KEYS.isdisjoint(payload):
            return _change({"value": payload}, {})
    entries = payload.get("entry")
    if not isinstance(entries, list):
        return [_unknown("", payload, "no entry")]
    events: list[WebhookEvent] = []
    for entry in entries:
        changes = entry.get("changes") if isinstance(entry, dict) else None
        if isinstance(changes, list):
            for change in changes:
                events += _change(change, entry)
        else:
            events.append(_unknown("", entry, "no changes"))
    return events


def unread(event: WebhookEvent, reason: str) -> WebhookEvent:
    """`event` as one that cannot be read: it acts for no account, and becomes a dead letter with `reason`."""
    shape = {"kind": event.kind, "id": event.id, "body": event.body}
    return _unknown(event.phone_number_id, shape, reason)


def _change(change: Any, entry: Json) -> list[WebhookEvent]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        return [_unknown("", change, "no value")]
    field = change.get("field") or "messages"
    readers = _READERS_OF.get(field) if isinstance(field, str) else None
    if readers is None or "history" in value:
        return [_without_customers("history" if "history" in value else field, value, entry)]
    metadata = value.get("metadata")
    number = _id(metadata, "phone_number_id") or "" if isinstance(metadata, dict) else ""
    contacts = _Contacts(value) if "contacts" in value else _NO_CONTACTS
    events: list[WebhookEvent] = []
    for key, read in readers:
        updates = value.get(key)
        if isinstance(updates, list):
            events += [_update(read, key, number, update, contacts) for update in updates]
        elif updates is not None:
            events.append(_unknown(number, updates, f"malformed {key}"))
    errors = value.get("errors")
    if errors:
        events += [_notice("errors", error, entry, number) for error in _problems(errors)]
    return events or [_ignored(field)]


def _update(read: _Reader, key: str, number: str, update: object, contacts: _Contacts) -> WebhookEvent:
    if not isinstance(update, dict) or _id(update, "id") is None:
        return _unknown(number, update, f"malformed {key}")
    if "history_context" in update:
        return _ignored("history")
    if not number:
        return _unknown(number, update, f"{key} without metadata.phone_number_id")
    return read(number, update, contacts)


def _without_customers(field: object, value: Json, entry: Json) -> WebhookEvent:
    name = field if isinstance(field, str) else ""
    if name in NOTICE_FIELDS:
        return _notice(name, value, entry, "")
    return _ignored(name) if name in HARMLESS_FIELDS else _ignored(name, sketch(value))


def _problems(errors: object) -> list[Json]:
    found = errors if isinstance(errors, list) else [errors]
    return [error if isinstance(error, dict) else {"message": error} for error in found[:MAX_PROBLEMS]]


def _message(number: str, message: Json, contacts: _Contacts) -> WebhookEvent:
    if message.get("type") == "system":
        return _system(number, message)
    wa_id, user_id = _ids(message.get("from"), message.get("from_user_id"))
    name, other_wa_id, card = None, None, contacts.of(wa_id, user_id)
    if card is not None:
        name, other_wa_id = _name(card), phone_digits(card.get("wa_id"))
        user_id = user_id or _text(card.get("user_id"))
        wa_id = wa_id or (None if user_id else phone_digits(card.get("wa_id")))
    peer = group_of(message) or user_id or wa_id
    if peer is None:
        return _unknown(number, message, "message without a sender")
    body = {"message": message, "wa_id": wa_id, "user_id": user_id, "name": name, "other_wa_id": other_wa_id}
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
    new_wa_id, new_user_id = _ids(node.get("wa_id"), node.get("user_id"))
    wa_id, sender = _ids(message.get("from"), message.get("from_user_id"))
    user_id = _text(node.get("previous_user_id")) or (sender if sender != new_user_id else None)
    if wa_id or user_id:
        return wa_id, user_id
    if new_wa_id and str(node.get("type")).endswith("user_id"):
        return new_wa_id, None  # the number stayed
    return (None, new_user_id) if new_user_id else (new_wa_id, None)


def group_of(message: Json) -> str | None:
    """The group a message was written in; `None`: a private conversation. The database reads a number as text, too."""
    group = message.get("group_id")
    return str(group) if type(group) is int else _text(group)


def _status(number: str, status: Json, _contacts: _Contacts) -> WebhookEvent:
    wamid, name = str(status["id"]), status.get("status")
    if not isinstance(name, str):
        return _unknown(number, status, "malformed statuses")
    if name not in REPORTED:
        is_known = name in HARMLESS_STATUSES
        return _ignored(f"statuses.{name}") if is_known else _ignored(f"statuses.{name}", sketch(status))
    peer = phone_digits(status.get("recipient_id")) or _text(status.get("recipient_user_id")) or wamid
    return _event(number, Kind.STATUS, f"{wamid}:{name}", peer, {"status": status})


def _echo(number: str, echo: Json, _contacts: _Contacts) -> WebhookEvent:
    wa_id, user_id = _ids(echo.get("to"), echo.get("to_user_id"))
    peer = group_of(echo) or user_id or wa_id
    if peer is None:
        return _unknown(number, echo, "echo without a recipient")
    body = {"message": echo, "wa_id": wa_id, "user_id": user_id}
    return _event(number, Kind.ECHO, str(echo["id"]), peer, body)


_VALUE_KEYS = frozenset({"messages", "statuses", "message_echoes", "errors", "history", "metadata", "contacts"})

REPORTED = frozenset(name for name, rank in STATUS_RANK.items() if rank >= STATUS_RANK[Status.SENT]) | {Status.FAILED}
HARMLESS_STATUSES = frozenset({"deleted", "pending", "warning"})
"""The customer deleted our message; not yet sent; sent, with something to say about it."""

HARMLESS_FIELDS = frozenset({
    "history", "smb_app_state_sync", "calls", "automatic_events", "tracking_events", "flows", "group_lifecycle_update",
    "group_participants_update", "group_settings_update", "group_status_update", "messaging_handovers",
    "partner_solutions", "payment_configuration_update", "standby", "user_preferences",
})  # fmt: skip
"""Known, and about nothing that Chorus does. `history` is an import: chats from before the number was connected."""


def _event(number: str, kind: Kind, event_id: str, peer: str, body: Json) -> WebhookEvent:
    return WebhookEvent(f"{kind}:{number}:{event_id}", kind, f"{kind}:{number}:{peer}", number, body)


def _notice(field: str, value: Json, entry: Json, number: str) -> WebhookEvent:
    """Meta says when it happened in the entry's `time`. Without one every delivery is a report of its own: told twice
    is better than a second "disabled" that is taken for the first."""
    waba_id = _id(entry, "id")
    body = asdict(read_notice(field, value, waba_id=waba_id, phone_number_id=number or None))
    when = entry.get("time")
    digest = _digest([when if isinstance(when, (int, str)) else secrets.token_hex(8), body])
    owner = waba_id or number or body["phone_number"] or ""
    return WebhookEvent(f"{Kind.NOTICE}:{owner}:{digest}", Kind.NOTICE, f"{Kind.NOTICE}:{owner}", number, body)


def _ignored(field: str, shape: str | None = None) -> WebhookEvent:
    body = {"field": field} if shape is None else {"field": field, "sketch": shape}
    return WebhookEvent(f"{Kind.IGNORED}:", Kind.IGNORED, f"{Kind.IGNORED}:", "", body)


def _unknown(number: str, shape: object, reason: str) -> WebhookEvent:
    text = dumps(shape)
    kept = shape if len(text) <= MAX_UNKNOWN_BYTES else {"cut": text[:MAX_UNKNOWN_BYTES].decode(errors="replace")}
    digest = hashlib.sha256(text).hexdigest()[:32]
    body = {"reason": reason, "shape": kept}
    event_id, mailbox = f"{Kind.UNKNOWN}:{number}:{digest}", f"{Kind.UNKNOWN}:{number or digest}"
    return WebhookEvent(event_id, Kind.UNKNOWN, mailbox, number, body)


def _digest(value: object) -> str:
    return hashlib.sha256(dumps(value)).hexdigest()[:32]


def _id(holder: Json, name: str) -> str | None:
    found = holder.get(name)
    return str(found) if found and isinstance(found, (str, int)) else None


def _ids(number: object, user_id: object) -> tuple[str | None, str | None]:
    """Phone number and business-scoped id of one person; the id may stand where the number belongs."""
    wa_id, user = phone_digits(number), _text(user_id)
    if wa_id is None and user is None and isinstance(number, str) and _USER_ID.fullmatch(number):
        user = number
    return wa_id, user


class _Contacts:
    """The cards of a change, by the ids on them: a batch may carry several, or none."""

    def __init__(self, value: Json) -> None:
        self._value = value
        contacts = value.get("contacts")
        self._cards = [card for card in contacts if isinstance(card, dict)] if isinstance(contacts, list) else []

    def of(self, wa_id: str | None, user_id: str | None) -> Json | None:
        """The card of this sender, `None` if there is none."""
        if not self._cards:
            return None
        if len(self._cards) == 1 and wa_id and self._cards[0].get("wa_id") == wa_id:
            return self._cards[0]
        card = self._by_id.get(user_id or "") or self._by_id.get(shortest_number(wa_id or ""))
        if card is None and len(self._cards) == 1 and self._has_one_sender:
            # A single card belongs to the single sender, whatever number it shows: unless it names another person.
            shown = _text(self._cards[0].get("user_id"))
            return self._cards[0] if shown is None or user_id is None else None
        return card

    @cached_property
    def _by_id(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for card in self._cards:
            for known in (_text(card.get("user_id")), shortest_number(phone_digits(card.get("wa_id")) or "")):
                if known:
                    found.setdefault(known, card)
        return found

    @cached_property
    def _has_one_sender(self) -> bool:
        messages = self._value.get("messages")
        senders = {
            _ids(message.get("from"), message.get("from_user_id"))
            for message in (messages if isinstance(messages, list) else ())
            if isinstance(message, dict)
        }
        return len(senders) == 1


_NO_CONTACTS = _Contacts({})
_Reader = Callable[[str, Json, _Contacts], WebhookEvent]
_ECHO_READERS: tuple[tuple[str, _Reader], ...] = (("message_echoes", _echo),)
_READERS_OF = {
    "messages": (("messages", _message), ("statuses", _status), *_ECHO_READERS),
    "smb_message_echoes": _ECHO_READERS,
    "message_echoes": _ECHO_READERS,
}
"""Of each field that is about customers: where its updates stand, and what reads one."""


def _name(card: Json) -> str | None:
    profile = card.get("profile")
    return one_line(profile.get("name"), NAME_CHARACTERS) or None if isinstance(profile, dict) else None


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def to_inbound(message: Json, accepted_at: datetime) -> InboundMessage:
    """One message as we store it. `text` of an `edit` is the new words, and `payload["edit"]["original_message_id"]`
    names what they replace."""
    kind = (_text(message.get("type")) or "unknown")[:TYPE_CHARACTERS]
    text = _with_context(kind, _readable(kind, message), message)
    return InboundMessage(str(message["id"]), kind, text, event_time(message.get("timestamp"), accepted_at), message)


def event_time(timestamp: Any, accepted_at: datetime) -> datetime:
    """When it happened: Unix seconds, as a number or text (milliseconds and fractions are understood). What cannot be
    read, and what lies in the future, is `accepted_at`: it would keep the 24-hour window open."""
    if not isinstance(timestamp, (str, int, float)):
        return accepted_at
    try:
        seconds = float(timestamp)
    except (ValueError, OverflowError):
        return accepted_at
    while _LATEST_SECONDS < seconds < _LATEST_SECONDS * 1e9:
        seconds /= 1000
    if not _EARLIEST <= seconds <= accepted_at.timestamp() + FUTURE_SECONDS:
        return accepted_at
    return datetime.fromtimestamp(seconds, UTC)


UNANSWERED_TYPES = frozenset({"reaction", "system", "edit", "revoke", "request_welcome"})
_IMMEDIATE_TYPES = frozenset({"reaction", "revoke", "request_welcome", "system"})
UNSUPPORTED_TYPE_ERRORS = frozenset({501, 130501, 131051})
"""The customer sent a type that the Cloud API does not have, and may write instead. Any other error of an `unsupported`
message (131060: the message is unavailable) means that only the business's phone shows it (Cloud API, error codes)."""
ANSWERABLE_TYPES = frozenset({
    "text", "image", "video", "audio", "document", "sticker", "location", "contacts", "interactive", "button", "order",
    "unsupported", "edit",
})  # fmt: skip


def expects_answer(message: InboundMessage) -> bool:
    """Would the customer be surprised by silence? Not after a reaction, nor in a group, nor for what the bot cannot
    know anything of: types yet to be invented, edits without readable words, messages that only the business's phone
    shows, and what a customer says to a call that a person has asked for."""
    return (
        message.type in ANSWERABLE_TYPES
        and not _is_about_a_call(message)
        and group_of(message.payload) is None
        and (message.type != "edit" or message.text is not None)
        and not _is_only_on_the_phone(message.type, message.payload)
    )


def needs_a_person(message: InboundMessage) -> bool:
    return not expects_answer(message) and message.type not in UNANSWERED_TYPES


def opens_chat(message: InboundMessage) -> bool:
    """The customer opened the chat for the first time and has written nothing yet."""
    return message.type == "request_welcome" and group_of(message.payload) is None


def _is_about_a_call(message: InboundMessage) -> bool:
    interactive = message.payload.get("interactive")
    return isinstance(interactive, dict) and interactive.get("type") == "call_permission_reply"


def _is_only_on_the_phone(kind: str, message: Json) -> bool:
    errors = message.get("errors")
    if isinstance(errors, dict):
        errors = [errors]
    if kind != "unsupported" or not isinstance(errors, list):
        return False
    codes = {str(error.get("code")) for error in errors if isinstance(error, dict)}
    return not codes <= {str(code) for code in UNSUPPORTED_TYPE_ERRORS}


TITLE_CHARACTERS = 300
BODY_CHARACTERS = 1000


def _with_context(kind: str, text: str | None, message: Json) -> str | None:
    """Above the customer's words a line for each thing they refer to and cannot name: the ad or post they came from,
    the product they look at. Written by others, so quoted."""
    if kind not in ANSWERABLE_TYPES or (kind == "unsupported" and not _is_only_on_the_phone(kind, message)):
        return text
    lines = [*_referral_lines(message.get("referral")), *_product_lines(message.get("context"))]
    return "\n".join([*lines, text or f"[{kind}]"]) if lines else text


def _referral_lines(referral: object) -> list[str]:
    if not isinstance(referral, dict):
        return []
    origin = "post" if referral.get("source_type") == "post" else "ad"
    greeting = referral.get("welcome_message")
    shown = (
        ("headline", referral.get("headline"), TITLE_CHARACTERS),
        ("text", referral.get("body"), BODY_CHARACTERS),
        ("greeting", greeting.get("text") if isinstance(greeting, dict) else None, TITLE_CHARACTERS),
        ("source", referral.get("source_url"), TITLE_CHARACTERS),
        ("id", referral.get("source_id"), TITLE_CHARACTERS),
    )
    return [f"[{origin} {label}: {words}]" for label, content, limit in shown if (words := quoted(content, limit))]


def _product_lines(context: object) -> list[str]:
    product = context.get("referred_product") if isinstance(context, dict) else None
    if not isinstance(product, dict):
        return []
    shown = (("id", product.get("product_retailer_id")), ("catalog", product.get("catalog_id")))
    parts = [f"{label} {words}" for label, value in shown if (words := quoted(_scalar(value), TITLE_CHARACTERS))]
    return [f"[product the customer looks at: {', '.join(parts)}]"] if parts else []


def _readable(kind: str, message: Json) -> str | None:
    """What the model can read of a message; `None` when there is nothing but media."""
    node = message.get(kind)
    if not isinstance(node, dict):
        return None
    if kind == "text":
        return _text(node.get("body"))
    if kind == "button":
        return _text(node.get("text")) or _text(node.get("payload"))
    if kind == "interactive":
        return _interactive(node)
    if kind == "edit":
        new = node.get("message")
        return _readable(_text(new.get("type")) or "text", new) if isinstance(new, dict) else None
    if kind == "location":
        name, address = (one_line(node.get(part), TITLE_CHARACTERS) for part in ("name", "address"))
        return _joined("[location]", name, address, one_line(f"{node.get('latitude')},{node.get('longitude')}", 60))
    if kind == "order":
        return _order(node)
    caption = _text(node.get("caption"))
    return f"[{kind}] {caption}" if caption else None


def _interactive(node: Json) -> str | None:
    for name in ("button_reply", "list_reply"):
        choice = node.get(name)
        if isinstance(choice, dict):
            return _joined(*(one_line(choice.get(part), BODY_CHARACTERS) for part in ("title", "description")))
    form = node.get("nfm_reply")
    return _joined("[form]", form.get("body"), form.get("response_json")) if isinstance(form, dict) else None


def _order(node: Json) -> str | None:
    products = node.get("product_items")
    items = [
        f"{one_line(_scalar(item.get('quantity', 1)), 20)} x "
        f"{one_line(_scalar(item.get('product_retailer_id', 'item')), TITLE_CHARACTERS)}"
        for item in (products if isinstance(products, list) else ())[:MAX_ORDER_ITEMS]
        if isinstance(item, dict)
    ]
    return _joined("[order]", ", ".join(items), node.get("text"))


MAX_ORDER_ITEMS = 100


def _scalar(value: object) -> str:
    return str(value) if isinstance(value, (str, int, float)) else ""


def _joined(*parts: object) -> str | None:
    return " ".join(part.strip() for part in parts if isinstance(part, str) and part.strip()) or None
