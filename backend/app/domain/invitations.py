"""Invitations: a link that makes the person who opens it a member of an account."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from app.domain.models import Role

PREFIX = "invite_"
VALID_SECONDS = 7 * 86400.0
MAX_INVITATIONS = 50
"""Open ones of one account."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Good once, until `expires_at`. It is listed until then, also when it was accepted."""

    id: str
    account_id: str
    role: Role
    digest: str = field(repr=False)
    created_by: str
    created_at: datetime
    expires_at: datetime
    accepted_by: str | None
    accepted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Membership:
    """What an accepted invitation made of a person."""

    account_id: str
    user_id: str
    role: Role
    created_at: datetime
