"""Files in messages: what a webhook says of one, what a file is by its bytes, and what the model can take. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.foreign_text import one_line
from app.domain.models import MEDIA_KINDS, InboundMessage, Json

KINDS = frozenset(MEDIA_KINDS)
KEPT_BYTES = 20_000_000
"""Of one file, to be kept for people: all that WhatsApp takes but for long documents (Cloud API, media)."""
NAME_CHARACTERS = 200
CAPTION_CHARACTERS = 1024
"""Of a picture, video or document that goes out (Cloud API, messages)."""
DESCRIPTION_CHARACTERS = 4000
MAX_FILES = 10
"""Of one run of messages, to the model."""

_GEMINI_TYPES = frozenset({
    "image/png", "image/jpeg", "image/webp", "image/heic", "image/heif",
    "audio/wav", "audio/mp3", "audio/mpeg", "audio/aiff", "audio/aac", "audio/ogg", "audio/flac",
    "video/mp4", "video/mpeg", "video/quicktime", "video/webm", "video/3gpp",
    "application/pdf", "text/plain",
})  # fmt: skip
"""What Gemini takes as a part of a request (Gemini API, pages on images, audio, video and documents)."""
_NAMED_OTHERWISE = {"audio/mp3": "audio/mpeg", "audio/x-wav": "audio/wav", "audio/opus": "audio/ogg"}
_MIME = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")
_HEX = re.compile(r"[0-9a-fA-F]{64}")
UNKNOWN_MIME = "application/octet-stream"


class MediaState(StrEnum):
    """Where a file is. Stored and shown: stable words."""

    PENDING = "pending"
    """Not fetched from WhatsApp yet."""
    KEPT = "kept"
    TOO_LARGE = "too_large"
    FORGED = "forged"
    """Its bytes are not those that WhatsApp announced."""
    GONE = "gone"
    """WhatsApp does not have it any more (after 7 days), or never had."""
    FAILED = "failed"
    """WhatsApp did not hand it over in time."""
    DELETED = "deleted"
    """Its time was over (MEDIA_RETENTION_DAYS); what it said stays."""


@dataclass(frozen=True, slots=True)
class Media:
    """A file of a message. `id` is also its key in the `MediaStore`; `opened`: how often its fetch was begun."""

    id: str
    account_id: str
    kind: str
    mime: str
    state: str
    sha256: str | None = None
    """Hexadecimal: as announced, and once it is kept as counted."""
    size: int | None = None
    name: str | None = None
    description: str | None = None
    opened: int = 0
    message_id: str | None = None
    conversation_id: str | None = None
    wa_message_id: str | None = None

    @property
    def is_kept(self) -> bool:
        return self.state == MediaState.KEPT


@dataclass(frozen=True, slots=True)
class Announced:
    """What a customer's message says of its file. `source_id`: WhatsApp's id of the file, good for 7 days."""

    wa_message_id: str
    source_id: str
    kind: str
    mime: str
    sha256: str | None
    name: str | None
    is_voice: bool = False

    @property
    def label(self) -> str:
        return label_of(self.kind, is_voice=self.is_voice)


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A person's file that WhatsApp has been given, as `uploaded_id`."""

    kind: str
    uploaded_id: str
    name: str | None = None
    caption: str = ""


def announced(message: InboundMessage) -> Announced | None:
    """`None`: no file, or one that does not say where it is."""
    if message.type not in KINDS:
        return None
    node = message.payload.get(message.type)
    if not isinstance(node, dict) or not node.get("id") or not isinstance(node["id"], str | int):
        return None
    return Announced(
        message.wa_message_id,
        str(node["id"])[:200],
        message.type,
        plain_mime(node.get("mime_type")),
        sha256_hex(node.get("sha256")),
        one_line(node.get("filename"), NAME_CHARACTERS) or None,
        node.get("voice") is True,
    )


def quoted_id(payload: Json) -> str | None:
    """The id of the message that this one answers, as the customer marked it."""
    context = payload.get("context")
    found = context.get("id") if isinstance(context, dict) else None
    return found if isinstance(found, str) and found else None


def label_of(kind: str, *, is_voice: bool = False) -> str:
    return "voice message" if is_voice else kind


def plain_mime(value: object) -> str:
    """Without parameters, in small letters; `UNKNOWN_MIME` for what is none."""
    found = value.partition(";")[0].strip().lower() if isinstance(value, str) else ""
    return found if _MIME.fullmatch(found) else UNKNOWN_MIME


def model_mime(mime: str) -> str | None:
    """As Gemini names the type; `None` if it takes none of it."""
    named = _NAMED_OTHERWISE.get(mime, mime)
    return named if named in _GEMINI_TYPES else None


def sha256_hex(value: object) -> str | None:
    """Meta gives it in base64 in webhooks and, it seems, in hexadecimal elsewhere. `None` for what is neither."""
    if not isinstance(value, str):
        return None
    if _HEX.fullmatch(value):
        return value.lower()
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    for cut in range(4):  # a character may be cut at the end
        try:
            head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def _riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == kind


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[4:8] == b"ftyp" and head[8:12] in brands


def _starts(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


@dataclass(frozen=True, slots=True)
class _Form:
    """A type that people may send, as WhatsApp takes it (Cloud API, supported media types)."""

    mime: str
    kind: str
    max_bytes: int
    fits: Callable[[bytes], bool]


_MB = 1024 * 1024
_FORMS = (
    _Form("image/jpeg", "image", 5 * _MB, _starts(b"\xff\xd8\xff")),
    _Form("image/png", "image", 5 * _MB, _starts(b"\x89PNG\r\n\x1a\n")),
    _Form("audio/ogg", "audio", 16 * _MB, lambda head: head[:4] == b"OggS" and b"OpusHead" in head[:64]),
    _Form("audio/mpeg", "audio", 16 * _MB, _starts(b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")),
    _Form("audio/aac", "audio", 16 * _MB, _starts(b"\xff\xf1", b"\xff\xf9")),
    _Form("audio/amr", "audio", 16 * _MB, _starts(b"#!AMR")),
    _Form("audio/mp4", "audio", 16 * _MB, _brand(b"M4A ", b"M4B ")),
    _Form("video/3gpp", "video", 16 * _MB, _brand(b"3gp4", b"3gp5", b"3gp6")),
    _Form("video/mp4", "video", 16 * _MB, _brand(b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V ", b"MSNV")),
    _Form("image/webp", "sticker", 500 * 1024, _riff(b"WEBP")),
    _Form("application/pdf", "document", 16 * _MB, _starts(b"%PDF-")),
    _Form("application/zip", "document", 16 * _MB, _starts(b"PK\x03\x04")),
    _Form("text/plain", "document", 16 * _MB, _is_text),
)
_OFFICE = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_MARKUP = re.compile(rb"^\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|svg|\?xml|!--)", re.IGNORECASE)
MAX_UPLOAD_BYTES = max(form.max_bytes for form in _FORMS)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file of a person is by its bytes, whatever its name and its announced type say."""

    kind: str
    mime: str
    max_bytes: int


def recognise(head: bytes, name: str | None) -> Recognised | None:
    """`head`: the first kilobyte. `None`: nothing that may be sent; markup (HTML, SVG) never is. Only between Office's
    formats, which are all ZIP, the name decides."""
    if not head or _MARKUP.match(head):
        return None
    form = next((form for form in _FORMS if form.fits(head)), None)
    if form is None:
        return None
    if form.mime != "application/zip":
        return Recognised(form.kind, form.mime, form.max_bytes)
    office = _OFFICE.get((name or "").rpartition(".")[2].lower())
    return Recognised(form.kind, office, form.max_bytes) if office else None


def takes_caption(kind: str) -> bool:
    return kind in ("image", "video", "document")


_SHOWN_INLINE = frozenset({"image/jpeg", "image/png", "image/webp", "video/mp4", "video/3gpp"})


def served_as(mime: str) -> tuple[str, bool]:
    """(type, may a browser show it in its place?) Nothing that a browser might run as a page is told to be one."""
    if mime in _SHOWN_INLINE or (mime.startswith("audio/") and model_mime(mime)) or mime in ("audio/mp4", "audio/amr"):
        return mime, True
    return (mime, False) if mime in ("application/pdf", *_OFFICE.values()) else (UNKNOWN_MIME, False)


def described(label: str, caption: str | None, description: str) -> str:
    """What a message says once its file was seen or heard: in the history, in lists, in searches."""
    if label in ("voice message", "audio"):
        return f"[{label}] {description}"
    return f"{caption}\n[shows: {description}]" if caption else f"[{label}: {description}]"
