"""How a receiver knows that an event is from us: the signature of Standard Webhooks 1.0 (https://www.standardwebhooks.com).

    secret = new_secret()                                      # "whsec_" and 32 bytes in base64, for the receiver too
    headers = signed_headers(event_id, body, secrets=[secret], at=unix_seconds)

HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, keyed with the bytes behind `whsec_`. The body is readable.
While one secret takes the place of another there is a signature of each, separated by spaces; one that fits is enough.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from secrets import token_bytes

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(token_bytes(SECRET_BYTES)).decode()


def signed_headers(event_id: str, body: bytes, *, secrets: Sequence[str], at: int) -> Mapping[str, str]:
    """`at`: Unix seconds of this attempt; receivers refuse what is older than a few minutes."""
    signed = f"{event_id}.{at}.".encode() + body
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(_signature(signed, secret) for secret in secrets),
    }


def _signature(signed: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
