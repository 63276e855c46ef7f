"""`multipart/form-data` (RFC 7578) of a body that is here as a whole and bounded: one file and some short texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from app.api.json_route import JsonRoute
from app.domain.errors import InvalidInput

MULTIPART = "multipart/form-data"
MAX_PARTS = 10
MAX_HEAD_BYTES = 4096
_PARAMETER = re.compile(
    r""";[ \t]*+(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^\s";]*+))[ \t]*+"""
)
"""RFC 9110, section 5.6.6. No part is tried twice: a long header takes time in proportion to it, which is not so
for the standard library's parser."""


@dataclass(frozen=True, slots=True)
class Part:
    """`filename` is as the sender wrote it; `None`: this is no file."""

    name: str
    filename: str | None
    content: bytes


def is_form(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").lower().startswith(MULTIPART)


class FormRoute(JsonRoute):
    """Beside a route of the same path that takes JSON: only what comes as a form is for this one."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return APIRoute.matches(self, scope) if is_form(scope) else (Match.NONE, {})


def read_form(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts by their names. Raises `InvalidInput`."""
    boundary = _parameters(content_type).get("boundary", "")
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise _broken("has no boundary in its Content-Type")
    delimiter = b"--" + boundary.encode()
    at = body.find(delimiter)
    parts: dict[str, Part] = {}
    while at >= 0:
        at += len(delimiter)
        if body[at : at + 2] == b"--":
            return parts
        end = body.find(b"\r\n" + delimiter, at)
        head_end = body.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if end < 0 or not 0 <= head_end < end:
            break
        part = _part(body[at:head_end], body[head_end + 4 : end])
        if part.name in parts or len(parts) >= MAX_PARTS:
            raise InvalidInput(f'the field "{part.name[:100]}" is there twice, or there are too many', field="body")
        parts[part.name] = part
        at = end + 2
    raise _broken("ends in the middle of a part")


def _part(head: bytes, content: bytes) -> Part:
    found: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == "content-disposition":
            found = _parameters(value)
    if not found.get("name"):
        raise _broken("has a part without a name")
    return Part(found["name"], found.get("filename"), content)


def _parameters(value: str) -> dict[str, str]:
    """Of a header's value, by their names in small letters; the first of a name counts, and nothing behind what is no
    parameter. Those of RFC 8187 (`filename*`), which a form does not have, keep their star."""
    found: dict[str, str] = {}
    at = value.find(";")
    while at >= 0 and (parameter := _PARAMETER.match(value, at)):
        quoted = parameter["quoted"]
        text = parameter["plain"] if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted)
        found.setdefault(parameter["name"].lower(), text)
        at = parameter.end()
    return found


def _broken(what: str) -> InvalidInput:
    return InvalidInput(f"the form {what}", field="body")
