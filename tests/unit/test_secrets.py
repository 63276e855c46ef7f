"""Stored secrets: only our keys open them, and keys can be changed."""

from __future__ import annotations

import pytest

from app.core.secrets import SecretError, TokenCipher

OLD, NEW = TokenCipher.generate_key(), TokenCipher.generate_key()


def test_what_is_encrypted_can_be_decrypted_and_looks_like_nothing():
    cipher = TokenCipher([NEW])
    stored = cipher.encrypt("EAAJB-tökén")
    assert "EAAJB" not in stored
    assert cipher.decrypt(stored) == "EAAJB-tökén"
    assert cipher.encrypt("EAAJB-tökén") != stored


def test_the_first_key_encrypts_and_all_decrypt():
    stored = TokenCipher([OLD]).encrypt("token")
    both = TokenCipher([NEW, OLD])
    assert both.decrypt(stored) == "token"
    assert TokenCipher([NEW]).decrypt(both.encrypt("token")) == "token"


@pytest.mark.parametrize("ciphertext", ["", "not encrypted", "gAAAAA", "é"])
def test_a_wrong_key_or_a_changed_ciphertext_is_a_clear_error_without_the_secret(ciphertext):
    stored = ciphertext or TokenCipher([OLD]).encrypt("token")
    with pytest.raises(SecretError, match="none of the encryption keys") as caught:
        TokenCipher([NEW]).decrypt(stored)
    assert stored not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["short"], ["x" * 44], ["é"], [NEW, "short"]])
def test_a_key_that_is_none_is_refused_at_once(keys):
    with pytest.raises(SecretError, match="key"):
        TokenCipher(keys)
