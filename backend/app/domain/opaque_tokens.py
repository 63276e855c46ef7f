"""Secrets that we make and show once, and keep as a digest only: API keys, invitations.

    made = new_token("chorus_")            # made.secret goes to the caller, made.digest into the database
    if is_token(given, "chorus_"): ...     # has it the form of one?
    digest_of(given)                       # what to look it up by

A secret has 32 random bytes. So its digest is a plain SHA-256: salts and slow hashes are for what people choose. What
it does not do: say whether a secret is valid.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import NamedTuple

SECRET_BYTES = 32
HINT_CHARACTERS = 4

_RANDOM = re.compile(r"[A-Za-z0-9_-]{43}")


class NewToken(NamedTuple):
    """`hint`: the secret's last characters, by which people know it again."""

    secret: str
    digest: str
    hint: str


def new_token(prefix: str) -> NewToken:
    """`prefix` says what it is, to us and to scanners that look for secrets in code."""
    secret = prefix + secrets.token_urlsafe(SECRET_BYTES)
    return NewToken(secret, digest_of(secret), secret[-HINT_CHARACTERS:])


def is_token(given: str, prefix: str) -> bool:
    return given.startswith(prefix) and _RANDOM.fullmatch(given, len(prefix)) is not None


def digest_of(secret: str) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()
