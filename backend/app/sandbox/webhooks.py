"""What Meta posts to a callback, built: every inbound type, echoes, statuses, odd shapes. Pure.

change = messages_change(business, [text(customer, "Bonjour")], [customer])
raw = encode_like_meta(envelope(change))
headers = signed_headers(app_secret, raw)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]
SIGNATURE_HEADER = "X-Hub-Signature-256"

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Business:
    """The number a webhook is about."""

    phone_number_id: str
    display_phone_number: str = "15550783881"
    waba_id: str = "102290129340398"


@dataclass(frozen=True, slots=True)
class Person:
    """A person who writes. Without `wa_id` their number is hidden behind a username: `from` is absent."""

    wa_id: str | None
    name: str | None = None
    user_id: str | None = None

    def card(self) -> JsonObject:
        card: JsonObject = {"profile": {"name": self.name} if self.name else {}}
        return card | _given(wa_id=self.wa_id, user_id=self.user_id)


def encode_like_meta(payload: object) -> bytes:
    """JSON with non-ASCII as `\\uXXXX` and `/` as `\\/`: what Meta signs and sends."""
    return json.dumps(payload, separators=(",", ":")).replace("/", "\\/").encode()


def sign(app_secret: str, raw: bytes) -> str:
    """The value of `X-Hub-Signature-256` for exactly these bytes."""
    return "sha256=" + hmac.new(app_secret.encode(), raw, hashlib.sha256).hexdigest()


def signed_headers(app_secret: str, raw: bytes) -> dict[str, str]:
    return {"Content-Type": "application/json", SIGNATURE_HEADER: sign(app_secret, raw)}


def message_id() -> str:
    """A new inbound message id; unique over processes."""
    return f"wamid.sandbox-{secrets.token_hex(6)}-{next(_numbers)}"


# --- envelopes --------------------------------------------------------------------------------------------------


def envelope(*changes: tuple[Business, JsonObject]) -> JsonObject:
    """One POST: an entry per WhatsApp Business Account, in it each change in order."""
    entries: dict[str, list[JsonObject]] = {}
    for business, change in changes:
        entries.setdefault(business.waba_id, []).append(change)
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": waba_id, "changes": list(group)} for waba_id, group in entries.items()],
    }


def messages_change(
    business: Business, messages: Sequence[JsonObject], people: Iterable[Person] = ()
) -> tuple[Business, JsonObject]:
    """Without `people` the `contacts` are absent, as with system messages."""
    contacts = [person.card() for person in people]
    return _change(business, "messages", _given(contacts=contacts or None) | {"messages": list(messages)})


def statuses_change(business: Business, statuses: Sequence[JsonObject]) -> tuple[Business, JsonObject]:
    return _change(business, "messages", {"statuses": list(statuses)})


def echoes_change(business: Business, echoes: Sequence[JsonObject]) -> tuple[Business, JsonObject]:
    """A person answered from the WhatsApp Business app."""
    return _change(business, "smb_message_echoes", {"message_echoes": list(echoes)})


def errors_change(business: Business, code: int = 130429, title: str = "Rate limit hit") -> tuple[Business, JsonObject]:
    """A problem of the account rather than of a message."""
    return _change(business, "messages", {"errors": [_error(code, title)]})


def dashboard_test() -> JsonObject:
    """The "Test" button of the app dashboard: no `entry`, a number that does not exist."""
    _, change = messages_change(
        Business("123456123", "16505551111"),
        [text(Person("16315551181"), "this is a text message", id="ABGGFlA5Fpa", at=1504902988)],
        [Person("16315551181", "test user name")],
    )
    return change


def _change(business: Business, field: str, value: JsonObject) -> tuple[Business, JsonObject]:
    metadata = {
        "display_phone_number": business.display_phone_number,
        "phone_number_id": business.phone_number_id,
    }
    return business, {"field": field, "value": {"messaging_product": "whatsapp", "metadata": metadata, **value}}


# --- messages ---------------------------------------------------------------------------------------------------
# Every builder takes `id`, `at` (Unix seconds), `context`, `referral` … as keywords.


def message(person: Person, kind: str, node: Any = None, **more: Any) -> JsonObject:
    """Any type, today's or tomorrow's; `node` goes under the type's name unless it is `None`."""
    head = _given(**{"from": person.wa_id, "from_user_id": person.user_id})
    head |= {"id": more.pop("id", None) or message_id(), "timestamp": str(int(more.pop("at", None) or time.time()))}
    return head | {"type": kind} | ({} if node is None else {kind: node}) | _given(**more)


def text(person: Person, body: str, **more: Any) -> JsonObject:
    return message(person, "text", {"body": body}, **more)


def media(
    person: Person,
    kind: str,
    *,
    media_id: str = "1003383421387256",
    mime_type: str | None = None,
    sha256: str = "c2hhMjU2",
    caption: str | None = None,
    filename: str | None = None,
    voice: bool | None = None,
    animated: bool | None = None,
    **more: object,
) -> JsonObject:
    """`image`, `video`, `audio` (a voice note with `voice=True`), `document`, `sticker`."""
    node = {"id": media_id, "mime_type": mime_type or _MIME_TYPES[kind], "sha256": sha256}
    return message(
        person, kind, node | _given(caption=caption, filename=filename, voice=voice, animated=animated), **more
    )


def file(person: Person, kind: str, media_id: str, content: bytes, **more: Any) -> JsonObject:
    """`media` of a file that was uploaded, with its hash as Meta tells it."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return media(person, kind, media_id=media_id, sha256=digest, **more)


_MIME_TYPES = {
    "image": "image/jpeg",
    "video": "video/mp4",
    "audio": "audio/ogg; codecs=opus",
    "document": "application/pdf",
    "sticker": "image/webp",
}


def location(person: Person, latitude: float, longitude: float, *, name: str | None = None,
             address: str | None = None, **more: object) -> JsonObject:  # fmt: skip
    node = {"latitude": latitude, "longitude": longitude} | _given(name=name, address=address)
    return message(person, "location", node, **more)


def contact_cards(person: Person, *names: str, **more: object) -> JsonObject:
    cards = [{"name": {"formatted_name": name, "first_name": name}, "phones": []} for name in names]
    return message(person, "contacts", cards, **more)


def button_reply(person: Person, reply_id: str, title: str, **more: object) -> JsonObject:
    return message(
        person, "interactive", {"type": "button_reply", "button_reply": {"id": reply_id, "title": title}}, **more
    )


def list_reply(person: Person, reply_id: str, title: str, description: str | None = None, **more: object) -> JsonObject:
    node = {"id": reply_id, "title": title} | _given(description=description)
    return message(person, "interactive", {"type": "list_reply", "list_reply": node}, **more)


def form_reply(person: Person, answers: Mapping[str, object], body: str = "Sent", **more: object) -> JsonObject:
    """A completed flow (`nfm_reply`)."""
    node = {"name": "flow", "body": body, "response_json": json.dumps(answers)}
    return message(person, "interactive", {"type": "nfm_reply", "nfm_reply": node}, **more)


def broken_interactive(person: Person, **more: object) -> JsonObject:
    """An interactive message that WhatsApp could not deliver: errors and no node."""
    return message(person, "interactive", errors=[_error(131051, "Message type unknown")], **more)


def template_button(person: Person, payload: str, title: str, **more: object) -> JsonObject:
    """Quick reply of a template."""
    return message(person, "button", {"payload": payload, "text": title}, **more)


def reaction(person: Person, message_id: str, emoji: str | None, **more: object) -> JsonObject:
    """`None` takes the reaction back."""
    return message(person, "reaction", {"message_id": message_id} | _given(emoji=emoji), **more)


def order(person: Person, items: Iterable[Mapping[str, object]], note: str | None = None, **more: object) -> JsonObject:
    node = {"catalog_id": "194836987003835", "product_items": [dict(item) for item in items]} | _given(text=note)
    return message(person, "order", node, **more)


def number_changed(person: Person, new_wa_id: str, **more: object) -> JsonObject:
    """A system message; it comes without `contacts`."""
    body = f"User {person.name} changed from {person.wa_id} to {new_wa_id}"
    return message(person, "system", {"body": body, "wa_id": new_wa_id, "type": "user_changed_number"}, **more)


def user_id_changed(person: Person, new_user_id: str, **more: object) -> JsonObject:
    """A system message; it names no sender, only the ids before and after."""
    node = {
        "body": f"User {person.name} changed from {person.user_id} to {new_user_id}",
        "user_id": new_user_id,
        "previous_user_id": person.user_id,
        "type": "user_changed_user_id",
    }
    return message(Person(None), "system", node, **more)


def edit(person: Person, original_id: str, body: str, **more: object) -> JsonObject:
    """The author changed the text of an earlier message."""
    new = {"type": "text", "text": {"body": body}}
    return message(person, "edit", {"original_message_id": original_id, "message": new}, **more)


def unsupported(person: Person, **more: object) -> JsonObject:
    return message(person, "unsupported", errors=[_error(131051, "Message type is not currently supported")], **more)


def echo(business: Business, to: str, body: str, **more: Any) -> JsonObject:
    """A person of the business wrote `body` to `to` from the app."""
    return text(Person(business.display_phone_number), body, **more) | {"to": to}


def status(wamid: str, name: str, *, recipient: str, at: float | None = None, callback_data: str | None = None,
           errors: Sequence[Mapping[str, Any]] = ()) -> JsonObject:  # fmt: skip
    """`sent`, `delivered`, `read`, `played`, `failed`. A `recipient` with a dot is a business-scoped user id."""
    key = "recipient_user_id" if "." in recipient else "recipient_id"
    known = {"id": wamid, "status": name, "timestamp": str(int(at or time.time())), key: recipient}
    return known | _given(biz_opaque_callback_data=callback_data, errors=[dict(e) for e in errors] or None)


def _error(code: int, title: str) -> JsonObject:
    return {"code": code, "title": title, "message": title, "error_data": {"details": f"{title}."}}


def _given(**values: object) -> JsonObject:
    """Meta leaves absent what is not there; it never sends null."""
    return {name: value for name, value in values.items() if value is not None}
