"""What happens in an account, for people who watch it: told by the replica that did it, read on any."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from app.core.errors import Unavailable
from app.core.feed import Feed, Reader
from app.domain.errors import ChorusError
from app.domain.models import Json, Role, User
from app.services.account_service import AccountService


class LiveEvents:
    def __init__(self, accounts: AccountService, feed: Feed) -> None:
        self._accounts = accounts
        self._feed = feed

    @property
    def is_draining(self) -> bool:
        return self._feed.is_draining

    async def open(self, user: User, account_id: str, *, last_id: str | None) -> Reader:
        """For members. Raises `NotFound`, `Unavailable`."""
        await self._accounts.authorize(user, account_id, Role.VIEWER)
        return await self._feed.open(account_id, last_id=last_id)

    async def may_still_read(self, user: User, account_id: str) -> bool:
        """While nothing can be asked, what was known counts."""
        try:
            await self._accounts.authorize(user, account_id, Role.VIEWER)
        except Unavailable:
            return True
        except ChorusError:
            return False
        return True

    def drain(self, within_seconds: float) -> None:
        """Every reader is sent away, to come back to another replica."""
        self._feed.drain(within_seconds)


def tell_changes(feed: Feed, changes: Sequence[Json]) -> None:
    """What the store has committed: `type`, `account_id`, `conversation_id`, and a few `facts`."""
    at = None
    for change in changes:
        account_id = change["account_id"]
        if not feed.may_have_readers(account_id):
            continue
        at = at or datetime.now(UTC)
        told = {
            "type": change["type"], "account_id": account_id, "conversation_id": change["conversation_id"], "at": at,
            **change["facts"],
        }  # fmt: skip
        feed.tell(account_id, change["type"].encode(), orjson.dumps(told))
