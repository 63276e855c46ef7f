"""Phone numbers as WhatsApp writes them in webhooks: digits with the country code, nothing else."""

from __future__ import annotations

import re

MAX_DIGITS = 20
"""E.164 allows 15; some test numbers of Meta are longer."""
PHONE_NUMBER_ID = r"^[0-9]{1,32}$"
"""Meta's id of a business number, which is not the number itself (Graph API, WhatsApp Business phone number)."""

_DECORATION = re.compile(r"[\s+().\-\u2010-\u2015\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

_VARIANTS = (
    (re.compile(r"521(\d{10})"), r"52\1"),
    (re.compile(r"549(\d{10})"), r"54\1"),
    (re.compile(r"55(\d{2})9(\d{8})"), r"55\1\2"),
)
_LONGER = (
    (re.compile(r"52(\d{10})"), r"521\1"),
    (re.compile(r"54(\d{10})"), r"549\1"),
    (re.compile(r"55(\d{2})(\d{8})"), r"55\g<1>9\2"),
)
"""One line that two numbers lead to: the old mobile prefixes of Mexico and Argentina, the ninth digit of Brazil.
WhatsApp names such a customer now by the one, now by the other (Cloud API, phone number formats)."""


def phone_digits(value: object) -> str | None:
    """`+34 610-000 016`, `0034610000016` or 34610000016 as `34610000016`; `None` for what is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    if not (value.isascii() and value.isdigit()):
        value = _DECORATION.sub("", value)
        if not (value.isascii() and value.isdigit()):
            return None
    digits = value.lstrip("0") if value[0] == "0" else value
    return digits if 0 < len(digits) <= MAX_DIGITS else None


def shortest_number(digits: str) -> str:
    """The shortest of the numbers that lead to one line: what two are compared by, never what is dialled."""
    for pattern, short in _VARIANTS:
        match = pattern.fullmatch(digits)
        if match:
            return match.expand(short)
    return digits


def same_line(digits: str) -> tuple[str, ...]:
    """The numbers that lead to one line, this one first: WhatsApp may name the customer by any of them."""
    shortest = shortest_number(digits)
    longer = (match.expand(long) for pattern, long in _LONGER if (match := pattern.fullmatch(shortest)))
    return tuple(dict.fromkeys((digits, shortest, *longer)))
