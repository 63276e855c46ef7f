"""Which app signed a body, by its secret."""

from __future__ import annotations

import hmac

import pytest

from app.domain.app_secrets import FIRST_APP, binds, first_app, read_app_secrets, signer_of

BODY = b'{"entry": []}'


def signed(secret: str, body: bytes = BODY) -> bytes:
    return b"sha256=" + hmac.digest(secret.encode(), body, "sha256").hex().encode()


def test_a_signature_names_the_app_whose_secret_made_it() -> None:
    secrets = read_app_secrets(["11111:one", "22222:two", "11111:one-before"])
    assert signer_of(secrets, BODY, signed("one")) == "11111"
    assert signer_of(secrets, BODY, signed("one-before")) == "11111", "while its secret is changed"
    assert signer_of(secrets, BODY, signed("two")) == "22222"
    assert signer_of(secrets, BODY, signed("three")) is None
    assert signer_of(secrets, BODY, b"") is None
    assert signer_of(secrets, BODY + b" ", signed("one")) is None
    assert (binds(secrets), first_app(secrets)) == (True, "11111")


def test_the_plain_form_is_for_one_app_and_binds_nothing() -> None:
    secrets = read_app_secrets(["0f1e2d3c"])
    assert signer_of(secrets, BODY, signed("0f1e2d3c")) == FIRST_APP
    assert (binds(secrets), first_app(secrets)) == (False, FIRST_APP)


@pytest.mark.parametrize("item", ["1234:short-id", "abcde:no-digits", ":nothing", "12345:"])
def test_what_is_not_named_by_an_app_id_is_a_secret_as_it_is(item: str) -> None:
    secrets = read_app_secrets([item])
    assert signer_of(secrets, BODY, signed(item)) == FIRST_APP


def test_without_secrets_nothing_is_signed() -> None:
    assert signer_of(read_app_secrets([]), BODY, signed("")) is None
    assert first_app(()) == FIRST_APP
