"""How long a body says it is, before a byte of it is read."""

from __future__ import annotations

MAX_DIGITS = 18
"""More than any limit of ours; Python refuses to read numbers of thousands of digits."""


def announced_bytes(content_length: bytes, *, limit: int) -> int:
    """The value of `Content-Length`. One that is no number, or has too many digits, is more than `limit`."""
    if not content_length.isdigit() or len(content_length) > MAX_DIGITS:
        return limit + 1
    return int(content_length)
