"""Short texts that others chose (names, headlines, titles): one bounded line, quoted, before a model reads them."""

from __future__ import annotations

import unicodedata

NAME_CHARACTERS = 80
"""WhatsApp's apps allow 25 for a profile name; a payload may hold anything."""
_SPACES = frozenset({"Cc", "Zl", "Zp", "Zs"})
"""Unicode's categories of what becomes a space; the rest of what cannot be printed is dropped: zero-width and
bidirectional controls, halves of surrogate pairs, what is no character."""


def one_line(text: object, limit: int) -> str:
    """`text` in one line of at most `limit` characters, without control characters; `""` for what is no text."""
    if not isinstance(text, str):
        return ""
    if len(text) <= limit and text.isprintable():
        return " ".join(text.split())
    # Not all of a huge text: four times the limit leaves enough after what is dropped and joined.
    kept = "".join(map(_readable, text.strip()[: 4 * limit + 64]))
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def quoted(text: object, limit: int) -> str:
    """`one_line` in double quotes, which it cannot leave; `""` if nothing is left of it."""
    line = one_line(text, limit).replace('"', "'")
    return f'"{line}"' if line else ""


def _readable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if unicodedata.category(character) in _SPACES else ""
