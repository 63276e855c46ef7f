"""Accounts and bot profiles: who owns which number, what the bot knows. Reads go through the shared cache."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.core.cache import get_cached_or_fetch, write_fence
from app.core.secrets import SecretError, TokenCipher, guessable
from app.domain.account_health import Judgement, Recorded
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from app.domain.identifiers import is_member_id
from app.domain.models import Account, BlockReason, BotProfile, Json, Member, Refusal, Role, User
from app.domain.notices import AccountNotice
from app.domain.phone import phone_digits
from app.domain.ports import AccountStore
from app.domain.profile_limits import check_profile
from app.domain.usage import AccountDay, DailyLimit, DailyLimits, Spending, Spent, Usage

logger = logging.getLogger(__name__)

PROFILE_TTL_SECONDS = 300
ACCOUNT_TTL_SECONDS = 300

CONFIRM_REFUSALS = 3
"""In a row, from the whole fleet: single refusals of a healthy token happen (Cloud API, error 190)."""

BOOTSTRAP_RETRY_SECONDS = 5.0
BOOTSTRAP_SLUG = "default"
BOOTSTRAPPER = User(id="bootstrap", is_operator=True)

ROTATE_TRIES = 5
"""Against an account whose token another call changes at the same moment."""
NO_LIMITS = DailyLimits()
BUDGET_WORDS = "the day's token budget is used up: customers get the fallback text and a person until midnight UTC"
MAX_BUDGETS_TOLD = 10_000
"""Remembered by this replica, so that it does not ask the database for each message."""

_RANK = {Role.VIEWER: 1, Role.AGENT: 2, Role.OWNER: 3}


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """What `rotate_keys` found: the slugs of each kind. `unreadable`: no key opens the token; it is left as it is."""

    rotated: tuple[str, ...]
    current: tuple[str, ...]
    unreadable: tuple[str, ...]


_ROTATIONS = tuple(field.name for field in fields(KeyRotation))


class AccountService:
    """`least_verify_bytes`: shorter verify tokens are refused, and one character repeated; 0 takes any."""

    def __init__(
        self,
        store: AccountStore,
        cipher: TokenCipher,
        *,
        limits: DailyLimits = NO_LIMITS,
        least_verify_bytes: int = 0,
    ) -> None:
        self._store = store
        self._cipher = cipher
        self._limits = limits
        self._least_verify_bytes = least_verify_bytes
        self._budgets_told: dict[str, date] = {}

    async def create(self, user: User, *, access_token: str, **fields: Any) -> Account:
        """The creator becomes the owner; the token is encrypted before it leaves this process. Raises `InvalidInput`
        for a verify token that may be guessed."""
        self._check_verify_token(fields)
        owner_id = None if user.is_operator else user.id
        # That there is no such account may be cached.
        async with write_fence(*_keys(fields)):
            return await self._store.create_account(
                access_token=self._cipher.encrypt(access_token), owner_id=owner_id, **_with_digits(fields)
            )

    async def bootstrap(self, *, phone_number_id: str, access_token: str, verify_token: str) -> None:
        """A first account from the settings, as soon as the database is there. Of an existing one only the token is
        replaced: by a setting that has changed since the last start, or if WhatsApp refuses the present token."""
        while True:
            try:
                account = await self._store.get_account_by_phone_number_id(phone_number_id)
                if account is None:
                    account = await self.create(
                        BOOTSTRAPPER, name=BOOTSTRAP_SLUG, slug=BOOTSTRAP_SLUG, phone_number_id=phone_number_id,
                        access_token=access_token, verify_token=verify_token,
                    )  # fmt: skip
                await self._renew_bootstrapped(account, access_token)
            except Conflict as exc:
                # Another replica may have been faster; else another account has the name, and the number has none.
                if await self._store.get_account_by_phone_number_id(phone_number_id) is None:
                    logger.error("no account bootstrapped", extra={"reason": str(exc), "code": exc.code})
                return
            except Unavailable as exc:
                logger.warning("no account bootstrapped yet", extra={"reason": str(exc)})
                await asyncio.sleep(BOOTSTRAP_RETRY_SECONDS)
            else:
                return

    async def _renew_bootstrapped(self, account: Account, access_token: str) -> None:
        digest = hashlib.sha256(access_token.encode()).hexdigest()
        if account.bootstrap_digest == digest:
            return
        changes = {"bootstrap_digest": digest}
        if account.bootstrap_digest is not None or account.refusals:
            changes["access_token"] = access_token
            logger.info("WHATSAPP_TOKEN replaces the account's token", extra={"account": account.id})
        await self.update(account.id, changes)

    async def update(self, account_id: str, changes: Json) -> Account:
        """Raises `NotFound`, and `InvalidInput` for a verify token that may be guessed."""
        before = await self._store.get_account(account_id)
        if before is None:
            raise NotFound("account")
        self._check_verify_token(changes)
        if "access_token" in changes:
            changes = {**changes, "access_token": self._cipher.encrypt(changes["access_token"])}
        async with write_fence(*{*_keys(asdict(before)), *_keys(changes)}):
            return await self._store.update_account(account_id, _with_digits(changes))

    def _check_verify_token(self, fields: Json) -> None:
        """Anyone may try verify tokens at the webhook, and a hit says that the account exists."""
        token = fields.get("verify_token")
        if not token or not self._least_verify_bytes:
            return
        if problem := guessable([token.encode()], least=self._least_verify_bytes):
            raise InvalidInput(f"verify_token {problem}", field="verify_token")

    async def rotate_keys(self) -> KeyRotation:
        """Encrypt every stored token with the first key. May be interrupted and repeated, and run beside replicas: a
        token that is changed meanwhile is never overwritten. Accounts that appear meanwhile are looked at too.

        Raises `Unavailable`; what was done until then is kept.
        """
        outcome: dict[str, tuple[str, str]] = {}
        while True:
            accounts = await self._store.list_accounts(user_id=None)
            left = [account for account in accounts if account.id not in outcome]
            if not left:
                break
            for account in left:
                outcome[account.id] = (await self._rotate(account), account.slug)
        kinds = {kind: tuple(slug for found, slug in outcome.values() if found == kind) for kind in _ROTATIONS}
        return KeyRotation(**kinds)

    async def _rotate(self, account: Account) -> str:
        for _ in range(ROTATE_TRIES):
            if self._cipher.is_current(account.access_token):
                return "current"
            try:
                token = self._cipher.decrypt(account.access_token)
            except SecretError:
                return "unreadable"
            try:
                async with write_fence(*_keys(asdict(account))):
                    replaced = await self._store.replace_access_token(
                        account.id, expected=account.access_token, access_token=self._cipher.encrypt(token)
                    )
            except NotFound:  # deleted meanwhile: no token is left to encrypt
                return "current"
            if replaced:
                return "rotated"
            account = await self._store.get_account(account.id) or account
        raise Unavailable("database", f"the token of {account.slug} keeps changing; try again")

    # -- WhatsApp's word on an account. Here a block begins and ends; nothing else changes that state.

    async def refused(self, account: Account, reason: BlockReason) -> Refusal:
        """A send was refused because of the account. `CONFIRM_REFUSALS` in a row, and it is blocked: shown, counted and
        alerted on, and its customers go to a person. It is tried again when its circuit lets a probe through. Raises
        `Unavailable`."""
        async with write_fence(*_keys(asdict(account))):
            refusal = await self._store.account_refused(
                account.id, access_token=account.access_token, reason=reason, confirm=CONFIRM_REFUSALS
            )
        if refusal.is_news:
            logger.warning("account blocked", extra={"account": account.id, "reason": reason})
        return refusal

    async def accepted(self, account: Account) -> None:
        """A send was accepted: counted refusals are forgotten. Never raises `Unavailable`."""
        if not account.refusals:
            return
        try:
            async with write_fence(*_keys(asdict(account))):
                was_blocked = await self._store.account_accepted(account.id, access_token=account.access_token)
        except Unavailable as exc:
            logger.warning("refusals could not be cleared", extra={"account": account.id, "reason": str(exc)})
            return
        if was_blocked:
            logger.info("account restored", extra={"account": account.id, "reason": account.blocked_reason})

    async def inspected(self, account: Account, judgement: Judgement) -> Recorded:
        """Meta was asked about the account. Where that shows that nothing can be sent it is blocked; a block that began
        so ends so. Raises `Unavailable`."""
        async with write_fence(*_keys(asdict(account))):
            recorded = await self._store.record_account_health(
                account.id, judgement, access_token=account.access_token, updated_at=account.updated_at,
                confirm=CONFIRM_REFUSALS,
            )  # fmt: skip
        if recorded.is_blocked and not recorded.was_blocked:
            logger.warning("account blocked", extra={"account": account.id, "reason": judgement.block})
        elif recorded.was_blocked and not recorded.is_blocked:
            logger.info("account restored", extra={"account": account.id, "reason": account.blocked_reason})
        return recorded

    async def noticed(self, notice: AccountNotice, at: datetime) -> tuple[str, ...]:
        """Meta reported something about an account or its number: it is kept with the account, and blocks it or ends
        its block where it says so. What it says of a template other systems are told. Returns the ids of the accounts
        it is about. Raises `Unavailable`."""
        if notice.template is not None and notice.waba_id is not None:
            return await self._store.template_notice(waba_id=notice.waba_id, template=notice.template)
        if not notice.phone_number_id and not notice.phone_number:
            return ()  # about a whole business or its templates
        kept = {
            "at": at.isoformat(),
            "field": notice.field,
            "event": notice.event,
            "words": notice.words,
            "severity": logging.getLevelName(notice.severity).lower(),
        }
        ids = await self._store.account_notice(
            phone_number_id=notice.phone_number_id,
            phone_number=notice.phone_number,
            notice=kept,
            block=notice.block,
            ends_block=notice.ends_block,
            confirm=CONFIRM_REFUSALS,
        )
        if ids and notice.block:
            logger.warning("account blocked", extra={"accounts": list(ids), "reason": notice.block})
        return ids

    async def list_for(self, user: User) -> tuple[Account, ...]:
        if user.grant is not None:
            return (await self.by_id(user.grant.account_id),)
        return await self._store.list_accounts(user_id=None if user.is_operator else user.id)

    async def spend(self, account_id: str, spent: Spent) -> None:
        """What was asked of the model in the account's name without a customer. Raises `Unavailable`."""
        await self._store.count_tokens(account_id, input_tokens=spent.input_tokens, output_tokens=spent.output_tokens)

    async def spent_today(self, accounts: Sequence[Account]) -> dict[str, AccountDay]:
        """Today (UTC) of those accounts that had an answer of the model, by id."""
        days = await self._store.account_usage([account.id for account in accounts])
        return {day.account_id: day for day in days}

    async def usage(self, account_id: str, *, days: int) -> tuple[AccountDay, ...]:
        """The last so many days (UTC), today included, the newest first; days without an answer are there, too."""
        today = datetime.now(UTC).date()
        known = {
            found.day: found
            for found in await self._store.account_usage([account_id], since=today - timedelta(days=days - 1))
        }
        every = (today - timedelta(days=ago) for ago in range(days))
        return tuple(known.get(day) or AccountDay(account_id, day, 0, 0, 0) for day in every)

    def limits_reached(self, account: Account, day: AccountDay) -> tuple[DailyLimit, ...]:
        """Of the account as a whole: its conversations may have reached theirs."""
        limits = self._limits.with_budget(account.daily_token_budget)
        return limits.reached(Usage(account=Spending(day.answers, day.input_tokens, day.output_tokens)))

    async def tell_budget(self, account: Account) -> None:
        """It has used up its budget of today: told in the log and as its last notice, once a day in the whole fleet.
        Never raises `Unavailable`."""
        now = datetime.now(UTC)
        if self._budgets_told.get(account.id) == now.date():
            return
        kept = {
            "at": now.isoformat(), "field": DailyLimit.TOKEN_BUDGET, "event": "USED_UP", "words": BUDGET_WORDS,
            "severity": "warning",
        }  # fmt: skip
        try:
            async with write_fence(*_keys(asdict(account))):
                is_first = await self._store.tell_budget(account.id, kept)
        except Unavailable as exc:
            logger.warning("a used up budget is not told yet", extra={"account": account.id, "reason": str(exc)})
            return
        if len(self._budgets_told) >= MAX_BUDGETS_TOLD:
            self._budgets_told.clear()
        self._budgets_told[account.id] = now.date()
        if is_first:
            told = {"account": account.id, "limit": str(DailyLimit.TOKEN_BUDGET)}
            logger.warning("the day's token budget is used up: the bot calls a person until midnight UTC", extra=told)

    async def authorize(self, user: User, account_id: str, needed: Role) -> Account:
        """The account, if `user` may act on it as `needed`. To a stranger it does not exist."""
        account = await self.by_id(account_id)
        if user.is_operator:
            return account
        role = await self.role(account_id, user)
        if role is None:
            raise NotFound("account")
        if _RANK[role] < _RANK[needed]:
            raise Forbidden(f"this needs the role {needed} in the account")
        return account

    async def role(self, account_id: str, user: User) -> Role | None:
        """`None` for a stranger. A key's is never looked up: no membership counts for it."""
        if user.grant is not None:
            return user.grant.role if user.grant.account_id == account_id else None
        return await self._store.get_role(account_id, user.id)

    async def members(self, user: User, account_id: str) -> tuple[Member, ...]:
        """Any member may see who else is one."""
        await self.authorize(user, account_id, Role.VIEWER)
        return await self._store.list_members(account_id)

    async def member(self, user: User, account_id: str, member_id: str) -> Member:
        """Raises `NotFound("member")`."""
        await self.authorize(user, account_id, Role.VIEWER)
        member = await self._store.get_member(account_id, member_id)
        if member is None:
            raise NotFound("member")
        return member

    async def set_member(self, user: User, account_id: str, member_id: str, role: Role) -> Member:
        """Owners give roles. Only the operator may leave an account without an owner: `Conflict("last_owner")`. Raises
        `InvalidInput` for an id that no access token can hold."""
        await self.authorize(user, account_id, Role.OWNER)
        if not is_member_id(member_id):
            raise InvalidInput("a user id has 1 to 255 letters, digits and ._:@|- (a token's `sub`)", field="user_id")
        return await self._store.add_member(account_id, member_id, role, keep_owner=not user.is_operator)

    async def remove_member(self, user: User, account_id: str, member_id: str) -> None:
        """Owners remove members, and every member may leave. Roles are not cached: the access ends with this call."""
        await self.authorize(user, account_id, Role.VIEWER if member_id == user.id else Role.OWNER)
        if await self._store.get_role(account_id, member_id) is None:
            raise NotFound("member")
        await self._store.remove_member(account_id, member_id, keep_owner=not user.is_operator)

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

    async def update_profile(self, account_id: str, changes: Mapping[str, object]) -> BotProfile:
        """Raises `InvalidInput` if it would be too large."""
        before = await self._store.get_profile(account_id)
        if before is None:
            raise NotFound("account")
        check_profile(before, changes)
        async with write_fence(_profile_key(account_id)):
            return await self._store.update_profile(account_id, changes)


def _with_digits(fields: Json) -> dict[str, Any]:
    """The phone number as webhooks write it, so that what Meta reports about it is found."""
    number = fields.get("phone_number")
    return {**fields, "phone_number": phone_digits(number) or number} if number else dict(fields)


def _keys(account: Json) -> list[str]:
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
