"""The audit trail: read by owners and operators, forgotten after its time. Changes of rows are written by the database
itself, with the change."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.audit import AuditEntry
from app.domain.errors import Unavailable
from app.domain.models import Page, Role, User
from app.domain.ports import AuditStore
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

FORGET_EVERY_SECONDS = 3600.0
PAGE = 1000


class AuditService:
    """`keep_days`: how long entries are kept; 0: for ever."""

    def __init__(
        self, accounts: AccountService, store: AuditStore, *, keep_days: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._keep_seconds = keep_days * 86400.0
        self._clock = clock
        self._next_at = 0.0

    async def list_for(self, user: User, account_id: str, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        """For owners: the newest first."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        return await self._store.list_audit(account_id, limit=limit, cursor=cursor)

    async def list_all(self, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        """Of every account, and what belongs to none: for operators."""
        return await self._store.list_audit(None, limit=limit, cursor=cursor)

    async def note_breaker(self, name: str, changes: Mapping[str, object]) -> None:
        """A circuit was forced. It is kept in Redis, so that this comes after the change, and a database that is away,
        which may be why, hinders nothing: then the log alone has it."""
        _, _, number = name.partition(":")
        try:
            await self._store.note_change(
                "breaker.forced", name, changes, phone_number_id=number if number.isdigit() else None
            )
        except Unavailable as exc:
            logger.warning("a forced circuit is not in the audit trail", extra={"reason": str(exc)})

    async def forget(self) -> bool:
        """Entries that are too old, one page, now and then. Returns whether there may be more. Raises `Unavailable`."""
        if not self._keep_seconds or self._clock.monotonic() < self._next_at:
            return False
        forgotten = await self._store.forget_audit(keep_seconds=self._keep_seconds, limit=PAGE)
        if forgotten < PAGE:
            self._next_at = self._clock.monotonic() + FORGET_EVERY_SECONDS
        return forgotten >= PAGE
