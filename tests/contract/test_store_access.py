"""Who may read what when the database is reached past Chorus: with a user's token, or with the public key."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import orjson
import pytest

from app.adapters.postgres_store import PostgresStore
from app.adapters.supabase_store import SupabaseStore
from app.core.http_client import close_http_client, get_http_client
from app.domain.errors import Unavailable
from app.domain.models import Role
from app.domain.usage import Spent
from tests.contract.conftest import PUBLIC_KEY
from tests.support.store_kit import Scene, quick_policy, unique

READABLE = (
    "account_members", "account_usage", "bot_profiles", "contacts", "conversations", "media", "messages", "replies",
)  # fmt: skip
NOBODY = str(uuid.uuid4())
SERVICE_ONLY = (
    "api_keys",
    "audit_entries",
    "conversation_words",
    "erased_messages",
    "erasures",
    "inbox",
    "inbox_state",
    "invitations",
    "media_chunks",
    "media_leftovers",
    "orphan_statuses",
    "outbox",
    "outbox_held",
    "overflow",
    "search_pending",
    "webhook_deliveries",
    "webhook_endpoints",
)


@asynccontextmanager
async def acting_as(sql: asyncpg.Connection, role: str, user: str | None = None) -> AsyncIterator[None]:
    """As PostgREST does it: one transaction with the token's role and claims."""
    transaction = sql.transaction()
    await transaction.start()
    claims = orjson.dumps({"sub": user, "role": role}).decode() if user else ""
    await sql.execute("select set_config('request.jwt.claims', $1, true)", claims)
    await sql.execute(f"set local role {role}")
    try:
        yield
    finally:
        await transaction.rollback()


@pytest.fixture
async def sql(store_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A database of the test's own: the stand-in for PostgREST hands out rights in the one that it serves."""
    connection = await asyncpg.connect(store_url, timeout=5, command_timeout=5)
    yield connection
    await connection.close()


@pytest.fixture
async def member_of_one(store_url: str) -> AsyncIterator[tuple[str, str]]:
    """A user who is a viewer of one account, beside another account just as full. Yields user and account id."""
    store = PostgresStore(store_url, policy=quick_policy())
    user, ids = unique("user"), []
    for owner in (user, "somebody else"):
        name = unique("account")
        account = await store.create_account(
            name=name, slug=name, phone_number_id=name, access_token="cipher", verify_token="v"
        )
        await store.add_member(account.id, owner, Role.VIEWER)
        reply = await Scene(store, account).reply()
        await store.save_body(reply.key, fence=1, covers=reply.covers, body="hi", spent=Spent(NOBODY, 1, 1))
        await store.begin_part(reply.key, fence=1, part=0, parts=1, text="hi")
        await store.create_media(str(uuid.uuid4()), account_id=account.id, kind="image", mime="image/png", name=None)
        ids.append(account.id)
    yield user, ids[0]
    await store.aclose()


async def test_a_member_reads_their_account_and_no_other(
    sql: asyncpg.Connection, member_of_one: tuple[str, str]
) -> None:
    user, account_id = member_of_one
    async with acting_as(sql, "authenticated", user):
        assert [str(row["id"]) for row in await sql.fetch("select id, name, slug from whatsapp_accounts")] == [
            account_id
        ]
        for table in READABLE:
            rows = await sql.fetch(f"select account_id from {table}")
            assert {str(row["account_id"]) for row in rows} == {account_id}, table


@pytest.mark.parametrize("user", [None, "nobody we know"])
async def test_a_stranger_reads_nothing(
    sql: asyncpg.Connection, member_of_one: tuple[str, str], user: str | None
) -> None:
    async with acting_as(sql, "authenticated", user):
        for table in READABLE:
            assert await sql.fetch(f"select account_id from {table}") == [], table
        assert await sql.fetch("select id from whatsapp_accounts") == []


@pytest.mark.parametrize("column", ["access_token", "verify_token", "*"])
async def test_no_user_reads_a_token(sql: asyncpg.Connection, member_of_one: tuple[str, str], column: str) -> None:
    async with acting_as(sql, "authenticated", member_of_one[0]):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.fetch(f"select {column} from whatsapp_accounts")


@pytest.mark.parametrize(
    "statement",
    [
        "update whatsapp_accounts set is_active = false",
        "insert into account_members (account_id, user_id, role) select account_id, 'x', 'owner' from account_members",
        "update conversations set bot_enabled = false",
        "delete from messages",
        *(f"select * from {table}" for table in SERVICE_ONLY),
    ],
)
async def test_no_user_writes(sql: asyncpg.Connection, member_of_one: tuple[str, str], statement: str) -> None:
    async with acting_as(sql, "authenticated", member_of_one[0]):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.execute(statement)


@pytest.mark.parametrize("table", ["whatsapp_accounts", *READABLE, *SERVICE_ONLY])
async def test_the_public_key_reads_nothing(sql: asyncpg.Connection, table: str) -> None:
    async with acting_as(sql, "anon"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.fetch(f"select 1 from {table}")


async def test_every_table_of_ours_has_row_level_security(sql: asyncpg.Connection) -> None:
    open_tables = await sql.fetch(
        "select relname from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind = 'r' and not relrowsecurity"
    )
    assert open_tables == []


async def test_only_the_service_calls_an_operation(sql: asyncpg.Connection) -> None:
    rows = await sql.fetch(
        r"""
        select proname, role, has_function_privilege(role, p.oid, 'execute') as allowed,
          p.proconfig is null as loose_search_path
        from pg_proc p, unnest(array['anon', 'authenticated', 'service_role']) role
        where pronamespace = 'public'::regnamespace and proname like 'chorus\_%'
        """
    )
    assert len(rows) > 60
    assert [row for row in rows if row["allowed"] != (row["role"] == "service_role")] == []
    assert [row["proname"] for row in rows if row["loose_search_path"]] == []


async def test_the_service_role_may_do_everything(sql: asyncpg.Connection, member_of_one: tuple[str, str]) -> None:
    """A database user of one's own needs no more than `grant service_role to …`."""
    async with acting_as(sql, "service_role"):
        answer = await sql.fetchval("select chorus_list_accounts('{}')")
        assert len(orjson.loads(answer)["ok"]) >= 2
        for table in ("whatsapp_accounts", *READABLE, *SERVICE_ONLY):
            await sql.execute(f"delete from {table}")


async def test_the_public_key_is_no_key_for_the_store(rest_url: str) -> None:
    store = SupabaseStore(rest_url, PUBLIC_KEY, await get_http_client(), policy=quick_policy())
    with pytest.raises(Unavailable, match="42501"):
        await store.ping()
    await asyncio.gather(store.aclose(), close_http_client())
