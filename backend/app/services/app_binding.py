"""Which Meta app speaks for which number: a body signed by one business' app says nothing about another's.

Only with META_APP_SECRET=<app_id>:<secret>. The account comes from the cache, so this costs a webhook no round trip as
a rule; when neither cache nor database can tell, the delivery is refused with 503 and Meta repeats it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from prometheus_client import Counter

from app.domain.app_secrets import FIRST_APP
from app.domain.errors import Unavailable
from app.domain.models import Account
from app.domain.webhook import WebhookEvent, unread
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

MAX_NUMBERS = 100
"""Of one delivery, looked up at most. Each may cost a call of the database."""
AT_ONCE = 10
LOOK_UP_SECONDS = 5.0
"""For all numbers of a delivery, if there are several."""
_BEYOND = f"beyond the {MAX_NUMBERS} numbers of a delivery that are looked up"

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

    async def permitted(self, updates: Sequence[WebhookEvent], signed_by: str) -> list[WebhookEvent]:
        """Without those about numbers for which the app `signed_by` may not speak. A number without an account is no
        other app's: what is about it waits as a dead letter until there is one.

        What is about numbers beyond the first `MAX_NUMBERS` becomes a dead letter whatever account they have: nothing
        says that `signed_by` may speak for it. Raises `Unavailable`.
        """
        numbers = list(dict.fromkeys(update.phone_number_id for update in updates if update.phone_number_id))
        beyond = frozenset(numbers[MAX_NUMBERS:])
        foreign = await self._foreign(numbers[:MAX_NUMBERS], signed_by)
        return [
            unread(update, _BEYOND) if update.phone_number_id in beyond else update
            for update in updates
            if update.phone_number_id not in foreign
        ]

    async def _foreign(self, numbers: Sequence[str], signed_by: str) -> frozenset[str]:
        found = set()
        for account in await self._accounts_of(numbers):
            if (account.app_id or self._first_app) != (signed_by or self._first_app):
                found.add(account.phone_number_id)
                self._tell(account.id, signed_by)
        return frozenset(found)

    async def _accounts_of(self, numbers: Sequence[str]) -> list[Account]:
        found: list[Account] = []
        left = iter(numbers)

        async def look_up() -> None:
            for number in left:
                account = await self._accounts.by_phone_number_id(number)
                if account is not None:
                    found.append(account)

        if len(numbers) <= 1:  # as nearly always: no task
            await look_up()
            return found
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(numbers))):
                    group.create_task(look_up())
        except TimeoutError:
            raise Unavailable("database", "the accounts of a delivery were not found in time") from None
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return found

    def _tell(self, account: str, signed_by: str) -> None:
        FOREIGN.inc()
        now = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:  # one for each would be a way to fill the disk
            self._told_at = now
            logger.warning(
                "dropped: an app signed what is about another app's number; is the account's app_id right?",
                extra={"account": account, "app_id": signed_by or FIRST_APP},
            )
