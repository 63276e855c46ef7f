"""Secrets inside text and URLs: taken out of what is written, and found where they break what they stand in.

In a log, a reason or a label it is the last line of defence, behind the list of what may be logged
(`core/log_fields.py`).
"""

from __future__ import annotations

import re
from typing import Any

_MARKS = ("Bearer ", "sha256=", "eyJ", "EAA", "AIza", "sb_secret_", "chorus_")
_PHONE = re.compile(r"\d{10,14}")
_SECRET = re.compile(
    r"""(?<=Bearer\ )[\w.~+/=-]+ | (?<=sha256=)[0-9a-fA-F]+ | eyJ[\w-]{8,}(?:\.[\w-]+)+
      | \bEAA[A-Za-z0-9]{20,} | \bAIza[\w-]{20,} | \bsb_secret_\w+ | \bchorus_[\w-]{43}(?![\w-])
      | (?<![\w.-])\+?\d{10,14}(?![\w.-])""",
    re.VERBOSE,
)
"""Meta's ids have 15 digits or more, phone numbers with country code 10 to 14 as a rule (E.164: 15 at most). Times in
seconds have 10 digits, too: log them as numbers, which are not searched."""


def is_suspicious(line: str) -> bool:
    """May there be something to take out? Quick, and wrong to the safe side."""
    return any(mark in line for mark in _MARKS) or _PHONE.search(line) is not None


def redact(text: str) -> str:
    """`text` without tokens, keys, signatures and phone numbers."""
    return _SECRET.sub("[redacted]", text)


def scrub(value: Any) -> Any:
    """`value` with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: scrub(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item) for item in value]
    return value


_MUST_BE_ESCAPED = {"@": "%40", "/": "%2F", "?": "%3F", "#": "%23", "[": "%5B", "]": "%5D", "\\": "%5C"}
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT_OR_NONE = re.compile(r"[^:]*(:\d*)?|\[[^\]]*\](:\d*)?")


def credentials_problem(url: str, *, tolerated: str = "") -> str | None:
    """What is wrong with user or password of `url`, `None` if nothing is. Names the character, never the value.

    `tolerated`: characters that the reader of this URL takes unescaped. An "@" further on, in a path or in an option,
    is allowed there (RFC 3986 §3.2).
    """
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    credentials, at, _ = authority.rpartition("@")
    if not at and "@" in rest and not all(_PORT_OR_NONE.fullmatch(host) for host in authority.split(",")):
        # What comes first looks like user:password and no port, so the character that ended it belongs to the password.
        return _escape(rest[len(authority)])
    for character in credentials:
        if character in _MUST_BE_ESCAPED and character not in tolerated:
            return _escape(character)
    if "%" not in tolerated and _LONE_PERCENT.search(credentials):
        return "has an unescaped '%' in its user or password; write %25"
    return None


def _escape(character: str) -> str:
    return f"has an unescaped '{character}' in its user or password; write {_MUST_BE_ESCAPED[character]}"


def place_of(url: str) -> str:
    """Host and port of `url` for people, without user, password and options."""
    authority = re.split(r"[/?#]", url.partition("://")[2].rpartition("@")[2], maxsplit=1)[0]
    return authority or url.partition("?")[0].rpartition("@")[2]
