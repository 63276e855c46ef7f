"""Creating an account over HTTP: the operator may; a signed-in person for a number that WhatsApp says is theirs."""

from __future__ import annotations

from contextlib import suppress

from app.core.errors import Unavailable
from app.core.fleet.allowance import Allowance
from app.domain.errors import Forbidden, RateLimited
from app.domain.models import Account, User
from app.domain.ports import Messenger
from app.services.account_service import AccountService

WINDOW_SECONDS = 3600.0
MAX_TRIES = 10
"""Per person and window: every one asks WhatsApp something."""
MAX_ACCOUNTS = 5


class SignupService:
    """`is_open`: signed-in people may create accounts (SIGNUP=open)."""

    def __init__(
        self, accounts: AccountService, messenger: Messenger, *, tries: Allowance, created: Allowance, is_open: bool
    ) -> None:
        self._accounts = accounts
        self._messenger = messenger
        self._tries = tries
        self._created = created
        self._is_open = is_open

    async def create_account(self, user: User, *, phone_number_id: str, access_token: str, **fields: object) -> Account:
        """The account; a person becomes its owner. Raises `Forbidden`, `RateLimited`, `Conflict`, `InvalidInput` when
        WhatsApp does not open the number with this token, and `Unavailable` when WhatsApp or Redis cannot be asked."""
        if user.is_operator:
            return await self._accounts.create(
                user, phone_number_id=phone_number_id, access_token=access_token, **fields
            )
        if user.grant is not None:
            raise Forbidden("an API key acts for its own account; sign in to create another one")
        if not self._is_open:
            raise Forbidden("only the operator creates accounts here; ask them for one (SIGNUP=operator)")
        if user.is_anonymous:
            raise Forbidden("an anonymous user cannot own an account; sign in with an e-mail address first")
        await _take(self._tries, user, "attempts to create an account")
        await self._messenger.confirm_number(phone_number_id, access_token)
        await _take(self._created, user, "accounts created")
        try:
            return await self._accounts.create(
                user, phone_number_id=phone_number_id, access_token=access_token, **fields
            )
        except Exception:
            with suppress(Unavailable):
                await self._created.give_back(user.id)
            raise


async def _take(allowance: Allowance, user: User, what: str) -> None:
    wait = await allowance.take(user.id)
    if wait:
        raise RateLimited(f"too many {what} within an hour", retry_after=wait)
