"""JSON from outside, read as far as it can be read, and made fit for every reader after us.

    payload = loads(raw)          # orjson; only what orjson refuses takes the slow, tolerant way
    text = dumps(content)         # whatever `content` is
    content = loads_shallow(text)

What orjson or PostgreSQL refuse and real senders send: half of a surrogate pair (an emoji cut in two), bytes that are
no UTF-8, NaN, numbers that do not fit, objects nested hundreds deep. Each is replaced alone: U+FFFD for what is no
character, `null` for what is no number or too deep. What is not JSON at all stays an error.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

MAX_DEPTH = 64
"""Far above what any peer sends on purpose (about 10 levels), far below what recursion can bear: orjson writes 254
levels, Python's own functions give up at some hundreds."""
_MAX_INT = 2**64 - 1
_MIN_INT = -(2**63)
_INT_DIGITS = 19
_REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def loads(raw: bytes | bytearray) -> Any:
    """The value; raises `json.JSONDecodeError` for what is not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _loads_tolerantly(raw.decode("utf-8-sig", "replace"))


def dumps(value: object) -> bytes:
    """One line of JSON, at most as deep as orjson writes."""
    try:
        return orjson.dumps(value)
    except TypeError:  # too deep, an integer over 64 bits, a lone surrogate
        return orjson.dumps(plain(value))


def loads_shallow(text: bytes) -> Any:
    """What `dumps` wrote, at most `MAX_DEPTH` deep: fit to be stored and shown by what recurses in Python."""
    value = orjson.loads(text)
    is_shallow = text.count(b"{") + text.count(b"[") <= MAX_DEPTH  # no deeper than it has brackets
    return value if is_shallow else plain(value)


def plain(value: object, depth: int = MAX_DEPTH) -> object:
    """`value` with everything replaced that not every JSON reader takes; what is deeper than `depth` is `None`."""
    match value:
        case str():
            return value if value.isascii() else _SURROGATE.sub(_REPLACEMENT, value)
        case dict():
            return {plain(key): plain(item, depth - 1) for key, item in value.items()} if depth else None
        case list() | tuple():
            return [plain(item, depth - 1) for item in value] if depth else None
        case float():
            return value if math.isfinite(value) else None
        case int():
            return value if _MIN_INT <= value <= _MAX_INT else _number(str(value))
    return value


SKETCH_DEPTH = 4
SKETCH_KEYS = 12
SKETCH_CHARACTERS = 300
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{0,39}")


def sketch(value: Any) -> str:
    """The shape without the contents, for logs: names of fields and types, at most `SKETCH_CHARACTERS`."""
    return _sketch(value, SKETCH_DEPTH)[:SKETCH_CHARACTERS]


def _sketch(value: object, depth: int) -> str:
    if isinstance(value, dict):
        names = list(value)[:SKETCH_KEYS] if depth else []
        more = ", …" if len(value) > len(names) else ""
        return "{" + ", ".join(f"{_field(name)}: {_sketch(value[name], depth - 1)}" for name in names) + more + "}"
    if isinstance(value, list):
        return f"[{len(value)} x {_sketch(value[0], depth - 1)}]" if value and depth else f"[{len(value)}]"
    return "null" if value is None else type(value).__name__


def _field(name: object) -> str:
    """The name of a field; a key that is no name may be a customer's number or words."""
    return name if isinstance(name, str) and _NAME.fullmatch(name) else "?"


def _loads_tolerantly(text: str) -> object:
    try:
        value = _parse(text)
    except RecursionError:
        value = _parse(_shallow(text))
    return plain(value)


def _parse(text: str) -> object:
    return json.loads(text, parse_int=_integer, parse_constant=lambda _: None)


def _integer(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= _INT_DIGITS else _number(digits)


def _number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _shallow(text: str) -> str:
    """`text` with `null` for every array and object deeper than `MAX_DEPTH`."""
    depth, start = 0, 0
    kept = []
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept += [text[start : token.start()], "null"]
        elif token[0] in "]}":
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    if depth <= MAX_DEPTH:
        kept.append(text[start:])
    return "".join(kept)
