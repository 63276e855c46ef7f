"""Signing in to the console: by password, by a link in a mail, or with the operator's key; and who a session is of."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import orjson

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.fleet.allowance import Allowance
from app.core.secrets import SecretError, TokenCipher
from app.core.sessions import Found, Sessions
from app.core.slots import Caller, calling_as
from app.domain.errors import Conflict, RateLimited, Unauthenticated, Unavailable
from app.domain.models import Role, User
from app.domain.ports import IdentityProvider, TokenVerifier
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 900.0
TRIES_OF_AN_ADDRESS = 30
"""Failed ones in a window; an office has one address."""
TRIES_OF_AN_EMAIL = 10
MAIL_WINDOW_SECONDS = 3600.0
MAILS_TO_AN_EMAIL = 5
MAILS_FOR_AN_ADDRESS = 30
RENEW_EARLY_SECONDS = 60.0
"""Before the access token ends."""
GRACE_SECONDS = 3600.0
"""A session whose renewal fails because Supabase is away goes on so long: an outage of theirs signs no one out."""
RENEWING_SECONDS = 6.0
LOOK_SECONDS = 0.1
OPERATOR_ID = "operator"


@dataclass(frozen=True, slots=True)
class Session:
    """`user.expires_at`: the latest end, whatever happens."""

    token: str
    user: User


@dataclass(frozen=True, slots=True)
class Access:
    """An account of the person, and their role in it; the operator is shown as an owner."""

    id: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Limits:
    """How often it may be tried, for the whole fleet."""

    tries_of_address: Allowance
    tries_of_email: Allowance
    mails_for_address: Allowance
    mails_to_email: Allowance


class SessionService:
    """`tokens_are_keys`: without Supabase, in development, the operator's key is taken as a token too (`make demo`)."""

    def __init__(
        self,
        sessions: Sessions,
        accounts: AccountService,
        cipher: TokenCipher,
        limits: Limits,
        *,
        identity: IdentityProvider | None,
        verifier: TokenVerifier | None,
        operator_key: str,
        tokens_are_keys: bool,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._cipher = cipher
        self._limits = limits
        self._identity = identity
        self._verifier = verifier
        self._operator_key = operator_key
        self._tokens_are_keys = tokens_are_keys
        self._clock = clock

    # -- signing in: each raises `Unauthenticated`, `RateLimited`, and `Unavailable` when Redis or Supabase is away

    async def with_password(self, email: str, password: str, *, address: str) -> Session:
        """Also raises `Conflict` where people cannot sign in with a password."""
        identity, email = self._provider(), email.strip().lower()

        async def sign_in() -> Session:
            try:
                with calling_as(Caller(group=address)):
                    signed_in = await identity.with_password(email, password)
            except Unauthenticated:
                what = "e-mail and password do not fit, or the e-mail is not confirmed yet"
                raise Unauthenticated(what) from None
            return await self._of_token(signed_in.access_token, signed_in.refresh_token)

        return await _counted({self._limits.tries_of_email: email, self._limits.tries_of_address: address}, sign_in)

    async def with_operator_key(self, key: str, *, address: str) -> Session:
        return await _counted({self._limits.tries_of_address: address}, partial(self._of_operator, key))

    async def with_token(self, token: str, refresh_token: str | None, *, address: str) -> Session:
        """`token`: Supabase's access token, as a link in a mail brings it. Without `refresh_token` the session ends
        with it."""
        sign_in = partial(self._of_token, token, refresh_token)
        return await _counted({self._limits.tries_of_address: address}, sign_in)

    async def send_link(self, email: str, *, address: str, back_to: str | None) -> None:
        """Raises as `with_password`. Nothing tells whether the person exists."""
        identity, email = self._provider(), email.strip().lower()
        await _take(self._limits.mails_for_address, address)
        await _take(self._limits.mails_to_email, email)
        with calling_as(Caller(group=address)):
            await identity.send_link(email, back_to=back_to)

    # -- being signed in

    async def find(self, token: str, *, is_use: bool = True) -> Session | None:
        """Whose session it is; `None`: sign in again. Raises `Unavailable`: then no one is let in. Without `is_use` the
        idle time goes on."""
        found = await self._sessions.find(token, is_use=is_use)
        if found is None:
            return None
        data = _read(found.data)
        if data["kind"] == OPERATOR_ID:
            if not secrets.compare_digest(data["key"], _digest(self._operator_key)):
                await self._sessions.close(token)  # the key was changed
                return None
        elif found.late_seconds is not None and not await self._renewed(token, found, data):
            return None
        return Session(token, _user(data, self._clock.now() + timedelta(seconds=found.ends_in_seconds)))

    async def close(self, token: str, *, everywhere: bool) -> None:
        await (self._sessions.close_all(token) if everywhere else self._sessions.close(token))

    async def accounts(self, user: User) -> list[Access]:
        """By name. Raises `Unavailable`, but to the operator: what is away is to be looked after, and the fleet's state
        needs no account."""
        try:
            accounts = await self._accounts.list_for(user)
        except Unavailable as exc:
            if not user.is_operator:
                raise
            logger.warning("the operator is signed in without the accounts", extra={"reason": str(exc)})
            return []
        if user.is_operator:
            return [Access(account.id, account.name, Role.OWNER) for account in accounts]
        roles = await asyncio.gather(*(self._accounts.role(account.id, user) for account in accounts))
        return [Access(a.id, a.name, role) for a, role in zip(accounts, roles, strict=True) if role is not None]

    # -- inside

    async def _of_operator(self, key: str) -> Session:
        if not secrets.compare_digest(key.encode(), self._operator_key.encode()):
            raise Unauthenticated("this is not the operator's key")
        data = {"kind": OPERATOR_ID, "id": OPERATOR_ID, "key": _digest(key)}
        return await self._open(data)

    async def _of_token(self, token: str, refresh_token: str | None) -> Session:
        if self._verifier is None:
            if self._tokens_are_keys:
                return await self._of_operator(token)
            raise Unauthenticated("without SUPABASE_URL there are no tokens of people")
        user = await self._verifier.verify(token)
        seconds = (user.expires_at - self._clock.now()).total_seconds() if user.expires_at else 0.0
        if refresh_token is None:
            return await self._open(_of(user, None), ends_in_seconds=max(seconds, 1.0))
        return await self._open(_of(user, self._cipher.encrypt(refresh_token)), renew_seconds=seconds)

    async def _open(
        self, data: Mapping[str, str], *, renew_seconds: float = 0, ends_in_seconds: float | None = None
    ) -> Session:
        token = await self._sessions.open(
            f"{data['kind']}:{data['id']}", orjson.dumps(data),
            renew_seconds=max(1.0, renew_seconds - RENEW_EARLY_SECONDS) if renew_seconds else 0,
            ends_in_seconds=ends_in_seconds,
        )  # fmt: skip
        lasts = min(self._sessions.longest_seconds, ends_in_seconds or self._sessions.longest_seconds)
        return Session(token, _user(data, self._clock.now() + timedelta(seconds=lasts)))

    async def _renewed(self, token: str, found: Found, data: Mapping[str, str]) -> bool:
        """Does the person still have access? One request of the whole fleet asks Supabase, the others go on."""
        late = found.late_seconds or 0.0
        if not found.renew:
            return late < GRACE_SECONDS or await self._renewed_elsewhere(token)
        try:
            renewed = await self._provider().refresh(self._cipher.decrypt(data["refresh"]))
            user = await self._verified(renewed.access_token)
        except (Unavailable, RateLimited) as exc:
            if late < GRACE_SECONDS:
                logger.warning("a session could not be renewed", extra={"reason": str(exc)})
                return True
            raise
        except (Unauthenticated, SecretError, Conflict):
            user = None
        if user is None or user.id != data["id"]:
            await self._sessions.close(token)
            return False
        kept = _of(user, self._cipher.encrypt(renewed.refresh_token))
        seconds = max(1.0, renewed.seconds - RENEW_EARLY_SECONDS)
        await self._sessions.replace(token, orjson.dumps(kept), renew_seconds=seconds)
        return True

    async def _renewed_elsewhere(self, token: str) -> bool:
        """A page that was left open overnight asks for several things at once: one of them renews."""
        for _ in range(round(RENEWING_SECONDS / LOOK_SECONDS)):
            await self._clock.sleep(LOOK_SECONDS)
            found = await self._sessions.find(token, is_use=False)  # the first look was the use
            if found is None or found.late_seconds is None:
                return found is not None
        raise Unavailable("supabase", "supabase: the session could not be renewed")

    async def _verified(self, access_token: str) -> User:
        if self._verifier is None:
            raise Unauthenticated("without SUPABASE_URL there are no tokens of people")
        return await self._verifier.verify(access_token)

    def _provider(self) -> IdentityProvider:
        if self._identity is None:
            raise Conflict(
                "sign_in_not_configured",
                "people cannot sign in here: SUPABASE_URL needs SUPABASE_PUBLISHABLE_KEY, or SUPABASE_KEY, beside it",
            )
        return self._identity


def _of(user: User, refresh: str | None) -> dict[str, str]:
    data = {"kind": "member", "id": user.id}
    if user.email:
        data["email"] = user.email
    if user.is_anonymous:
        data["anonymous"] = "1"
    if refresh:
        data["refresh"] = refresh
    return data


def _user(data: Mapping[str, str], expires_at: datetime) -> User:
    return User(
        id=data["id"],
        is_operator=data["kind"] == OPERATOR_ID,
        is_anonymous="anonymous" in data,
        email=data.get("email"),
        expires_at=expires_at,
    )


def _read(data: bytes) -> dict[str, str]:
    found: dict[str, str] = orjson.loads(data)
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def _counted(counts: Mapping[Allowance, str], sign_in: Callable[[], Awaitable[Session]]) -> Session:
    """Only a try with wrong credentials counts: one that an allowance refuses takes nothing from the others."""
    taken: dict[Allowance, str] = {}
    is_wrong = False
    try:
        for allowance, name in counts.items():
            await _take(allowance, name)
            taken[allowance] = name
        return await sign_in()
    except Unauthenticated:
        is_wrong = True
        raise
    finally:
        if not is_wrong:
            for allowance, name in taken.items():
                with suppress(Unavailable):
                    await allowance.give_back(name)


async def _take(allowance: Allowance, name: str) -> None:
    if wait := await allowance.take(name):
        raise RateLimited("too many attempts to sign in", retry_after=wait)
