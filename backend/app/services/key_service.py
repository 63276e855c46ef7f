"""API keys: programs that act for one account. Owners make and revoke them; a look-up goes through the shared cache."""

from __future__ import annotations

import logging
from collections.abc import Callable

from app.core.cache import get_cached_or_fetch, write_fence
from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.api_keys import MAX_API_KEYS, PREFIX, ApiKey
from app.domain.errors import NotFound, Unauthenticated, Unavailable
from app.domain.models import Grant, Role, User
from app.domain.opaque_tokens import digest_of, is_token, new_token
from app.domain.ports import ApiKeyStore
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

KEY_TTL_SECONDS = 300
NOTE_SECONDS = 60.0
"""How often a replica writes down which keys were used."""
MAX_NOTED = 10_000


class KeyService:
    """Implements `domain.ports.TokenVerifier` for what `is_api_key` recognises."""

    def __init__(self, accounts: AccountService, store: ApiKeyStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._accounts = accounts
        self._store = store
        self._clock = clock
        self._used: set[str] = set()

    async def verify(self, token: str) -> User:
        """What the key may do. Raises `Unauthenticated`. A revoked key is unknown to every replica from the moment at
        which `revoke` returns; that a key is unknown is kept for half a minute, so that guessing costs no more than
        asking does."""
        if not is_api_key(token):
            raise Unauthenticated("this is no API key")
        digest = digest_of(token)
        key = await get_cached_or_fetch(
            _cache_key(digest), self._store.get_api_key_by_digest, digest, ttl_seconds=KEY_TTL_SECONDS, type=ApiKey
        )
        if key is None:
            raise Unauthenticated("the API key is unknown or was revoked")
        if len(self._used) < MAX_NOTED:
            self._used.add(key.id)
        return User(id=f"key:{key.id}", grant=Grant(key.account_id, key.role))

    async def create(self, user: User, account_id: str, *, name: str, role: Role) -> tuple[ApiKey, str]:
        """For owners. With the key itself, which nothing shows again. Raises `Conflict("too_many_api_keys")`."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        key = new_token(PREFIX)
        async with write_fence(_cache_key(key.digest)):
            made = await self._store.create_api_key(
                account_id, name=name, role=role, digest=key.digest, hint=key.hint, created_by=user.id,
                by_owner=not user.is_operator, most=MAX_API_KEYS,
            )  # fmt: skip
        logger.info("API key created", extra={"account": account_id, "api_key": made.id})
        return made, key.secret

    async def list_for(self, user: User, account_id: str) -> tuple[ApiKey, ...]:
        """For owners."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        return await self._store.list_api_keys(account_id)

    async def revoke(self, user: User, account_id: str, api_key_id: str) -> None:
        """For owners. Raises `NotFound("api_key")`."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        key = await self._store.get_api_key(account_id, api_key_id)
        if key is None:
            raise NotFound("api_key")
        async with write_fence(_cache_key(key.digest)):
            await self._store.delete_api_key(account_id, key.id)
        logger.info("API key revoked", extra={"account": account_id, "api_key": key.id})

    async def run(self, beat: Callable[[], None]) -> None:
        """Note once a minute which keys were used; what is not written yet goes with the replica."""
        while True:
            beat()
            await self._clock.sleep(NOTE_SECONDS)
            try:
                await self.note_uses()
            except Unavailable as exc:
                logger.warning("uses of API keys not noted", extra={"reason": str(exc)})

    async def note_uses(self) -> None:
        """Raises `Unavailable`; what could not be written is kept for the next time."""
        if used := frozenset(self._used):
            await self._store.api_keys_used(sorted(used))
            self._used -= used


def is_api_key(token: str) -> bool:
    """Has it the form of one?"""
    return is_token(token, PREFIX)


def _cache_key(digest: str) -> str:
    """The database's triggers build the same one."""
    return f"api_key:{digest}"
