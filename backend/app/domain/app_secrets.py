"""Secrets of Meta apps, each with the app that it belongs to, and whose signature a body carries.

    keys = read_app_secrets(["1029384756:0f1e…", "5647382910:9a8b…"])
    signer_of(keys, body, header)       # "1029384756", None if no secret made this signature

An item without an id in front belongs to the first app, whatever that is called; several items may name one app, while
its secret is changed. X-Hub-Signature-256: HMAC-SHA256 of the raw body (Graph API webhooks, "Validating payloads").
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FIRST_APP = ""
"""Stands for the first app when its id is not given, and for the app of an account that names none."""
_NAMED = re.compile(r"(\d{5,20}):(.+)", re.ASCII | re.DOTALL)


class AppSecret(NamedTuple):
    app_id: str
    key: bytes


def read_app_secrets(items: Iterable[str]) -> tuple[AppSecret, ...]:
    """In the order given. The first item's app is `FIRST_APP` under its own id, too: see `binds`."""
    found = []
    for item in items:
        named = _NAMED.fullmatch(item)
        found.append(AppSecret(named[1], named[2].encode()) if named else AppSecret(FIRST_APP, item.encode()))
    return tuple(found)


def app_secrets_problem(items: Iterable[str]) -> str | None:
    """What is wrong with an item, `None` if nothing is. Meta's secrets are hexadecimal: a colon ends an app's id."""
    if any(":" in item and not _NAMED.fullmatch(item) for item in items):
        return "has a colon without an app's id before it, 5 to 20 digits, and a secret behind it"
    return None


def binds(secrets: Sequence[AppSecret]) -> bool:
    """Is any secret bound to an app? Then each number has an app, and no other one speaks for it."""
    return any(secret.app_id for secret in secrets)


def first_app(secrets: Sequence[AppSecret]) -> str:
    """The app of the accounts that name none."""
    return secrets[0].app_id if secrets else FIRST_APP


def signer_of(secrets: Sequence[AppSecret], body: bytes | bytearray, signature: bytes) -> str | None:
    """The app whose secret made `signature`."""
    for app_id, key in secrets:
        if hmac.compare_digest(b"sha256=" + hmac.digest(key, body, "sha256").hex().encode(), signature):
            return app_id
    return None
