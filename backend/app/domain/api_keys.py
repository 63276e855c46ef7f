"""Keys with which programs act for one account."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from app.domain.models import Role

PREFIX = "chorus_"
MAX_API_KEYS = 50
"""Of one account."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: it acts for `account_id` as a member with `role` would."""

    id: str
    account_id: str
    name: str
    role: Role
    digest: str = field(repr=False)
    hint: str
    """The key's last characters."""
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    """Noted once a minute."""
    maker_role: Role | None = None
    """Of `created_by` in the account by now, where keys are shown; `None`: they are no member (any more)."""
