"""Texts made to fit a limit before a model reads them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.domain.models import Turn

BYTES_PER_TOKEN = 4
"""Of UTF-8, about: four Latin letters (Gemini API, page on tokens), or a character and a third of a script that takes
three bytes for each. An estimate: it bounds what a call may cost, where the exact count comes too late."""
CUT = "[… the rest is left out: too long]"
MISSING = "[Earlier messages are left out: there were too many.]"


def estimated_tokens(text: str) -> int:
    return -(-size(text) // BYTES_PER_TOKEN)


def size(text: str) -> int:
    """Bytes of UTF-8; half an emoji counts as well."""
    return len(text.encode("utf-8", "surrogatepass"))


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning in at most `limit` bytes with a note that there was more. With no room for the note the
    note alone."""
    if len(text) <= limit and size(text) <= limit:
        return text
    kept = text[:limit].encode("utf-8", "surrogatepass")[: max(0, limit - size(CUT) - 1)].decode("utf-8", "ignore")
    return f"{kept.rstrip()} {CUT}".strip()


def fit(texts: Sequence[str], limit: int) -> list[str]:
    """All of `texts` in about `limit` bytes: the longest ones are cut to one length, the others stay whole."""
    left, share = limit, limit
    for count, length in zip(range(len(texts), 0, -1), sorted(size(text) for text in texts), strict=True):
        share = left // count
        if length > share:
            break
        left -= length
    else:
        return list(texts)
    return [cut(text, share) for text in texts]


def newest(turns: Sequence[Turn], limit: int, *, each: int) -> list[Turn]:
    """The last of `turns`, in order, that fit `limit` bytes when each is cut to `each`: the oldest go first."""
    return list(_newest(turns, limit, each))[::-1]


def _newest(turns: Sequence[Turn], limit: int, each: int) -> Iterator[Turn]:
    left = limit
    for turn in reversed(turns):
        text = cut(turn.text, each)
        left -= size(text)
        if left < 0:
            return
        yield Turn(turn.role, text)
