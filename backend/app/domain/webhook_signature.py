"""How a receiver knows that an event is from us: the signature of Standard Webhooks 1.0 (https://www.standardwebhooks.com).

    secret = new_secret()                                      # "whsec_" and 32 bytes in base64, for the receiver too
    headers = signed_headers(event_id, body, secret=secret, at=unix_seconds)

HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, keyed with the bytes behind `whsec_`. The body is readable.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(event_id: str, body: bytes, *, secret: str, at: int) -> Mapping[str, str]:
    """`at`: Unix seconds of this attempt; receivers refuse what is older than a few minutes."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signature = hmac.new(key, f"{event_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
