"""Whose messages wait: the queue by account, for operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.queue import Queue
from app.domain.models import User
from app.domain.webhook import OF_A_NUMBER, Kind
from app.services.account_service import AccountService

OLDEST_MAILBOXES = 500
"""Of each shard are looked at for the age of what waits."""
MAX_ROWS = 100


@dataclass(frozen=True, slots=True)
class AccountQueue:
    """What waits, or is being worked on, for one number. `oldest_seconds`: `None` where it is not among the oldest of
    the queue."""

    account_id: str
    phone_number_id: str
    name: str
    pending: int
    messages: int
    statuses: int
    replies: int
    oldest_seconds: float | None
    answers_today: int


class QueueView:
    def __init__(self, accounts: AccountService, queue: Queue, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._accounts = accounts
        self._queue = queue
        self._clock = clock

    async def by_account(self, user: User) -> Sequence[AccountQueue]:
        """The accounts with something waiting, the most first, `MAX_ROWS` at most. Raises `Unavailable`."""
        accounts = await self._accounts.list_for(user)
        kinds = len(OF_A_NUMBER)
        depths = await self._queue.depths([f"{kind}:{one.phone_number_id}" for one in accounts for kind in OF_A_NUMBER])
        waiting = {
            one.id: dict(zip(OF_A_NUMBER, depths[at * kinds : (at + 1) * kinds], strict=True))
            for at, one in enumerate(accounts)
        }
        totals = {account_id: sum(counts.values()) for account_id, counts in waiting.items()}
        busy = [one for one in accounts if totals[one.id]]
        busy = sorted(busy, key=lambda one: totals[one.id], reverse=True)[:MAX_ROWS]
        oldest = await self._queue.oldest(limit=OLDEST_MAILBOXES) if busy else {}
        spent = await self._accounts.spent_today(busy)
        now = self._clock.now().timestamp()
        rows = []
        for one in busy:
            counts = waiting[one.id]
            since = [oldest[group] for kind in OF_A_NUMBER if (group := f"{kind}:{one.phone_number_id}") in oldest]
            day = spent.get(one.id)
            rows.append(
                AccountQueue(
                    account_id=one.id,
                    phone_number_id=one.phone_number_id,
                    name=one.name,
                    pending=totals[one.id],
                    messages=counts[Kind.MESSAGE],
                    statuses=counts[Kind.STATUS],
                    replies=counts[Kind.OUTBOUND] + counts[Kind.ECHO],
                    oldest_seconds=max(0.0, now - min(since)) if since else None,
                    answers_today=day.answers if day else 0,
                )
            )
        return rows
