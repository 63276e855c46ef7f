"""What Meta reports about an account (disabled, flagged, a template rejected): told in words, and counted."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime

from prometheus_client import Counter

from app.domain.notices import AccountNotice
from app.services.account_service import AccountService
from app.services.ingest_service import Incoming

logger = logging.getLogger(__name__)

NOTICES = Counter(
    "chorus_account_notices_total", "Reports of Meta about an account, its number or its templates", ["field", "event"]
)


class AccountNotices:
    """Where every report about an account arrives, once, from the queue: what else follows from one belongs here."""

    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts

    async def receive(self, incoming: Incoming) -> str:
        """The worker's half. Returns the outcome. Raises `Unavailable`."""
        await self.record(AccountNotice(**incoming.body), incoming.accepted_at)
        return "told"

    async def record(self, notice: AccountNotice, at: datetime) -> None:
        """Take note of one report that arrived `at`. Safe to repeat; it may have been delivered before."""
        known_accounts = await self._accounts.noticed(notice, at)
        NOTICES.labels(notice.field, notice.event_label).inc()
        known = {name: value for name, value in asdict(notice).items() if value and name != "details"}
        logger.log(
            notice.severity,
            "WhatsApp reports: %s",
            notice.words,
            extra={f"notice_{name}": value for name, value in known.items()}
            | {"details": dict(notice.details), "accounts": list(known_accounts)},
        )
