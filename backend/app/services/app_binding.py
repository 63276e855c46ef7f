"""Which Meta app speaks for which number: a body signed by one business' app says nothing about another's.

Only with META_APP_SECRET=<app_id>:<secret>. The account comes from the cache, so this costs a webhook no round trip as
a rule; when neither cache nor database can tell, the delivery is refused with 503 and Meta repeats it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from prometheus_client import Counter

from app.domain.app_secrets import FIRST_APP
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

TELL_SECONDS = 60.0
FOREIGN = Counter(
    "chorus_webhook_foreign_numbers_total",
    "Numbers in signed deliveries that belong to another app, which were dropped",
)


class AppBinding:
    """`first_app`: the app of the accounts that name none."""

    def __init__(self, accounts: AccountService, first_app: str) -> None:
        self._accounts = accounts
        self._first_app = first_app
        self._told_at = -TELL_SECONDS

    async def foreign(self, numbers: Collection[str], signed_by: str) -> frozenset[str]:
        """Those of `numbers` for which the app `signed_by` may not speak. A number without an account is nobody's: what
        is about it waits as a dead letter until there is one. Raises `Unavailable`."""
        found = set()
        for number in numbers:
            account = await self._accounts.by_phone_number_id(number) if number else None
            if account is not None and (account.app_id or self._first_app) != (signed_by or self._first_app):
                found.add(number)
                self._tell(account.id, signed_by)
        return frozenset(found)

    def _tell(self, account: str, signed_by: str) -> None:
        FOREIGN.inc()
        now = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:  # one for each would be a way to fill the disk
            self._told_at = now
            logger.warning(
                "dropped: an app signed what is about another app's number; is the account's app_id right?",
                extra={"account": account, "app_id": signed_by or FIRST_APP},
            )
