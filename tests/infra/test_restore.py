"""A backup restored into a fresh cluster, by another user: every policy, grant and function is as it was."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.adapters.migrations import newer_migrations, pending_migrations
from app.adapters.postgres_store import PostgresStore
from app.domain.models import Role
from app.localhost.location import Location, locate
from app.localhost.processes import run
from app.localhost.servers import Postgres, remove_data
from tests.support.server_folder import server_folder

INFRA = Path(__file__).resolve().parents[2] / "infra" / "postgres"

CATALOG = {
    "policies": "select tablename, policyname, permissive, roles::text, cmd, qual, with_check from pg_policies",
    "tables": "select oid::regclass::text, relkind::text, relrowsecurity, relforcerowsecurity,"
    " coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::\"char\", relowner))::text"
    " from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S', 'v')",
    "columns": "select attrelid::regclass::text, attname, attacl::text, attnotnull from pg_attribute"
    " where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r')"
    " and attnum > 0 and not attisdropped",
    "functions": "select oid::regprocedure::text, prosecdef, proconfig::text, proacl::text, prosrc from pg_proc"
    " where pronamespace in ('public'::regnamespace, 'chorus'::regnamespace)",
    "triggers": "select tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled::text from pg_trigger"
    " where not tgisinternal",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = 'public'",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
    " where connamespace = 'public'::regnamespace",
    "schemas": "select nspname, nspacl::text from pg_namespace where nspname = 'chorus'",
}


@dataclass
class Cluster:
    """A fresh one, with a database of a user who may create roles and no more."""

    server: Postgres
    url: str


@pytest.fixture
async def fresh() -> AsyncIterator[Cluster]:
    folder = server_folder("chorus-restore-")
    server = Postgres(locate(folder), durable=False)
    try:
        server.start()
        server.execute("create role heir login createrole password 'heir'", "create database heritage owner heir")
        yield Cluster(server, re.sub(r"//postgres:[^@]+@", "//heir:heir@", server.url_of("heritage")))
    finally:
        server.stop()
        remove_data(folder)


async def catalog(url: str, owner: str) -> dict[str, list[str]]:
    """What the database says of itself, with its owner's name left out."""
    connection = await asyncpg.connect(url, timeout=5)
    try:
        rows: dict[str, Any] = {name: await connection.fetch(query) for name, query in CATALOG.items()}
    finally:
        await connection.close()
    return {
        name: sorted(
            _without_order(re.sub(rf"(?<=/){owner}\b|\b{owner}(?==)", "OWNER", str(tuple(row)))) for row in found
        )
        for name, found in rows.items()
    }


def _without_order(text: str) -> str:
    """An access list is a set."""
    return re.sub(r"\{([^{}]*)\}", lambda found: "{" + ",".join(sorted(found[1].split(","))) + "}", text)


def script(name: str, *arguments: object, location: Location) -> subprocess.CompletedProcess[str]:
    """With the servers' own pg_dump, pg_restore and psql, which are in the wheel: of a fitting version."""
    path = f"{location.postgres_bin}:{os.environ['PATH']}"
    return run(["/bin/sh", INFRA / name, *map(str, arguments)], env={"PATH": path}, timeout_seconds=60)


@pytest.fixture
def programs(server_location: Location) -> Location:
    missing = [name for name in ("pg_dump", "pg_restore", "psql") if not (server_location.postgres_bin / name).exists()]
    if missing:
        pytest.skip(f"the embedded PostgreSQL comes without {', '.join(missing)}")
    return server_location


@pytest.mark.parametrize("file", ["chorus.dump", "chorus.sql"])
async def test_a_backup_restored_into_a_fresh_cluster_keeps_everything(
    store_url: str, fresh: Cluster, programs: Location, tmp_path: Path, file: str
) -> None:
    store = PostgresStore(store_url)
    account = await store.create_account(
        name="Shop", slug="shop", phone_number_id="1", access_token="cipher", verify_token="v"
    )
    await store.add_member(account.id, "amina", Role.OWNER)
    await store.aclose()

    saved = script("backup.sh", store_url, tmp_path / file, location=programs)
    assert saved.returncode == 0, saved.stderr
    assert (tmp_path / file).stat().st_mode & 0o077 == 0, "customers' messages are not for everybody"
    restored = script("restore.sh", fresh.url, tmp_path / file, location=programs)
    assert restored.returncode == 0, restored.stderr

    before, after = await catalog(store_url, "postgres"), await catalog(fresh.url, "heir")
    assert before["policies"]
    for name, rows in before.items():
        assert after[name] == rows, name
    assert await pending_migrations(fresh.url) == await newer_migrations(fresh.url) == []
    heir = PostgresStore(fresh.url)
    assert await heir.get_account(account.id) == account
    await heir.aclose()
    assert await seen_by(fresh, "amina") == [account.slug]
    assert await seen_by(fresh, "a stranger") == []


async def seen_by(cluster: Cluster, user: str) -> list[str]:
    """The accounts that row-level security shows to a signed-in user."""
    connection = await asyncpg.connect(cluster.server.url_of("heritage"), timeout=5)
    try:
        async with connection.transaction():
            await connection.execute("select set_config('request.jwt.claims', $1, true)", f'{{"sub": "{user}"}}')
            await connection.execute("set local role authenticated")
            return [row["slug"] for row in await connection.fetch("select slug from whatsapp_accounts")]
    finally:
        await connection.close()


async def test_a_database_that_has_the_schema_is_left_alone(store_url: str, programs: Location, tmp_path: Path) -> None:
    script("backup.sh", store_url, tmp_path / "chorus.dump", location=programs)
    refused = script("restore.sh", store_url, tmp_path / "chorus.dump", location=programs)
    assert refused.returncode == 2
    assert "has a schema of Chorus already" in refused.stderr


async def test_a_user_who_may_not_create_the_roles_is_told_what_to_do_first(
    store_url: str, fresh: Cluster, programs: Location, tmp_path: Path
) -> None:
    script("backup.sh", store_url, tmp_path / "chorus.dump", location=programs)
    fresh.server.execute("alter role heir nocreaterole")
    refused = script("restore.sh", fresh.url, tmp_path / "chorus.dump", location=programs)
    assert refused.returncode == 2
    assert "an administrator must first run infra/postgres/roles.sql" in refused.stderr
    fresh.server.execute((INFRA / "roles.sql").read_text())
    assert script("restore.sh", fresh.url, tmp_path / "chorus.dump", location=programs).returncode == 0
