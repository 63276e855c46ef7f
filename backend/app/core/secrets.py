"""Encryption of the few secrets we must store, such as an account's WhatsApp token.

    cipher = TokenCipher([new_key, old_key])        # the first encrypts, all of them decrypt
    stored = cipher.encrypt(token)
    token = cipher.decrypt(stored)

Fernet (AES-128-CBC with HMAC-SHA256). To rotate: put a new key in front, encrypt everything again at leisure, drop
the old one. It does not protect against somebody who has both the database and the key.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class SecretError(ValueError):
    """A key is malformed, or none of the keys opens this ciphertext. Names neither key, secret nor ciphertext."""


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

    @staticmethod
    def generate_key() -> str:
        """A new key: 32 random bytes, URL-safe base64."""
        return Fernet.generate_key().decode()

    def encrypt(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def decrypt(self, ciphertext: str) -> str:
        """Raises `SecretError`: another key encrypted it, or it was changed."""
        try:
            return self._fernet.decrypt(ciphertext).decode()
        except (InvalidToken, ValueError) as exc:
            raise SecretError("none of the encryption keys opens this secret") from exc
