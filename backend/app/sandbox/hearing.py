"""How the stand-in for Gemini hears and sees: by a table of what files say, by their SHA-256.

A few files ship with it (`files/`), and customers may bring others with their words (`POST /sandbox/media?says=…`). Of
a file that is not in the table it hears nothing; one that is no file of its type is refused, as by the real one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

FILES = Path(__file__).parent / "files"
MAX_KNOWN = 10_000
NOTHING = "Nothing that can be made out."
_LABEL = re.compile(r"\[file (\d+): [^\]\n]*\]")
_FORMS: Mapping[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG",), "image/jpeg": (b"\xff\xd8\xff",), "image/webp": (b"RIFF",),
    "audio/ogg": (b"OggS",), "audio/mpeg": (b"ID3", b"\xff\xfb", b"\xff\xf3"), "audio/wav": (b"RIFF",),
    "audio/aac": (b"\xff\xf1", b"\xff\xf9"), "application/pdf": (b"%PDF-",), "text/plain": (b"",),
    "video/mp4": (b"\0\0\0",), "video/3gpp": (b"\0\0\0",), "video/webm": (b"\x1aE\xdf\xa3",),
}  # fmt: skip


class Unheard(Exception):
    """400 INVALID_ARGUMENT; the text says why."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A file of a request, and what it says."""

    says: str
    size: int


@cache
def shipped() -> Mapping[str, str]:
    """SHA-256 -> what the file says, of those in `files/`, by `files/says.json`."""
    says: dict[str, str] = orjson.loads((FILES / "says.json").read_bytes())
    return {hashlib.sha256((FILES / name).read_bytes()).hexdigest(): words for name, words in says.items()}


class Ear:
    """`learn`: from now on this file says so."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, str] = OrderedDict()

    def learn(self, sha256: str, says: str) -> None:
        self._told[sha256] = says
        if len(self._told) > MAX_KNOWN:
            self._told.popitem(last=False)

    def hear(self, inline: object) -> Heard:
        """An `inlineData` part. Raises `Unheard`."""
        if not isinstance(inline, Mapping) or "mimeType" not in inline:
            raise Unheard("contents.parts must have one initialized field.")
        mime, data = str(inline.get("mimeType")), inline.get("data")
        if mime not in _FORMS:
            raise Unheard(f"Unsupported MIME type: {mime}")
        try:
            content = base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise Unheard("inlineData.data must be base64.") from None
        if not content.startswith(_FORMS[mime]):
            raise Unheard("Unable to process input. Please retry with another file.")
        digest = hashlib.sha256(content).hexdigest()
        return Heard(self._told.get(digest) or shipped().get(digest, NOTHING), len(content))

    def clear(self) -> None:
        self._told.clear()


def asked_with(text: str, heard: Iterable[Heard]) -> str:
    """The last turn's words with those of its files in place of their labels."""
    says = [each.says for each in heard]

    def words(label: re.Match[str]) -> str:
        number = int(label[1])
        return says[number - 1] if 0 < number <= len(says) and says[number - 1] != NOTHING else ""

    return _LABEL.sub(words, text)


def as_json(heard: Iterable[Heard], reply: str, call: Mapping[str, Any] | None = None) -> str:
    """`call`: a function call, which is a member of the object."""
    files = [{"file": number, "content": each.says} for number, each in enumerate(heard, 1)]
    called = {call["name"]: call["args"]} if call else {}
    return orjson.dumps({"files": files, "reply": "" if call else reply, **called}).decode()
