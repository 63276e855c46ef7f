"""The migration runner on a real PostgreSQL, and its agreement with the Supabase CLI's bookkeeping."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.adapters.migrations import (
    MIGRATIONS,
    apply_migrations,
    newer_migrations,
    pending_migrations,
    read_migrations,
)
from app.adapters.postgres_store import PostgresStore
from app.core.queue import Event
from app.domain.errors import ConfigurationError, MigrationFailed, Unavailable
from app.localhost.location import locate
from app.localhost.processes import run
from app.localhost.servers import Postgres, remove_data
from tests.support.server_folder import server_folder

ALL = [migration.id for migration in read_migrations()]
FOLLOWING = "29991231235959"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The real files, to add to and to change."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


async def records(url: str) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        rows = await connection.fetch("select version, name from supabase_migrations.schema_migrations order by 1")
        return [(row["version"], row["name"]) for row in rows]
    finally:
        await connection.close()


async def test_they_are_applied_in_order_and_only_once(postgres_url: str) -> None:
    assert await pending_migrations(postgres_url) == ALL
    assert await apply_migrations(postgres_url) == ALL
    assert [f"{version}_{name}" for version, name in await records(postgres_url)] == ALL
    assert await pending_migrations(postgres_url) == []
    assert await apply_migrations(postgres_url) == []


async def test_replicas_that_start_at_once_share_the_work(postgres_url: str) -> None:
    results = await asyncio.gather(*(apply_migrations(postgres_url) for _ in range(5)))
    assert sorted(name for applied in results for name in applied) == ALL


async def test_a_migration_that_fails_leaves_nothing_behind(postgres_url: str, directory: Path) -> None:
    (directory / f"{FOLLOWING}_chorus_broken.sql").write_text("create table half (); select 1 / 0;")
    with pytest.raises(MigrationFailed) as caught:
        await apply_migrations(postgres_url, directory)
    assert isinstance(caught.value.__cause__, asyncpg.DivisionByZeroError)
    assert str(caught.value) == f"DivisionByZeroError 22012 (while applying {FOLLOWING}_chorus_broken)"
    connection = await asyncpg.connect(postgres_url, timeout=5)
    assert await connection.fetchval("select to_regclass('half')") is None
    await connection.close()

    (directory / f"{FOLLOWING}_chorus_broken.sql").write_text("create table whole ();")
    assert await apply_migrations(postgres_url, directory) == [f"{FOLLOWING}_chorus_broken"]


async def test_a_file_changed_after_it_was_applied_is_an_error(postgres_url: str, directory: Path) -> None:
    await apply_migrations(postgres_url, directory)
    changed = sorted(directory.iterdir())[1]
    changed.write_text(changed.read_text() + "\n\n  ;\n")
    assert await apply_migrations(postgres_url, directory) == []  # white space and semicolons are no change
    changed.write_text(changed.read_text() + "select 1;")
    (directory / f"{FOLLOWING}_chorus_more.sql").write_text("create table more ();")
    for call in (apply_migrations, pending_migrations):
        with pytest.raises(ConfigurationError, match=f"{changed.stem} was changed after it was applied"):
            await call(postgres_url, directory)
    assert len(await records(postgres_url)) == len(ALL)


async def test_a_database_that_is_newer_lets_a_version_that_was_rolled_back_go_on(
    postgres_url: str, directory: Path
) -> None:
    (directory / f"{FOLLOWING}_chorus_more.sql").write_text("create table more ();")
    await apply_migrations(postgres_url, directory)
    assert await apply_migrations(postgres_url) == []
    assert await pending_migrations(postgres_url) == []
    assert await newer_migrations(postgres_url) == [f"{FOLLOWING}_chorus_more"]
    assert await newer_migrations(postgres_url, directory) == []
    done = migrate(postgres_url)
    assert done.returncode == 0
    assert f"newer than this version of Chorus, which works with it: {FOLLOWING}_chorus_more" in done.stderr


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    """`chorus migrate`, as an operator runs it."""
    return run([sys.executable, "-m", "app.cli", "migrate"], env={"DATABASE_URL": url}, timeout_seconds=60)


@dataclass(frozen=True)
class Owner:
    """A database whose owner may not create roles, as most providers give it to one."""

    url: str
    administrator: str


@pytest.fixture(params=["the owner", "a guest"])
async def owner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Owner]:
    """On a server of its own: roles belong to the whole server. "a guest" does not even own the database."""
    folder = server_folder("chorus-owner-")
    server = Postgres(locate(folder), durable=False)
    try:
        server.start()
        server.execute("create role plain login password 'plain'", "create database plain")
        if request.param == "the owner":
            server.execute("alter database plain owner to plain")
        administrator = server.url_of("plain")
        yield Owner(re.sub(r"//postgres:[^@]+@", "//plain:plain@", administrator), administrator)
    finally:
        server.stop()
        remove_data(folder)


async def test_a_user_with_too_few_rights_is_told_the_statements_and_they_are_enough(owner: Owner) -> None:
    refused = migrate(owner.url)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    statements = re.findall(r"^    (.+;)$", refused.stderr, flags=re.MULTILINE)
    assert [s for s in statements if s.startswith("create role")] == [
        f"create role {role} nologin;" for role in ("anon", "authenticated", "service_role")
    ]
    assert await pending_migrations(owner.url) == ALL, "nothing was half done"
    administrator = await asyncpg.connect(owner.administrator, timeout=5)
    for statement in statements:
        await administrator.execute(statement)
    await administrator.close()
    done = migrate(owner.url)
    assert done.returncode == 0, done.stderr
    assert await pending_migrations(owner.url) == []
    store = PostgresStore(owner.url)
    await store.ping()
    assert await store.applied_migrations() == tuple(ALL)
    await store.aclose()


async def test_what_the_supabase_cli_applied_is_not_applied_again(postgres_url: str) -> None:
    """The CLI runs and records one statement at a time, without the semicolons and the white space between them."""
    connection = await asyncpg.connect(postgres_url, timeout=5)
    await connection.execute(
        "create schema supabase_migrations;"
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text)"
    )
    for migration in read_migrations():
        statements = [part.strip() for part in _split(migration.sql) if part.strip()]
        async with connection.transaction():
            for statement in statements:
                await connection.fetch(statement)
            await connection.execute(
                "insert into supabase_migrations.schema_migrations values ($1, $2, $3)",
                migration.version,
                statements,
                migration.name,
            )
    await connection.close()
    assert await apply_migrations(postgres_url) == []


def _split(sql: str) -> list[str]:
    """At the semicolons outside of $$ bodies, comments and quotes."""
    token = re.compile(r"(\$\w*\$).*?\1|--[^\n]*|'[^']*'|;", re.DOTALL)
    parts, start = [], 0
    for match in token.finditer(sql):
        if match[0] == ";":
            parts.append(sql[start : match.start()])
            start = match.end()
    return [*parts, sql[start:]]


async def test_nothing_of_ours_is_open_where_new_things_are_by_default(postgres_url: str) -> None:
    """A Supabase project gives the public roles every new table and function in `public`."""
    connection = await asyncpg.connect(postgres_url, timeout=5)
    await apply_migrations(postgres_url)  # makes the roles, on a server without them
    await connection.execute(
        "drop schema public, chorus, supabase_migrations cascade; create schema public;"
        "alter default privileges in schema public grant all on tables to anon, authenticated;"
        "alter default privileges in schema public grant all on functions to anon, authenticated"
    )
    await apply_migrations(postgres_url)
    functions = await connection.fetch(
        "select p.oid::regprocedure from pg_proc p, unnest(array['anon', 'authenticated']) role"
        " where pronamespace = 'public'::regnamespace and has_function_privilege(role, p.oid, 'execute')"
    )
    tables = await connection.fetch(
        "select relname from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind = 'r'"
        " and (has_any_column_privilege('anon', oid, 'select') or has_table_privilege('authenticated', oid, 'insert'))"
    )
    await connection.close()
    assert (functions, tables) == ([], [])


async def test_other_peoples_migrations_are_none_of_our_business(postgres_url: str) -> None:
    await apply_migrations(postgres_url)
    connection = await asyncpg.connect(postgres_url, timeout=5)
    await connection.execute(
        "insert into supabase_migrations.schema_migrations (version, name)"
        " values ($1, 'shop'), ('20200101000000', null)",
        FOLLOWING,
    )
    await connection.close()
    assert await apply_migrations(postgres_url) == []


async def test_no_files_is_an_error_that_says_where_they_were_expected(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        await apply_migrations(postgres_url, tmp_path)


async def test_no_database_is_unavailable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable):
            await apply_migrations(f"postgresql://postgres:secret@127.0.0.1:{closed.getsockname()[1]}/x")


async def test_a_migration_that_takes_too_long_is_given_up(postgres_url: str, directory: Path) -> None:
    await apply_migrations(postgres_url, directory)
    (directory / f"{FOLLOWING}_chorus_slow.sql").write_text("select pg_sleep(30);")
    with pytest.raises(Unavailable):
        await apply_migrations(postgres_url, directory, timeout_seconds=0.3)
    assert len(await records(postgres_url)) == len(ALL)


@pytest.mark.parametrize("url", ["not a url", "postgresql://user:secret@host:port/x", "mysql://user:secret@h/x"])
async def test_a_malformed_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        await apply_migrations(url)
    assert "secret" not in str(caught.value)


async def test_refused_credentials_are_the_operators_to_correct(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL.*password"):
        await apply_migrations(re.sub(r":[^:@]+@", ":wrong@", postgres_url))


async def test_a_member_of_service_role_may_do_everything_a_replica_does(store_url: str, postgres: Postgres) -> None:
    """Replicas need not connect as the owner."""
    if not postgres.execute("select from pg_roles where rolname = 'replica'").strip():
        postgres.execute("create role replica login password 'replica' in role service_role")
    store = PostgresStore(re.sub(r"//postgres:[^@]+@", "//replica:replica@", store_url))
    try:
        account = await store.create_account(
            name="Shop", slug="shop", phone_number_id="1", access_token="cipher", verify_token="v"
        )
        await store.update_profile(account.id, {"description": "Bread"})
        assert await store.get_account(account.id) == account
        assert await store.journal_put([Event("e", "box", b"x")], max_rows=10, max_bytes=10**9) == (1, ())
        assert await store.journal_begin(life="a", keep_seconds=1e6) == 0
        ((row, _),) = await store.journal_next(after=0, limit=10)
        await store.journal_moved([row], life="a")
        await store.journal_settle([row])
        assert await store.inbox_put([Event("e", "box", b"x")], max_rows=10, max_bytes=10**9, reopen=True)
        assert await store.pending_invalidations(limit=10) is not None
        assert await store.applied_migrations() == tuple(ALL)
    finally:
        await store.aclose()
