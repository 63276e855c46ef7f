"""Splitting a long reply into WhatsApp messages."""

from __future__ import annotations

from app.domain.models import TEXT_LIMIT

_BREAKS = ("\n\n", "\n", ". ", " ")


def split_text(text: str, limit: int = TEXT_LIMIT) -> list[str]:
    """`text` in as few parts of at most `limit` characters as paragraphs, lines, sentences or words allow, in that
    order of preference; a word longer than the limit is cut. Deterministic: a retry finds the same parts.
    """
    parts: list[str] = []
    rest = text.strip()
    while len(rest) > limit:
        cut = _cut(rest, limit)
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*parts, rest] if rest else parts


def _cut(text: str, limit: int) -> int:
    for mark in _BREAKS:
        # The first half is too early a place: the parts would be many, and each one spends the pair rate.
        at = text.rfind(mark, limit // 2, limit - len(mark) + 1)
        if at > 0:
            return at + len(mark)
    return limit
