"""Which accounts are blocked, looked up every few seconds: for /health and the alert."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.domain.models import BlockedAccounts, BlockReason
from app.domain.ports import AccountStore

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
NAMED_ACCOUNTS = 100

BLOCKED = Gauge("chorus_account_blocked", "Active accounts from which WhatsApp takes nothing", ["reason"])
for _reason in BlockReason:
    BLOCKED.labels(_reason)


class AccountWatch:
    """`view` is what the last look found; while the database is away it stays."""

    def __init__(self, store: AccountStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.view = BlockedAccounts()
        self._store = store
        self._clock = clock

    async def run(self, beat: Callable[[], None]) -> None:
        while True:
            beat()
            try:
                await self.look()
            except Unavailable as exc:
                logger.warning("blocked accounts unknown", extra={"reason": str(exc)})
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Raises `Unavailable`."""
        self.view = await self._store.blocked_accounts(limit=NAMED_ACCOUNTS)
        for reason in BlockReason:
            BLOCKED.labels(reason).set(self.view.reasons.get(reason, 0))
