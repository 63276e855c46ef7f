"""User and password inside a URL: what must be percent-encoded there, and what goes wrong when it is not."""

from __future__ import annotations

import re

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
