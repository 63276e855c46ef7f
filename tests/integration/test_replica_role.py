"""The user as whom replicas connect: it can do all that a replica does, and nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.adapters.migrations import apply_migrations
from app.adapters.postgres_store import PostgresStore
from app.adapters.replica_role import ensure_replica_role, scram_verifier
from app.core.queue import Event
from app.domain.errors import ConfigurationError
from app.domain.models import Author, InboxState
from app.localhost.servers import Postgres
from tests.support.store_kit import Scene, message, quick_policy, unique

PASSWORD = "p%C3%A9-of-the-replicas"


def as_user(url: str, name: str, password: str = PASSWORD) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
async def replica_url(postgres: Postgres, postgres_url: str) -> AsyncIterator[str]:
    """A migrated database and a user that `chorus migrate` made for it."""
    await apply_migrations(postgres_url)
    name = unique("Replica").replace("-", "_")
    url = as_user(postgres_url, name)
    assert await ensure_replica_role(postgres_url, url) == name
    yield url
    owner = await asyncpg.connect(postgres_url)
    await owner.execute(f'drop role "{name}"')
    await owner.close()


@pytest.fixture
async def replica(replica_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(replica_url, timeout=5, command_timeout=5)
    yield connection
    await connection.close()


async def test_it_does_all_that_a_replica_does(replica_url: str) -> None:
    store = PostgresStore(replica_url, policy=quick_policy())
    try:
        name = unique("account")
        account = await store.create_account(
            name=name, slug=name, phone_number_id=name, access_token="cipher", verify_token="v", app_id="12345"
        )
        await store.update_account(account.id, {"name": "new"})
        await store.update_profile(account.id, {"greeting_text": "Hello"})
        scene = Scene(store, account)
        conversation = await scene.receive(message("hi"))
        reply = await scene.reply()
        await store.begin_part(reply.key, fence=1, part=0, parts=1, text="hello")
        await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
        human = await store.open_reply(
            conversation.id, key=unique("human"), author=Author.HUMAN, covers=(), fence=0, body="me", sent_by="ada"
        )
        assert human.sent_by == "ada"
        assert (await store.list_messages(conversation.id, limit=10, cursor=None)).items
        state, stored, _ = await store.inbox_put(
            [Event("e", "message:1:2", b"{}")], max_rows=10, max_bytes=10**9, reopen=True
        )
        assert (state, stored) == (InboxState.OPEN, 1)
        assert await store.inbox_peek(limit=10)
        assert await store.applied_migrations()
        assert (await store.caller_rights()).excess == ()
        heard = asyncio.create_task(store.wait_for_invalidations(5))
        await store.update_account(account.id, {"name": "newer"})
        await heard
    finally:
        await store.aclose()


FORBIDDEN = (
    "create table public.mine (n integer)",
    "create table chorus.mine (n integer)",
    "create temporary table mine (n integer)",
    "create schema mine",
    "create function public.mine() returns integer language sql as 'select 1'",
    "create role mine",
    "drop table public.messages",
    "truncate public.messages",
    "alter table public.messages disable row level security",
    "alter table public.messages add column mine text",
    "create index on public.messages (text)",
    "create policy mine on public.messages using (true)",
    "select * from supabase_migrations.schema_migrations",
    "select * from public.somebody_elses",
    "select rolpassword from pg_authid",
    "set role postgres",
    "alter role service_role superuser",
    "copy public.messages to '/tmp/messages'",
    "select pg_read_file('/etc/passwd')",
    "select nextval('public.messages_seq_seq')",
)


async def test_it_may_do_nothing_else(postgres_url: str, replica: asyncpg.Connection) -> None:
    owner = await asyncpg.connect(postgres_url)
    await owner.execute("create table public.somebody_elses (n integer)")
    await owner.close()
    done = []
    for statement in FORBIDDEN:
        try:
            await replica.execute(statement)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError):
            continue
        done.append(statement)
    assert not done


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_no_public_role_uses_a_sequence(postgres_url: str, role: str) -> None:
    """Also where the server gives every new one away, as Supabase does."""
    owner = await asyncpg.connect(postgres_url)
    try:
        for name in ("anon", "authenticated", "service_role"):
            await owner.execute(
                f"do $$ begin create role {name} nologin; exception when duplicate_object then null; end $$"
            )
        await owner.execute("alter default privileges in schema public grant all on sequences to anon, authenticated")
        await apply_migrations(postgres_url)
        open_ones = await owner.fetch(
            "select relname from pg_class where relkind = 'S' and relnamespace = 'public'::regnamespace"
            " and case when relkind = 'S' then has_sequence_privilege($1, oid, 'usage, select, update') end",
            role,
        )
        assert not open_ones
        assert await owner.fetchval("select count(*) from pg_class where relkind = 'S'") >= 4
    finally:
        await owner.close()


async def test_a_second_migrate_changes_the_password_and_nothing_else(postgres_url: str, replica_url: str) -> None:
    name = urlsplit(replica_url).username or ""
    changed = as_user(postgres_url, name, "another-password")
    assert await ensure_replica_role(postgres_url, changed) == name
    connection = await asyncpg.connect(changed, timeout=5)
    groups = await connection.fetch(
        "select m.roleid::regrole::text as role from pg_auth_members m where m.member ="
        " (select oid from pg_roles where rolname = current_user)"
    )
    await connection.close()
    assert [group["role"] for group in groups] == ["service_role"]


async def test_a_user_with_rights_of_its_own_is_refused(postgres_url: str) -> None:
    await apply_migrations(postgres_url)
    owner = urlsplit(postgres_url).username or ""
    with pytest.raises(ConfigurationError, match="may do more than a replica needs"):
        await ensure_replica_role(postgres_url, as_user(postgres_url, owner))


async def test_the_password_is_sent_as_the_verifier_that_postgresql_itself_would_store(postgres_url: str) -> None:
    owner = await asyncpg.connect(postgres_url)
    name = unique("pencil").replace("-", "_")
    try:
        await owner.execute(f"create role {name} password 'pencil'")
        stored = await owner.fetchval("select rolpassword from pg_authid where rolname = $1", name)
        salt = base64.b64decode(stored.split(":")[1].split("$")[0])
        assert scram_verifier("pencil", salt) == stored
        assert scram_verifier("pencil") != scram_verifier("pencil"), "each has a salt of its own"
    finally:
        await owner.execute(f"drop role {name}")
        await owner.close()
