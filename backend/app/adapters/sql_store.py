"""The store port over SQL functions: `public.chorus_<operation>(p jsonb) returns jsonb` (infra/supabase/migrations).

What differs between a direct connection and REST is one method, `_execute`. Everything else is here: what goes in,
what comes out, what each error means, and that every call runs under deadline, retry, breaker and time limit.

Every operation may be repeated. Those that would not be by nature carry an id of the call (`create_account`,
`begin_part`), so that a repetition after a lost answer finds what the first one did.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter

from app.adapters.database_trouble import SHARED_BY, DatabaseUnavailable, Trouble, Turns, takes_no_writes
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.deadline import Deadline
from app.core.errors import SharedBy
from app.core.event import Event
from app.core.resilience import ResiliencePolicy
from app.core.slots import CALLER
from app.domain.account_health import AccountHealth, HealthRound, Judgement, Recorded
from app.domain.api_keys import ApiKey
from app.domain.audit import ACTOR, AuditEntry
from app.domain.endpoints import (
    Delivery,
    Endpoint,
    FailingEndpoint,
    Load,
    Loaded,
    OutboxEvent,
    OutboxPage,
    Settled,
    Settlement,
    Waybill,
)
from app.domain.errors import Conflict, Erased, Fenced, InvalidInput, NotFound
from app.domain.invitations import Invitation, Membership
from app.domain.media import Announced, Media
from app.domain.models import (
    EVERY_CONVERSATION,
    Account,
    Author,
    Background,
    BlockedAccounts,
    BlockReason,
    BotProfile,
    CallerRights,
    ContactExport,
    ContactTraces,
    Conversation,
    ConversationCounts,
    ConversationFilter,
    DatabaseHistory,
    Fallback,
    Handover,
    HandoverNotice,
    HandoverReason,
    Inbound,
    InboundMessage,
    InboxState,
    Invalidation,
    Json,
    Member,
    Message,
    NoticeOutcome,
    OpenedAnswer,
    Opening,
    Page,
    Refusal,
    Reply,
    Role,
    Status,
    TableSecurity,
    Turn,
    Unanswered,
    Waiting,
)
from app.domain.ports import OpenedMedia, SendDecision, Store
from app.domain.usage import AccountDay, Spent, Usage

T = TypeVar("T")

ERASED_CODE = "CH001"
"""Raised by a trigger, whichever function would store what was erased."""
ERASED_WORDS = "this message was erased"
"""The same error's message. Not every REST interface hands on a code that is none of PostgreSQL's own."""
ERASED: Json = {"error": "erased"}

CALL_SECONDS = 10.0
"""For one operation, retries included."""
TROUBLE_SECONDS = 4.0
"""How long a call that failed is told of by `trouble`: longer than the pause between two looks."""
EVERY_GROUP = "*"
MAX_PAGE = 200
INBOX_BREAKER = BreakerPolicy(5, 1.0, max_open_seconds=1.0, success_threshold=1)

_ACCOUNT = TypeAdapter(Account)
_ACCOUNT_DAYS = TypeAdapter(tuple[AccountDay, ...])
_ACCOUNT_HEALTH = TypeAdapter(AccountHealth)
_ACCOUNTS = TypeAdapter(tuple[Account, ...])
_API_KEY = TypeAdapter(ApiKey)
_API_KEYS = TypeAdapter(tuple[ApiKey, ...])
_AUDIT_ENTRY = TypeAdapter(AuditEntry)
_BLOCKED = TypeAdapter(BlockedAccounts)
_CONVERSATION = TypeAdapter(Conversation)
_COUNTS = TypeAdapter(ConversationCounts)
_TRACES = TypeAdapter(ContactTraces)
_EXPORT = TypeAdapter(ContactExport)
_DELIVERIES = TypeAdapter(tuple[Delivery, ...])
_ENDPOINT = TypeAdapter(Endpoint)
_ENDPOINTS = TypeAdapter(tuple[Endpoint, ...])
_EVENTS = TypeAdapter(tuple[OutboxEvent, ...])
_HEALTH_ROUND = TypeAdapter(HealthRound)
_HISTORY = TypeAdapter(DatabaseHistory)
_INBOUND = TypeAdapter(Inbound)
_INVALIDATIONS = TypeAdapter(tuple[Invalidation, ...])
_MEDIA = TypeAdapter(Media)
_MEDIA_BY_ID = TypeAdapter(dict[str, Media])
_MEDIA_FILES = TypeAdapter(tuple[Media, ...])
_INVITATION = TypeAdapter(Invitation)
_INVITATIONS = TypeAdapter(tuple[Invitation, ...])
_MEMBER = TypeAdapter(Member)
_MEMBERS = TypeAdapter(tuple[Member, ...])
_MEMBERSHIP = TypeAdapter(Membership)
_MESSAGE = TypeAdapter(Message)
_NOTICES = TypeAdapter(tuple[HandoverNotice, ...])
_PROFILE = TypeAdapter(BotProfile)
_RECORDED = TypeAdapter(Recorded)
_REPLY = TypeAdapter(Reply)
_RIGHTS = TypeAdapter(CallerRights)
_SETTLED = TypeAdapter(Settled)
_TABLES = TypeAdapter(dict[str, TableSecurity])
_TURNS = TypeAdapter(tuple[Turn, ...])
_UNANSWERED = TypeAdapter(tuple[Unanswered, ...])
_USAGE = TypeAdapter(Usage)
_WAITING = TypeAdapter(tuple[Waiting, ...])
_OUTBOX_PAGE = TypeAdapter(OutboxPage)
_FAILING = TypeAdapter(tuple[FailingEndpoint, ...])
_WAYBILLS = TypeAdapter(tuple[Waybill, ...])

_PROFILE_CHANGES = {f.name for f in fields(BotProfile)} - {"account_id", "updated_at"}
_ACCOUNT_CHANGES = {f.name for f in fields(Account)} - {
    "id", "created_at", "updated_at", "refusals", "blocked_reason", "blocked_since",
}  # fmt: skip

_ENDPOINT_CHANGES = {"url", "events", "enabled", "secret", "overlap_seconds"}

_RECORDS_A_SEND = frozenset({"complete_part", "fail_part"})
"""What WhatsApp said must not be forgotten because of us: neither a full bulkhead nor an open circuit keeps it back.
The caller repeats it (`services/delivery.py`)."""
_AUDITED = frozenset({
    "accept_invitation", "create_account", "create_api_key", "create_endpoint", "create_invitation", "delete_api_key",
    "delete_endpoint", "delete_invitation", "erase_contact", "note_change", "remove_member", "replace_access_token",
    "replace_endpoint_secret", "set_member", "update_account", "update_endpoint", "update_profile",
})  # fmt: skip
"""They tell the database who asks for it."""
_ABOUT_THE_SCHEMA = frozenset({"applied_migrations", "database_identity", "schema_version"})

CONFLICTS = {
    "last_owner": "the account would have no owner left",
    "inbox_full": "as many events wait in the inbox as may",
    "overflow_full": "as many events wait in the overflow as may",
    "journal_full": "as many events wait in the journal as may",
    "invitation_expired": "the invitation has expired; ask for another one",
    "invitation_used": "the invitation was used; ask for another one",
    "too_many_invitations": "as many invitations of the account are open as may be",
    "too_many_api_keys": "the account has as many API keys as it may",
    "too_many_webhooks": "the account has as many webhooks as it may",
    "slug_taken": "another account has this slug",
    "phone_number_id_taken": "another account has this phone_number_id",
    "reply_key_taken": "this key belongs to a reply in another conversation",
    "covered_elsewhere": "another reply answers some of these messages",
}


OnChanges = Callable[[Sequence[Json]], None]


def ignore_changes(_changes: Sequence[Json]) -> None:
    """Of a process that has no readers."""


class SqlStore(Store):
    """The whole port, less the way to the database."""

    def __init__(self, policy: ResiliencePolicy, on_changes: OnChanges = ignore_changes) -> None:
        """`on_changes` hears what a call has changed, after its commit."""
        self._policy = policy
        self._on_changes = on_changes
        # Webhooks wait behind it, each for less than a second: refusing them for as long as the others' circuit is
        # open, half a minute, would make a moment without Redis an outage of ingest.
        self._inbox_policy = policy.behind(CircuitBreaker("supabase_inbox", INBOX_BREAKER, dependency="database"))
        self._turns = Turns()
        self._noted_trouble: tuple[DatabaseUnavailable, float] | None = None
        self._record_policy = policy.insistent()
        self._ping_policy = policy.urgent()
        # A replica must know what the schema is before its other calls go through again.
        self._schema_policy = policy.behind(CircuitBreaker("supabase_schema", INBOX_BREAKER, dependency="database"))

    @abstractmethod
    async def _execute(self, function: str, body: bytes) -> object:
        """Call `public.<function>` with the JSON `body`, once; its parsed answer, `ERASED` for SQLSTATE `ERASED_CODE`.
        Raises `DatabaseUnavailable`."""

    async def _call(self, operation: str, /, **p: Any) -> Any:
        deadline = Deadline.after(CALL_SECONDS)
        function = f"chorus_{operation}"
        if operation in _AUDITED and (actor := ACTOR.get()):
            function, p = "chorus_as", {"actor": actor, "operation": operation, "p": p}
        try:
            answer = await self._policy_of(operation).call(self._execute, function, _encode(p), deadline=deadline)
        except DatabaseUnavailable as exc:
            self._noted_trouble = exc, time.monotonic()
            if shared_by := SHARED_BY.get(exc.trouble):
                exc.shared_by, group = shared_by, CALLER.get().group
                exc.retry_after = self._turns.delay_seconds(
                    EVERY_GROUP if group and shared_by is SharedBy.ALL else group
                )
            raise
        match answer:
            case {"ok": value, "changes": [*changes]}:
                self._on_changes(changes)
                return value
            case {"ok": value}:
                return value
            case {"error": "fenced"}:
                raise Fenced("a newer claim on the conversation has written")
            case {"error": "erased"}:
                raise Erased("the customer was erased while this was on its way")
            case {"error": "not_found", "what": str(what)}:
                raise NotFound(what)
            case {"error": "conflict", "code": str(code)}:
                raise Conflict(code, CONFLICTS[code])
            case answer:
                raise TypeError(f"chorus_{operation} answered {type(answer).__name__} in no known form")

    def _policy_of(self, operation: str) -> ResiliencePolicy:
        if operation.startswith(("inbox_", "journal_", "overflow_put")):
            return self._inbox_policy
        if operation in _RECORDS_A_SEND:
            return self._record_policy
        if operation == "ping":
            return self._ping_policy
        return self._schema_policy if operation in _ABOUT_THE_SCHEMA else self._policy

    # -- what the database remembers for the caches ----------------------------------------------------------------

    async def pending_invalidations(self, *, limit: int) -> tuple[Invalidation, ...]:
        return _INVALIDATIONS.validate_python(await self._call("pending_invalidations", limit=limit))

    async def settle_invalidations(self, ids: Sequence[int]) -> None:
        await self._call("settle_invalidations", ids=ids)

    async def wait_for_invalidations(self, timeout_seconds: float) -> None:
        """The database notifies only where a session can listen."""
        await asyncio.sleep(timeout_seconds)

    async def ignore_invalidations(self) -> None:
        """There is no session that listens."""

    # -- inbox ---------------------------------------------------------------------------------------------------

    async def inbox_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int, reopen: bool
    ) -> tuple[InboxState, int, tuple[Event, ...]]:
        answer = await self._call(
            "inbox_put", events=_event_rows(events), max_rows=max_rows, max_bytes=max_bytes, reopen=reopen
        )
        return InboxState(answer["state"]), answer["stored"], tuple(events[at] for at in answer["diverted"])

    async def inbox_state(self) -> InboxState:
        return InboxState(await self._call("inbox_state"))

    async def inbox_close(self) -> InboxState:
        return InboxState(await self._call("inbox_close"))

    async def inbox_peek(self, *, limit: int) -> list[tuple[int, Event]]:
        return _events(await self._call("inbox_peek", limit=limit))

    async def inbox_delete(self, rows: Sequence[int]) -> None:
        await self._call("inbox_delete", rows=rows)

    # -- what found no room in the queue, and what waits for an answer ---------------------------------------------

    async def overflow_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int
    ) -> tuple[int, tuple[Event, ...]]:
        answer = await self._call("overflow_put", events=_event_rows(events), max_rows=max_rows, max_bytes=max_bytes)
        return answer["stored"], tuple(events[at] for at in answer["refused"])

    async def overflow_peek(self, *, limit: int) -> list[tuple[int, Event]]:
        return _events(await self._call("overflow_peek", limit=limit))

    async def overflow_delete(self, rows: Sequence[int]) -> None:
        await self._call("overflow_delete", rows=rows)

    async def waiting_conversations(
        self, *, older_than_seconds: float, limit: int, after: Waiting | None
    ) -> tuple[Waiting, ...]:
        rows = await self._call(
            "waiting_conversations", older_than_seconds=older_than_seconds, limit=limit,
            after_at=after and after.awaiting_since, after_id=after and after.conversation_id,
        )  # fmt: skip
        return _WAITING.validate_python(rows)

    async def unanswered(self, conversation_ids: Sequence[str], *, fresh_seconds: float) -> tuple[Unanswered, ...]:
        rows = await self._call("unanswered", conversation_ids=conversation_ids, fresh_seconds=fresh_seconds)
        return _UNANSWERED.validate_python(rows)

    async def stop_waiting(self, conversations: Sequence[Waiting]) -> None:
        seen = [{"conversation_id": c.conversation_id, "last_message_at": c.last_message_at} for c in conversations]
        await self._call("stop_waiting", conversations=seen)

    async def database_history(self) -> DatabaseHistory | None:
        return _optional(_HISTORY, await self._call("database_history"))

    # -- journal -------------------------------------------------------------------------------------------------

    async def journal_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int
    ) -> tuple[int, tuple[Event, ...]]:
        answer = await self._call("journal_put", events=_event_rows(events), max_rows=max_rows, max_bytes=max_bytes)
        return answer["stored"], tuple(events[at] for at in answer["diverted"])

    async def journal_begin(self, *, life: str, keep_seconds: float) -> int:
        again: int = await self._call("journal_begin", life=life, keep_seconds=keep_seconds)
        return again

    async def journal_next(self, *, after: int, limit: int) -> list[tuple[int, Event]]:
        return _events(await self._call("journal_next", after=after, limit=limit))

    async def journal_moved(self, rows: Sequence[int], *, life: str) -> None:
        await self._call("journal_moved", rows=rows, life=life)

    async def journal_bury(self, rows: Sequence[int], *, life: str, keep: int) -> None:
        await self._call("journal_bury", rows=rows, life=life, keep=keep)

    async def journal_settle(self, rows: Sequence[int]) -> None:
        await self._call("journal_settle", rows=rows)

    def trouble(self) -> str | None:
        if self._noted_trouble is None:
            return None
        exc, at = self._noted_trouble
        return str(exc) if exc.trouble in SHARED_BY and time.monotonic() - at < TROUBLE_SECONDS else None

    async def ping(self) -> bool:
        return bool(await self._call("ping"))

    def silent_seconds(self) -> float:
        return self._policy.silent_seconds()

    async def probe(self) -> None:
        if await self._policy.look(self._execute, "chorus_ping", _encode({})) == {"ok": False}:
            raise takes_no_writes()

    async def applied_migrations(self) -> tuple[str, ...]:
        try:
            return tuple(await self._call("applied_migrations"))
        except DatabaseUnavailable as exc:
            if exc.trouble is not Trouble.NOT_MIGRATED:
                raise
            return ()

    async def database_identity(self) -> str:
        identity: str = await self._call("database_identity")
        return identity

    async def schema_version(self) -> str | None:
        version: str | None = await self._call("schema_version")
        return version

    async def caller_rights(self) -> CallerRights:
        return _RIGHTS.validate_python(await self._call("caller_rights"))

    async def row_security(self) -> Mapping[str, TableSecurity]:
        return _TABLES.validate_python(await self._call("row_security"))

    # -- accounts ------------------------------------------------------------------------------------------------

    async def create_account(
        self,
        *,
        name: str,
        slug: str,
        phone_number_id: str,
        access_token: str,
        verify_token: str,
        phone_number: str | None = None,
        bot_auto_on: bool = True,
        owner_id: str | None = None,
        app_id: str | None = None,
    ) -> Account:
        account = await self._call(
            "create_account", id=str(uuid.uuid4()), name=name, slug=slug, phone_number_id=phone_number_id,
            access_token=access_token, verify_token=verify_token, phone_number=phone_number, bot_auto_on=bot_auto_on,
            owner_id=owner_id, app_id=app_id,
        )  # fmt: skip
        return _ACCOUNT.validate_python(account)

    async def update_account(self, account_id: str, changes: Mapping[str, object]) -> Account:
        _check_known(changes, _ACCOUNT_CHANGES)
        return _ACCOUNT.validate_python(await self._call("update_account", account_id=account_id, changes=changes))

    async def replace_access_token(self, account_id: str, *, expected: str, access_token: str) -> bool:
        replaced: bool = await self._call(
            "replace_access_token", account_id=account_id, expected=expected, access_token=access_token
        )
        return replaced

    async def account_refused(
        self, account_id: str, *, access_token: str, reason: BlockReason, confirm: int
    ) -> Refusal:
        answer = await self._call(
            "account_refused", account_id=account_id, access_token=access_token, reason=reason, confirm=confirm
        )
        return Refusal(is_current=answer["known"], is_blocked=answer["blocked"], is_news=answer["changed"])

    async def account_accepted(self, account_id: str, *, access_token: str) -> bool:
        was_blocked: bool = await self._call("account_accepted", account_id=account_id, access_token=access_token)
        return was_blocked

    async def account_notice(
        self,
        *,
        phone_number_id: str | None,
        phone_number: str | None,
        notice: Json,
        block: BlockReason | None,
        ends_block: bool,
        confirm: int,
    ) -> tuple[str, ...]:
        ids = await self._call(
            "account_notice", phone_number_id=phone_number_id, phone_number=phone_number, notice=notice, block=block,
            ends_block=ends_block, confirm=confirm,
        )  # fmt: skip
        return tuple(ids)

    async def template_notice(self, *, waba_id: str, template: Json) -> tuple[str, ...]:
        return tuple(await self._call("template_notice", waba_id=waba_id, template=template))

    async def blocked_accounts(self, *, limit: int) -> BlockedAccounts:
        return _BLOCKED.validate_python(await self._call("blocked_accounts", limit=limit))

    async def account_health_round(self, *, limit: int, every_seconds: float, again_seconds: float) -> HealthRound:
        found = await self._call(
            "account_health_round", limit=limit, every_seconds=every_seconds, again_seconds=again_seconds
        )
        return _HEALTH_ROUND.validate_python(found)

    async def account_health(self, account_id: str) -> AccountHealth:
        return _ACCOUNT_HEALTH.validate_python(await self._call("account_health", account_id=account_id))

    async def record_account_health(
        self, account_id: str, judgement: Judgement, *, access_token: str, updated_at: datetime, confirm: int
    ) -> Recorded:
        recorded = await self._call(
            "record_account_health", account_id=account_id, access_token=access_token, verdict=judgement.verdict,
            reason=judgement.reason, block=judgement.block, report=judgement.report, failure=judgement.failure,
            updated_at=updated_at, confirm=confirm,
        )  # fmt: skip
        return _RECORDED.validate_python(recorded)

    async def get_account(self, account_id: str) -> Account | None:
        return _optional(_ACCOUNT, await self._call("get_account", account_id=account_id))

    async def get_account_by_phone_number_id(self, phone_number_id: str) -> Account | None:
        account = await self._call("get_account_by_phone_number_id", phone_number_id=phone_number_id)
        return _optional(_ACCOUNT, account)

    async def get_account_by_verify_token(self, verify_token: str) -> Account | None:
        return _optional(_ACCOUNT, await self._call("get_account_by_verify_token", verify_token=verify_token))

    async def list_accounts(self, *, user_id: str | None) -> tuple[Account, ...]:
        return _ACCOUNTS.validate_python(await self._call("list_accounts", user_id=user_id))

    async def add_member(self, account_id: str, user_id: str, role: Role, *, keep_owner: bool = False) -> Member:
        member = await self._call(
            "set_member", account_id=account_id, user_id=user_id, role=role, keep_owner=keep_owner
        )
        return _MEMBER.validate_python(member)

    async def remove_member(self, account_id: str, user_id: str, *, keep_owner: bool = False) -> None:
        await self._call("remove_member", account_id=account_id, user_id=user_id, keep_owner=keep_owner)

    async def list_members(self, account_id: str) -> tuple[Member, ...]:
        return _MEMBERS.validate_python(await self._call("list_members", account_id=account_id, user_id=None))

    async def get_member(self, account_id: str, user_id: str) -> Member | None:
        found = await self._call("list_members", account_id=account_id, user_id=user_id)
        return _optional(_MEMBER, next(iter(found), None))

    async def get_role(self, account_id: str, user_id: str) -> Role | None:
        role = await self._call("get_role", account_id=account_id, user_id=user_id)
        return None if role is None else Role(role)

    async def get_profile(self, account_id: str) -> BotProfile | None:
        profile = await self._call("get_profile", account_id=account_id)
        return None if profile is None else _profile(profile)

    async def update_profile(self, account_id: str, changes: Json) -> BotProfile:
        _check_known(changes, _PROFILE_CHANGES)
        return _profile(await self._call("update_profile", account_id=account_id, changes=changes))

    async def account_usage(self, account_ids: Sequence[str], *, since: date | None = None) -> tuple[AccountDay, ...]:
        return _ACCOUNT_DAYS.validate_python(await self._call("account_usage", account_ids=account_ids, since=since))

    async def count_tokens(self, account_id: str, *, input_tokens: int, output_tokens: int) -> None:
        await self._call("count_tokens", account_id=account_id, input_tokens=input_tokens, output_tokens=output_tokens)

    async def tell_budget(self, account_id: str, notice: Mapping[str, object]) -> bool:
        is_first: bool = await self._call("tell_budget", account_id=account_id, notice=notice)
        return is_first

    # -- API keys ------------------------------------------------------------------------------------------------

    async def create_api_key(
        self, account_id: str, *, name: str, role: Role, digest: str, hint: str, created_by: str, by_owner: bool,
        most: int,
    ) -> ApiKey:  # fmt: skip
        made = await self._call(
            "create_api_key", id=str(uuid.uuid4()), account_id=account_id, name=name, role=role, digest=digest,
            hint=hint, created_by=created_by, by_owner=by_owner, most=most,
        )  # fmt: skip
        return _API_KEY.validate_python(made)

    async def list_api_keys(self, account_id: str) -> tuple[ApiKey, ...]:
        return _API_KEYS.validate_python(await self._call("list_api_keys", account_id=account_id, api_key_id=None))

    async def get_api_key(self, account_id: str, api_key_id: str) -> ApiKey | None:
        found = await self._call("list_api_keys", account_id=account_id, api_key_id=api_key_id)
        return _optional(_API_KEY, next(iter(found), None))

    async def get_api_key_by_digest(self, digest: str) -> ApiKey | None:
        return _optional(_API_KEY, await self._call("get_api_key_by_digest", digest=digest))

    async def delete_api_key(self, account_id: str, api_key_id: str) -> None:
        await self._call("delete_api_key", account_id=account_id, api_key_id=api_key_id)

    async def api_keys_used(self, ids: Sequence[str]) -> None:
        await self._call("api_keys_used", ids=ids)

    # -- invitations ---------------------------------------------------------------------------------------------

    async def create_invitation(
        self, account_id: str, *, role: Role, digest: str, created_by: str, by_owner: bool, valid_seconds: float,
        most: int,
    ) -> Invitation:  # fmt: skip
        made = await self._call(
            "create_invitation", id=str(uuid.uuid4()), account_id=account_id, role=role, digest=digest,
            created_by=created_by, by_owner=by_owner, valid_seconds=valid_seconds, most=most,
        )  # fmt: skip
        return _INVITATION.validate_python(made)

    async def list_invitations(self, account_id: str) -> tuple[Invitation, ...]:
        found = await self._call("list_invitations", account_id=account_id, invitation_id=None)
        return _INVITATIONS.validate_python(found)

    async def get_invitation(self, account_id: str, invitation_id: str) -> Invitation | None:
        found = await self._call("list_invitations", account_id=account_id, invitation_id=invitation_id)
        return _optional(_INVITATION, next(iter(found), None))

    async def delete_invitation(self, account_id: str, invitation_id: str) -> None:
        await self._call("delete_invitation", account_id=account_id, invitation_id=invitation_id)

    async def accept_invitation(self, digest: str, user_id: str) -> Membership:
        return _MEMBERSHIP.validate_python(await self._call("accept_invitation", digest=digest, user_id=user_id))

    # -- audit trail ---------------------------------------------------------------------------------------------

    async def note_change(
        self, action: str, subject: str, changes: Json, *, phone_number_id: str | None = None
    ) -> None:
        await self._call(
            "note_change", action=action, subject=subject, changes=changes, phone_number_id=phone_number_id
        )

    async def list_audit(self, account_id: str | None, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        before = _decode_sequence(cursor)
        size = _page_size(limit)
        rows = await self._call("list_audit", account_id=account_id, limit=size + 1, before=before)
        return _page(_AUDIT_ENTRY, rows, size, lambda item, _row: str(item.id))

    async def forget_audit(self, *, keep_seconds: float, limit: int) -> int:
        gone: int = await self._call("forget_audit", keep_seconds=keep_seconds, limit=limit)
        return gone

    # -- events for other systems ----------------------------------------------------------------------------------

    async def create_endpoint(
        self, account_id: str, *, url: str, events: Sequence[str], secret: str, most: int
    ) -> Endpoint:
        made = await self._call(
            "create_endpoint", id=str(uuid.uuid4()), account_id=account_id, url=url, events=events, secret=secret,
            most=most,
        )  # fmt: skip
        return _ENDPOINT.validate_python(made)

    async def list_endpoints(self, account_id: str) -> tuple[Endpoint, ...]:
        found = await self._call("list_endpoints", account_id=account_id, endpoint_id=None)
        return _ENDPOINTS.validate_python(found)

    async def get_endpoint(self, account_id: str, endpoint_id: str) -> Endpoint | None:
        found = await self._call("list_endpoints", account_id=account_id, endpoint_id=endpoint_id)
        return _optional(_ENDPOINT, next(iter(found), None))

    async def update_endpoint(self, account_id: str, endpoint_id: str, changes: Mapping[str, object]) -> Endpoint:
        _check_known(changes, _ENDPOINT_CHANGES)
        changed = await self._call(
            "update_endpoint", account_id=account_id, endpoint_id=endpoint_id, changes=dict(changes)
        )
        return _ENDPOINT.validate_python(changed)

    async def delete_endpoint(self, account_id: str, endpoint_id: str) -> None:
        await self._call("delete_endpoint", account_id=account_id, endpoint_id=endpoint_id)

    async def list_deliveries(self, endpoint_id: str, *, limit: int) -> tuple[Delivery, ...]:
        found = await self._call("list_deliveries", endpoint_id=endpoint_id, limit=_page_size(limit))
        return _DELIVERIES.validate_python(found)

    async def endpoint_secrets(self, *, after: str | None, limit: int) -> tuple[tuple[str, str], ...]:
        found = await self._call("endpoint_secrets", after=after, limit=limit)
        return tuple((row["id"], row["secret"]) for row in found)

    async def replace_endpoint_secret(self, endpoint_id: str, *, expected: str, secret: str) -> bool:
        replaced: bool = await self._call(
            "replace_endpoint_secret", endpoint_id=endpoint_id, expected=expected, secret=secret
        )
        return replaced

    async def outbox_next(self, *, limit: int) -> OutboxPage:
        return _OUTBOX_PAGE.validate_python(await self._call("outbox_next", limit=limit))

    async def outbox_oldest_seconds(self) -> float:
        return float(await self._call("outbox_oldest"))

    async def outbox_moved(self, ids: Sequence[str], *, life: str, held: Sequence[tuple[str, str]] = ()) -> None:
        pairs = [{"event_id": event, "endpoint_id": endpoint} for event, endpoint in held]
        await self._call("outbox_moved", ids=ids, life=life, held=pairs)

    async def outbox_held(self, endpoint_id: str, *, limit: int) -> tuple[Waybill, ...]:
        return _WAYBILLS.validate_python(await self._call("outbox_held", endpoint_id=endpoint_id, limit=limit))

    async def outbox_unhold(self, endpoint_id: str, ids: Sequence[str]) -> None:
        await self._call("outbox_unhold", endpoint_id=endpoint_id, ids=ids)

    async def wait_for_events(self, timeout_seconds: float) -> None:
        """The database notifies only where a session can listen."""
        await asyncio.sleep(timeout_seconds)

    async def ignore_events(self) -> None:
        """There is no session that listens."""

    async def mute_events(self) -> bool:
        return False

    async def unmute_events(self) -> None:
        """Nothing is muted."""

    async def failing_endpoints(self, *, limit: int) -> tuple[FailingEndpoint, ...]:
        return _FAILING.validate_python(await self._call("failing_endpoints", limit=limit))

    async def outbox_begin(self, *, life: str, keep_seconds: float, limit: int) -> tuple[int, int]:
        answer = await self._call("outbox_begin", life=life, keep_seconds=keep_seconds, limit=limit)
        return answer["again"], answer["gone"]

    async def outbox_work(
        self, settlements: Sequence[Settlement], loads: Sequence[Load]
    ) -> tuple[tuple[Settled, ...], tuple[Loaded, ...]]:
        done = await self._call(
            "outbox_work", settlements=[_settlement(each) for each in settlements],
            loads=[{"endpoint_id": each.endpoint_id, "ids": each.ids} for each in loads],
        )  # fmt: skip
        loaded = (Loaded(_optional(_ENDPOINT, each["endpoint"]), _EVENTS.validate_python(each["events"]))
                  for each in done["loaded"])  # fmt: skip
        return tuple(_SETTLED.validate_python(each) for each in done["settled"]), tuple(loaded)

    # -- files ---------------------------------------------------------------------------------------------------

    async def open_media(self, account_id: str, files: Sequence[Announced], *, quoted: Sequence[str]) -> OpenedMedia:
        opened = await self._call("open_media", account_id=account_id, files=files, quoted=quoted)
        return OpenedMedia(_MEDIA_FILES.validate_python(opened["files"]), opened["quoted"])

    async def create_media(self, media_id: str, *, account_id: str, kind: str, mime: str, name: str | None) -> Media:
        made = await self._call("create_media", id=media_id, account_id=account_id, kind=kind, mime=mime, name=name)
        return _MEDIA.validate_python(made)

    async def settle_media(
        self, media_id: str, state: str, *, sha256: str | None = None, size: int | None = None, mime: str | None = None
    ) -> bool:
        is_there: bool = await self._call(
            "settle_media", media_id=media_id, state=state, sha256=sha256, size=size, mime=mime
        )
        return is_there

    async def describe_media(self, files: Sequence[tuple[str, str, str]]) -> None:
        rows = [{"media_id": id_, "description": description, "text": text} for id_, description, text in files]
        await self._call("describe_media", files=rows)

    async def get_media(self, message_id: str) -> Media | None:
        return _optional(_MEDIA, await self._call("get_media", message_id=message_id))

    async def media_of(self, message_ids: Sequence[str]) -> Mapping[str, Media]:
        return _MEDIA_BY_ID.validate_python(await self._call("media_of", message_ids=message_ids))

    async def media_to_send(self, media_id: str) -> Media | None:
        return _optional(_MEDIA, await self._call("media_to_send", media_id=media_id))

    async def expire_media(self, *, keep_seconds: float, loose_seconds: float, limit: int) -> int:
        found: int = await self._call(
            "expire_media", keep_seconds=keep_seconds, loose_seconds=loose_seconds, limit=limit
        )
        return found

    async def media_leftovers(self, *, limit: int) -> tuple[str, ...]:
        return tuple(await self._call("media_leftovers", limit=limit))

    async def settle_leftovers(self, media_ids: Sequence[str]) -> None:
        await self._call("settle_leftovers", media_ids=media_ids)

    async def put_media_chunk(self, media_id: str, position: int, content: bytes) -> bool:
        taken: bool = await self._call(
            "media_chunk_put", media_id=media_id, position=position, content=base64.b64encode(content).decode()
        )
        return taken

    async def media_chunks_size(self, media_id: str) -> int | None:
        size: int | None = await self._call("media_chunks_size", media_id=media_id)
        return size

    async def get_media_chunk(self, media_id: str, position: int) -> bytes | None:
        content = await self._call("media_chunk_get", media_id=media_id, position=position)
        return None if content is None else base64.b64decode(content)

    async def delete_media_chunks(self, media_ids: Sequence[str]) -> None:
        await self._call("media_chunks_delete", media_ids=media_ids)

    # -- conversations -------------------------------------------------------------------------------------------

    async def record_inbound(
        self,
        account_id: str,
        *,
        wa_id: str | None,
        user_id: str | None,
        name: str | None,
        messages: Sequence[InboundMessage],
        other_wa_id: str | None = None,
        opening: Opening | None = None,
    ) -> Inbound:
        _check_identity(wa_id, user_id)
        ids = [message.wa_message_id for message in messages]
        inbound = await self._call(
            "record_inbound", account_id=account_id, wa_id=wa_id, user_id=user_id, name=name, messages=messages,
            other_wa_id=other_wa_id, opening=opening and {"key": ids[0], "covers": ids, **asdict(opening)},
        )  # fmt: skip
        opened = inbound.pop("opened")
        stored = _INBOUND.validate_python(inbound)
        return stored if opened is None else replace(stored, opened=_opened(opened))

    async def record_echo(
        self, account_id: str, *, wa_id: str | None, user_id: str | None, message: InboundMessage
    ) -> Conversation:
        _check_identity(wa_id, user_id)
        conversation = await self._call(
            "record_echo", account_id=account_id, wa_id=wa_id, user_id=user_id, message=message
        )
        return _CONVERSATION.validate_python(conversation)

    async def apply_status(
        self,
        account_id: str,
        *,
        wa_message_id: str,
        outbound_key: str | None,
        status: Status,
        timestamp: datetime,
        error: Json | None,
    ) -> bool:
        known: bool = await self._call(
            "apply_status", account_id=account_id, wa_message_id=wa_message_id, outbound_key=outbound_key,
            status=status, timestamp=timestamp, error=error,
        )  # fmt: skip
        return known

    async def get_conversation(self, conversation_id: str) -> Conversation | None:
        return _optional(_CONVERSATION, await self._call("get_conversation", conversation_id=conversation_id))

    async def list_conversations(
        self, account_id: str, *, limit: int, cursor: str | None, only: ConversationFilter = EVERY_CONVERSATION
    ) -> Page[Conversation]:
        before_at, before_id = _decode_place(cursor)
        size = _page_size(limit)
        rows = await self._call(
            "list_conversations", account_id=account_id, limit=size + 1, before_at=before_at, before_id=before_id,
            **asdict(only),
        )  # fmt: skip
        return _page(
            _CONVERSATION, rows, size, lambda item, row: _place(datetime.fromisoformat(row["last_message_at"]), item.id)
        )

    async def count_conversations(self, account_id: str, *, most: int) -> ConversationCounts:
        counts = await self._call("count_conversations", account_id=account_id, most=most)
        return _COUNTS.validate_python(counts | {"counted_to": most})

    async def index_search(self, *, rows: int, messages: int) -> int:
        done: int = await self._call("index_search", rows=rows, messages=messages)
        return done

    async def list_messages(self, conversation_id: str, *, limit: int, cursor: str | None) -> Page[Message]:
        before_seq = _decode_sequence(cursor)
        size = _page_size(limit)
        rows = await self._call("list_messages", conversation_id=conversation_id, limit=size + 1, before_seq=before_seq)
        return _page(_MESSAGE, rows, size, lambda _item, row: str(row["seq"]))

    async def history(self, conversation_id: str, *, limit: int, exclude: Sequence[str]) -> tuple[Turn, ...]:
        turns = await self._call("history", conversation_id=conversation_id, limit=limit, exclude=exclude)
        return _TURNS.validate_python(turns)

    async def background(
        self, conversation_id: str, *, limit: int, exclude: Sequence[str], characters: int
    ) -> Background:
        found = await self._call(
            "background", conversation_id=conversation_id, limit=limit, exclude=exclude, characters=characters
        )
        return _background(found)

    async def set_bot(self, conversation_id: str, *, enabled: bool) -> Conversation:
        conversation = await self._call("set_bot", conversation_id=conversation_id, enabled=enabled)
        return _CONVERSATION.validate_python(conversation)

    async def set_needs_human(self, conversation_id: str, reason: HandoverReason) -> None:
        await self._call("set_needs_human", conversation_id=conversation_id, reason=reason)

    async def opt_out(self, conversation_id: str) -> None:
        await self._call("opt_out", conversation_id=conversation_id)

    async def opt_in(self, conversation_id: str) -> Conversation:
        return _CONVERSATION.validate_python(await self._call("opt_in", conversation_id=conversation_id))

    async def mark_read(self, conversation_id: str) -> Conversation:
        return _CONVERSATION.validate_python(await self._call("mark_read", conversation_id=conversation_id))

    async def take_notices(self, *, limit: int, lost_after_seconds: float) -> tuple[HandoverNotice, ...]:
        taken = await self._call("take_notices", limit=limit, lost_after_seconds=lost_after_seconds)
        return _NOTICES.validate_python(taken)

    async def end_notice(
        self, notice_id: str, outcome: NoticeOutcome, *, wamid: str | None = None, error: Json | None = None
    ) -> None:
        await self._call("end_notice", id=notice_id, outcome=outcome, wamid=wamid, error=error)

    async def put_off_notice(self, notice_id: str, *, seconds: float) -> None:
        await self._call("end_notice", id=notice_id, outcome=None, again_seconds=seconds)

    # -- privacy -------------------------------------------------------------------------------------------------

    async def contact_traces(self, contact_id: str) -> ContactTraces | None:
        return _optional(_TRACES, await self._call("contact_traces", contact_id=contact_id))

    async def erase_contact(
        self, contact_id: str, *, message_ids: Sequence[str], mailboxes: Sequence[str], words: Sequence[str]
    ) -> Mapping[str, int]:
        removed: Mapping[str, int] = await self._call(
            "erase_contact", contact_id=contact_id, message_ids=message_ids, mailboxes=mailboxes, words=words
        )
        return removed

    async def forget_messages(
        self, *, days: int, after: str | None, conversations: int, messages: int
    ) -> tuple[int, str | None]:
        answer = await self._call(
            "forget_messages", days=days, after=after, conversations=conversations, messages=messages
        )
        return answer["messages"], answer["last"]

    async def export_contact(self, contact_id: str) -> ContactExport | None:
        return _optional(_EXPORT, await self._call("export_contact", contact_id=contact_id))

    async def export_messages(self, conversation_id: str, *, after_seq: int, limit: int) -> tuple[Json, ...]:
        return tuple(
            await self._call("export_messages", conversation_id=conversation_id, after_seq=after_seq, limit=limit)
        )

    # -- replies -------------------------------------------------------------------------------------------------

    async def open_reply(
        self,
        conversation_id: str,
        *,
        key: str,
        author: Author,
        covers: Sequence[str],
        fence: int,
        body: str | None = None,
        sent_by: str | None = None,
    ) -> Reply:
        given = {"conversation_id": conversation_id, "key": key, "author": author, "covers": covers, "fence": fence}
        if sent_by is None:
            reply = await self._call("open_reply", **given, body=body)
        else:
            reply = await self._call("open_human_reply", **given, body=body, sent_by=sent_by)
        return _REPLY.validate_python(reply)

    async def open_file_reply(
        self, conversation_id: str, *, key: str, body: str, media_id: str, sent_by: str
    ) -> tuple[Reply, Media | None]:
        opened = await self._call(
            "open_file_reply", conversation_id=conversation_id, key=key, author=Author.HUMAN, covers=(), fence=0,
            body=body, media_id=media_id, sent_by=sent_by,
        )  # fmt: skip
        return _REPLY.validate_python(opened["reply"]), _optional(_MEDIA, opened["media"])

    async def open_answer(
        self,
        conversation_id: str,
        *,
        key: str,
        covers: Sequence[str],
        fence: int,
        limit: int,
        characters: int,
        minutes: int,
    ) -> OpenedAnswer:
        opened = await self._call(
            "open_answer", conversation_id=conversation_id, key=key, author=Author.BOT, covers=covers, fence=fence,
            limit=limit, characters=characters, minutes=minutes,
        )  # fmt: skip
        return _opened(opened)

    async def save_body(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        spent: Spent | None = None,
        handover: Handover | None = None,
    ) -> Reply:
        return await self._save_answer(
            spent, key=key, fence=fence, covers=covers, body=body, fallback=None, handover=handover
        )

    async def save_fallback(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        fallback: Fallback,
        spent: Spent | None = None,
        handover: Handover | None = None,
    ) -> Reply:
        return await self._save_answer(
            spent, key=key, fence=fence, covers=covers, body=body, fallback=fallback, handover=handover
        )

    async def _save_answer(self, spent: Spent | None, **p: object) -> Reply:
        return _REPLY.validate_python(await self._call("save_answer", **p, **_cost(spent), apart=True))

    async def save_and_begin(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        spent: Spent | None,
        parts: int,
        text: str,
        attempt: str,
        handover: Handover | None = None,
    ) -> tuple[Reply, SendDecision | None]:
        answer = await self._call(
            "save_and_begin", key=key, fence=fence, covers=covers, body=body, **_cost(spent), apart=True, parts=parts,
            text=text, attempt=attempt, handover=handover,
        )  # fmt: skip
        decision = answer["decision"]
        saved = _REPLY.validate_python({"body": body.replace("\0", "\ufffd")} | answer["reply"])
        return saved, None if decision is None else SendDecision(decision)

    async def begin_part(
        self,
        key: str,
        *,
        fence: int,
        part: int,
        parts: int,
        text: str,
        resend: bool = False,
        attempt: str | None = None,
    ) -> SendDecision:
        decision = await self._call(
            "begin_part", key=key, fence=fence, part=part, parts=parts, text=text, resend=resend,
            attempt=attempt or str(uuid.uuid4()),
        )  # fmt: skip
        return SendDecision(decision)

    async def refuse_part(
        self, key: str, *, fence: int, part: int, parts: int, text: str, attempt: str, error: Mapping[str, object]
    ) -> SendDecision:
        decision = await self._call(
            "refuse_part", key=key, fence=fence, part=part, parts=parts, text=text, attempt=attempt, error=error
        )
        return SendDecision(decision)

    async def complete_part(self, key: str, *, part: int, wamid: str, last: bool) -> None:
        await self._call("complete_part", key=key, part=part, wamid=wamid, last=last)

    async def fail_part(self, key: str, *, fence: int, part: int, error: Mapping[str, object], final: bool) -> None:
        await self._call("fail_part", key=key, fence=fence, part=part, error=error, final=final)


def _opened(found: Json) -> OpenedAnswer:
    return OpenedAnswer(_REPLY.validate_python(found["reply"]), _background(found), found["recent"])


def _background(found: Json) -> Background:
    return Background(_TURNS.validate_python(found["turns"]), _USAGE.validate_python(found["usage"] or {}))


def _cost(spent: Spent | None) -> dict[str, object]:
    return {
        "spent_id": spent and spent.id,
        "input_tokens": spent and spent.input_tokens,
        "output_tokens": spent and spent.output_tokens,
    }


def _event_rows(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [
        {"id": e.id, "mailbox": e.mailbox, "payload": base64.b64encode(e.payload).decode(), "immediate": e.immediate}
        for e in events
    ]


def _events(rows: Sequence[Json]) -> list[tuple[int, Event]]:
    return [(row["row"], _event(row)) for row in rows]


def _event(row: Json) -> Event:
    payload = base64.b64decode(row["payload"])
    return Event(row["id"], row["mailbox"], payload, row["immediate"], row.get("accepted_at", 0.0))


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def _encode(p: Mapping[str, object]) -> bytes:
    """JSON that PostgreSQL takes: its text cannot hold a NUL."""
    body = orjson.dumps(p)
    return _NUL.sub(rb"\1\\ufffd", body) if b"\\u0000" in body else body


def _optional(adapter: TypeAdapter[T], value: Any) -> T | None:
    return None if value is None else adapter.validate_python(value)


def _profile(row: Json) -> BotProfile:
    """What is null in the row is as the application says."""
    return _PROFILE.validate_python({name: value for name, value in row.items() if value is not None})


def _check_known(changes: Mapping[str, object], allowed: set[str]) -> None:
    for name in changes:
        if name not in allowed:
            raise InvalidInput(f"{name} cannot be changed", field=name)


def _check_identity(wa_id: str | None, user_id: str | None) -> None:
    if not wa_id and not user_id:
        raise InvalidInput("neither wa_id nor user_id is given", field="wa_id")


def _settlement(settlement: Settlement) -> Json:
    rows = [
        {
            "event_id": event.id, "conversation_id": event.conversation_id, "type": event.type,
            "status": answer.status, "outcome": answer.outcome, "ms": answer.ms, "answer": answer.text,
        }
        for event, answer in settlement.deliveries
    ]  # fmt: skip
    return {
        "endpoint_id": settlement.endpoint_id, "told": settlement.told, "deliveries": rows, "last": settlement.last,
        "off_after_seconds": settlement.off_after_seconds, "keep": settlement.keep,
    }  # fmt: skip


def _page_size(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))


def _page(
    adapter: TypeAdapter[T],
    rows: Sequence[Json],
    size: int,
    cursor_of: Callable[[T, Json], str],
) -> Page[T]:
    """`rows` are one more than `size` if there is another page; `cursor_of` names the place after an item's row."""
    items = tuple(adapter.validate_python(row) for row in rows[:size])
    return Page(items, cursor_of(items[-1], rows[size - 1]) if len(rows) > size else None)


# Cursors are made of digits of limited length, so that the HTTP interface can say with a pattern what one looks like,
# and whatever fits the pattern is a place that PostgreSQL can compare with.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLACE = re.compile(r"([0-9]{1,17})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_SEQUENCE = re.compile(r"[0-9]{1,18}")


def _place(last_message_at: datetime, conversation_id: str) -> str:
    """`<microseconds since 1970>.<id>`"""
    return f"{max(0, (last_message_at - _EPOCH) // timedelta(microseconds=1))}.{conversation_id}"


def _decode_place(cursor: str | None) -> tuple[str | None, str | None]:
    if cursor is None:
        return None, None
    if not (match := _PLACE.fullmatch(cursor)):
        raise _not_a_cursor()
    return (_EPOCH + timedelta(microseconds=int(match[1]))).isoformat(), match[2]


def _decode_sequence(cursor: str | None) -> str | None:
    if cursor is not None and not _SEQUENCE.fullmatch(cursor):
        raise _not_a_cursor()
    return cursor


def _not_a_cursor() -> InvalidInput:
    return InvalidInput("this is not a cursor of this list; take next_cursor of the page before", field="cursor")
