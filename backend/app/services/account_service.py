"""Accounts and bot profiles: who owns which number, what the bot knows. Reads go through the shared cache."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.core.cache import get_cached_or_fetch, write_fence
from app.core.secrets import TokenCipher
from app.domain.errors import Conflict, Forbidden, NotFound, Unavailable
from app.domain.models import Account, BotProfile, Role, User
from app.domain.phone import phone_digits
from app.domain.ports import AccountStore
from app.domain.profile_limits import check_profile
from app.domain.usage import AccountDay, DailyLimit, DailyLimits, Spending, Usage

logger = logging.getLogger(__name__)

PROFILE_TTL_SECONDS = 300
ACCOUNT_TTL_SECONDS = 300

BOOTSTRAP_RETRY_SECONDS = 5.0
BOOTSTRAP_SLUG = "default"
BOOTSTRAPPER = User(id="bootstrap", is_operator=True)

NO_LIMITS = DailyLimits()

_RANK = {Role.VIEWER: 1, Role.AGENT: 2, Role.OWNER: 3}


class AccountService:
    def __init__(self, store: AccountStore, cipher: TokenCipher, *, limits: DailyLimits = NO_LIMITS) -> None:
        self._store = store
        self._cipher = cipher
        self._limits = limits

    async def create(self, user: User, *, access_token: str, **fields: Any) -> Account:
        """The creator becomes the owner; the token is encrypted before it leaves this process."""
        owner_id = None if user.is_operator else user.id
        # That there is no such account may be cached.
        async with write_fence(*_keys(fields)):
            return await self._store.create_account(
                access_token=self._cipher.encrypt(access_token), owner_id=owner_id, **_with_digits(fields)
            )

    async def bootstrap(self, *, phone_number_id: str, access_token: str, verify_token: str) -> None:
        """A first account from the settings, as soon as the database is there; an existing one is never overwritten."""
        while True:
            try:
                if await self._store.get_account_by_phone_number_id(phone_number_id) is None:
                    await self.create(
                        BOOTSTRAPPER, name=BOOTSTRAP_SLUG, slug=BOOTSTRAP_SLUG, phone_number_id=phone_number_id,
                        access_token=access_token, verify_token=verify_token,
                    )  # fmt: skip
            except Conflict as exc:
                # Another replica may have been faster; else the name is somebody else's, and the number has no account.
                if await self._store.get_account_by_phone_number_id(phone_number_id) is None:
                    logger.error("no account bootstrapped", extra={"reason": str(exc), "code": exc.code})
                return
            except Unavailable as exc:
                logger.warning("no account bootstrapped yet", extra={"reason": str(exc)})
                await asyncio.sleep(BOOTSTRAP_RETRY_SECONDS)
            else:
                return

    async def update(self, account_id: str, changes: Mapping[str, Any]) -> Account:
        before = await self._store.get_account(account_id)
        if before is None:
            raise NotFound("account")
        if "access_token" in changes:
            changes = {**changes, "access_token": self._cipher.encrypt(changes["access_token"])}
        async with write_fence(*{*_keys(asdict(before)), *_keys(changes)}):
            return await self._store.update_account(account_id, _with_digits(changes))

    async def list_for(self, user: User) -> tuple[Account, ...]:
        return await self._store.list_accounts(user_id=None if user.is_operator else user.id)

    async def spent_today(self, accounts: Sequence[Account]) -> dict[str, AccountDay]:
        """Today (UTC) of those accounts that had an answer of the model, by id."""
        days = await self._store.account_usage([account.id for account in accounts])
        return {day.account_id: day for day in days}

    def limits_reached(self, day: AccountDay) -> tuple[DailyLimit, ...]:
        """Of the account as a whole: its conversations may have reached theirs."""
        return self._limits.reached(Usage(account=Spending(day.answers, day.input_tokens, day.output_tokens)))

    async def authorize(self, user: User, account_id: str, needed: Role) -> Account:
        """The account, if `user` may act on it as `needed`. To a stranger it does not exist."""
        account = await self.by_id(account_id)
        if user.is_operator:
            return account
        role = await self._store.get_role(account_id, user.id)
        if role is None:
            raise NotFound("account")
        if _RANK[role] < _RANK[needed]:
            raise Forbidden(f"this needs the role {needed} in the account")
        return account

    async def by_id(self, account_id: str) -> Account:
        account = await get_cached_or_fetch(
            _id_key(account_id),
            self._store.get_account,
            account_id,
            ttl_seconds=ACCOUNT_TTL_SECONDS,
            type=Account,
        )
        if account is None:
            raise NotFound("account")
        return account

    async def by_phone_number_id(self, phone_number_id: str) -> Account | None:
        return await get_cached_or_fetch(
            _number_key(phone_number_id),
            self._store.get_account_by_phone_number_id,
            phone_number_id,
            ttl_seconds=ACCOUNT_TTL_SECONDS,
            type=Account,
        )

    async def by_verify_token(self, verify_token: str) -> Account | None:
        return await get_cached_or_fetch(
            _verify_key(verify_token),
            self._store.get_account_by_verify_token,
            verify_token,
            ttl_seconds=ACCOUNT_TTL_SECONDS,
            type=Account,
        )

    async def profile(self, account_id: str) -> BotProfile:
        profile = await get_cached_or_fetch(
            _profile_key(account_id),
            self._store.get_profile,
            account_id,
            ttl_seconds=PROFILE_TTL_SECONDS,
            type=BotProfile,
        )
        if profile is None:
            raise NotFound("account")
        return profile

    async def update_profile(self, account_id: str, changes: Mapping[str, Any]) -> BotProfile:
        """Raises `InvalidInput` if it would be too large."""
        before = await self._store.get_profile(account_id)
        if before is None:
            raise NotFound("account")
        check_profile(before, changes)
        async with write_fence(_profile_key(account_id)):
            return await self._store.update_profile(account_id, changes)


def _with_digits(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The phone number as webhooks write it, so that what Meta reports about it is found."""
    number = fields.get("phone_number")
    return {**fields, "phone_number": phone_digits(number) or number} if number else dict(fields)


def _keys(account: Mapping[str, Any]) -> list[str]:
    """Under which an account with these fields is cached. The database's triggers build the same ones."""
    named = {"id": _id_key, "phone_number_id": _number_key, "verify_token": _verify_key}
    return [key_of(account[name]) for name, key_of in named.items() if name in account]


def _id_key(account_id: str) -> str:
    return f"account:id:{account_id}"


def _number_key(phone_number_id: str) -> str:
    return f"account:number:{phone_number_id}"


def _profile_key(account_id: str) -> str:
    return f"bot_profile:account_{account_id}"


def _verify_key(verify_token: str) -> str:
    # Keys are listed and logged: the digest is not the secret.
    return f"account:verify:{hashlib.sha256(verify_token.encode()).hexdigest()[:32]}"
