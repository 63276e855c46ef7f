"""Secrets: what is pasted into a setting is cleaned or refused, and the few that we store are encrypted.

    cipher = TokenCipher([new_key, old_key])        # the first encrypts, all of them decrypt
    stored = cipher.encrypt(token)
    token = cipher.decrypt(stored)

Fernet (AES-128-CBC with HMAC-SHA256). To rotate, see "Rotating ENCRYPTION_KEY" in docs/operations.md. It does not
protect against a reader who has both the database and the key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class SecretError(ValueError):
    """A key is malformed, or none of the keys opens this ciphertext. Names neither key, secret nor ciphertext."""


_INVISIBLE_OUTSIDE = "\ufeff\u200b\u200c\u200d\u2060"
"""Byte order mark and zero-width characters, which come with what is copied. `str.strip` keeps them."""
_QUOTES = ("'", '"')
STORED_TOKEN = r"^[\x21\x24-\x26\x28-\x7e][\x21-\x7e]{7,999}$"
"""A token of an account, after `clean_secret`: it travels in a header or a URL, and begins as no comment does."""


def clean_secret(value: str, *, ascii_only: bool = False) -> str:
    """`value` without outer white space. Raises `ValueError` for what cannot be the secret that was meant.

    `ascii_only`: it travels in an HTTP header, which takes nothing else. The error names no part of the value.
    """
    value = strip_secret(value)
    if value.startswith("#"):
        raise ValueError("begins with '#': that is a comment, not a value")
    if len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1]:
        raise ValueError("is in quotes, and they would be part of the value: take them away")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError(
            "has white space or an invisible character inside: copy the value again, and nothing behind it"
        )
    if ascii_only and not value.isascii():
        raise ValueError("has a character that is not ASCII: copy the value again")
    return value


def strip_secret(value: str) -> str:
    """Without white space and zero-width characters at both ends."""
    before = None
    while before != value:
        before, value = value, value.strip().strip(_INVISIBLE_OUTSIDE)
    return value


def guessable(secrets: Iterable[bytes], *, least: int) -> str | None:
    """Why one of them may be guessed: under `least` bytes, or one character repeated. A secret that is not set is none.
    The answer holds no part of a secret."""
    given = [secret for secret in secrets if secret]
    if any(len(secret) < least for secret in given):
        return f"is shorter than {least} bytes: take a random one, as of `openssl rand -hex {least}`"
    if any(len(set(secret)) == 1 for secret in given):
        return f"is one character repeated: take a random one, as of `openssl rand -hex {least}`"
    return None


REPEATED_BYTES = 3
"""One character of base64, repeated, stands for three different bytes at most. 32 random bytes have about thirty."""


def key_is_guessable(key: str) -> bool:
    """Is it one byte, or one character, repeated? `False` also for what is no key: `TokenCipher` refuses it."""
    try:
        return len(set(base64.urlsafe_b64decode(key))) <= REPEATED_BYTES
    except ValueError:
        return False


class TokenCipher:
    """Raises `SecretError` for a key that is none, or for no key at all."""

    def __init__(self, keys: Iterable[str]) -> None:
        try:
            fernets = [Fernet(key) for key in keys]
        except ValueError as exc:
            raise SecretError("an encryption key must be 32 bytes in URL-safe base64") from exc
        if not fernets:
            raise SecretError("there is no encryption key")
        self._fernet = MultiFernet(fernets)
        self._first = fernets[0]

    @staticmethod
    def generate_key() -> str:
        """A new key: 32 random bytes, URL-safe base64."""
        return Fernet.generate_key().decode()

    def encrypt(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def is_current(self, ciphertext: str) -> bool:
        """Did the first key encrypt it? Then the other keys are not needed for it."""
        try:
            self._first.decrypt(ciphertext)
        except InvalidToken:
            return False
        return True

    def decrypt(self, ciphertext: str) -> str:
        """Raises `SecretError`: another key encrypted it, or it was changed."""
        try:
            return self._fernet.decrypt(ciphertext).decode()
        except (InvalidToken, ValueError) as exc:
            raise SecretError("none of the encryption keys opens this secret") from exc
