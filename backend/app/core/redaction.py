"""What must not be in a log, a reason or a label, taken out of text: the last line of defence, behind the list of what
may be logged (`core/log_fields.py`)."""

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
