"""The forms of ids that come from outside, as patterns for a whole match: HTTP, the command line and access tokens have
the same ones."""

from __future__ import annotations

PHONE_NUMBER_ID = r"^[0-9]{1,32}$"
MEMBER_ID = r"^[A-Za-z0-9_-][A-Za-z0-9._:@|-]{0,254}$"
"""The `sub` of a Supabase access token, usually a UUID."""
