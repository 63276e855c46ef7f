"""Reading `POST /{phone_number_id}/messages` as strictly as Meta does. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_LIMIT = 4096
"""Characters in one text message (Cloud API, text object)."""
CALLBACK_DATA_LIMIT = 512
USER_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9]{1,128}")
_PHONE = re.compile(r"\+\d{7,15}")
FILE_TYPES = frozenset({"audio", "document", "image", "sticker", "video"})
_OTHER_TYPES = frozenset({"contacts", "interactive", "location", "reaction", "template"})
CAPTION_LIMIT = 1024


class Refused(Exception):
    """`code` is Meta's, `details` says what to change."""

    def __init__(self, details: str, code: int = 100) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class TextMessage:
    """`to`: digits, or the business-scoped user id; `given`: as the caller wrote it."""

    to: str
    given: str
    text: str
    """Of a file: its caption."""
    callback_data: str | None
    media_id: str | None = None

    @property
    def is_user_id(self) -> bool:
        return "." in self.to


@dataclass(frozen=True, slots=True)
class ReadReceipt:
    """With or without a typing indicator: the record holds the body."""

    message_id: str


def read_message(payload: object) -> TextMessage | ReadReceipt:
    """Raises `Refused`."""
    if not isinstance(payload, Mapping):
        raise Refused("The request body must be a JSON object.")
    if payload.get("messaging_product") != "whatsapp":
        raise Refused("The parameter messaging_product is required and must be whatsapp.")
    if "status" in payload:
        return _read_receipt(payload)
    if payload.get("recipient_type", "individual") != "individual":
        raise Refused("Param recipient_type must be individual.")
    given, to = _recipient(payload)
    kind = payload.get("type", "text")
    if kind in _OTHER_TYPES:
        raise Refused(f"The sandbox accepts text messages and files only, not {kind}.", 131051)
    if kind in FILE_TYPES:
        return _file(str(kind), payload, to, given)
    if kind != "text":
        raise Refused(f"Param type must be one of {{TEXT, {', '.join(sorted(_OTHER_TYPES | FILE_TYPES)).upper()}}}.")
    context = payload.get("context")
    if context is not None and not (isinstance(context, Mapping) and _is_wamid(context.get("message_id"))):
        raise Refused("Param context['message_id'] must be the id of a message.")
    return TextMessage(to, given, _body(payload.get("text")), _callback_data(payload))


def _file(kind: str, payload: Mapping[str, object], to: str, given: str) -> TextMessage:
    node = payload.get(kind)
    media_id = node.get("id") if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or not isinstance(media_id, str):
        raise Refused(f"The parameter {kind}['id'] is required.")
    caption = node.get("caption", "")
    if kind in ("audio", "sticker") and caption:
        raise Refused(f"Param {kind}['caption'] is not one of an {kind}.")
    if not isinstance(caption, str) or len(caption) > CAPTION_LIMIT:
        raise Refused(f"Param {kind}['caption'] must be at most {CAPTION_LIMIT} characters long.")
    return TextMessage(to, given, caption, _callback_data(payload), media_id)


def _read_receipt(payload: Mapping[str, object]) -> ReadReceipt:
    if payload["status"] != "read":
        raise Refused("Param status must be read.")
    message_id = payload.get("message_id")
    if not _is_wamid(message_id):
        raise Refused("Param message_id must be the id of a message.")
    typing = payload.get("typing_indicator")
    if typing is not None and not (isinstance(typing, Mapping) and typing.get("type") == "text"):
        raise Refused("Param typing_indicator['type'] must be text.")
    return ReadReceipt(str(message_id))


def _recipient(payload: Mapping[str, object]) -> tuple[str, str]:
    """As given, and as the record knows it. With both fields `to` wins, as at Meta."""
    to, user_id = payload.get("to"), payload.get("recipient")
    if to is None and user_id is None:
        raise Refused("The parameter to (or recipient) is required.")
    if to is not None:
        if not isinstance(to, str) or not _PHONE.fullmatch(to):
            raise Refused("Param to must be a phone number with a plus sign and the country code.")
        return to, to[1:]
    if not isinstance(user_id, str) or not USER_ID.fullmatch(user_id):
        raise Refused("Param recipient must be a business-scoped user id.")
    return user_id, user_id


def _body(text: Any) -> str:
    body = text.get("body") if isinstance(text, Mapping) else None
    if not isinstance(body, str) or not body.strip():
        raise Refused("The parameter text['body'] is required.")
    if len(body) > TEXT_LIMIT:
        raise Refused(f"Param text['body'] must be at most {TEXT_LIMIT} characters long.")
    if not isinstance(text.get("preview_url", False), bool):
        raise Refused("Param text['preview_url'] must be a boolean.")
    return body


def _callback_data(payload: Mapping[str, object]) -> str | None:
    data = payload.get("biz_opaque_callback_data")
    if data is not None and (not isinstance(data, str) or len(data) > CALLBACK_DATA_LIMIT):
        raise Refused(f"Param biz_opaque_callback_data must be a string of at most {CALLBACK_DATA_LIMIT} characters.")
    return data


def _is_wamid(value: object) -> bool:
    return isinstance(value, str) and value.startswith("wamid.")
