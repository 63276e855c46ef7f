"""The forms of ids that come from outside, as patterns for a whole match: HTTP, the command line and access tokens have
the same ones."""

from __future__ import annotations

import re

PHONE_NUMBER_ID = r"^[0-9]{1,32}$"
"""Meta's id of a business number, which is not the number itself (Graph API, WhatsApp Business phone number)."""
MEMBER_ID = r"^[A-Za-z0-9_-][A-Za-z0-9._:@|-]{0,254}$"
"""The `sub` of a Supabase access token, usually a UUID."""

_MEMBER_ID = re.compile(MEMBER_ID)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def as_written_by_us(row_id: str) -> str:
    """An id of a row as everything here names it: caches, mailboxes and idempotency keys. A UUID may come in capitals
    too (RFC 9562, section 4); anything else stays as it is."""
    return row_id.lower() if _UUID.fullmatch(row_id) else row_id


def is_member_id(value: object) -> bool:
    """May a person be known by it? A blank one would be an owner whom no token names."""
    return isinstance(value, str) and _MEMBER_ID.fullmatch(value) is not None
