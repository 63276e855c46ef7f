"""Bringing the schema up to date, with the Supabase CLI's own bookkeeping: either tool sees what the other applied.

1. Files are `<version>_chorus_<topic>.sql` in `infra/supabase/migrations`; the version is 14 digits, they apply in its
   order. Other people's migrations in the same database are none of our business: only `chorus_…` is looked at.
2. Each file is one transaction that begins with an advisory lock and looks again at what is recorded, so that any
   number of replicas may start at once, through a pooler too. A file that fails leaves nothing behind.
3. What is recorded is compared with the file, but for white space and semicolons, which the CLI drops. A file changed
   after it was applied is an error and nothing is applied. A record of a file that this version does not have is from
   a newer version, which was rolled back: migrations let the version before them go on, so it is no error.
4. Before the first one is applied the user's rights are looked at: what an administrator must run is said in SQL.

Not for statements that cannot run in a transaction (`create index concurrently`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import asyncpg

from app.adapters.database_trouble import DatabaseUnavailable, Trouble, database_cause, trouble
from app.adapters.postgres_url import connecting
from app.core.failure_words import named
from app.domain.errors import ConfigurationError, MigrationFailed

_PACKAGED = resources.files("app").joinpath("migrations")
_IN_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "infra" / "supabase" / "migrations"

MIGRATIONS: Traversable = _PACKAGED if _PACKAGED.is_dir() else _IN_THE_REPOSITORY
"""A wheel carries them in the package (pyproject.toml). In the repository, and in the image, they are where the
Supabase CLI wants them, and nowhere else."""

MINIMUM_VERSION = 15
"""The oldest one that the migrations are tried on (tests/infra/test_postgres_versions.py)."""
CONNECT_SECONDS = 3.0
TIMEOUT_SECONDS = 120.0
LOCK_ID = 0x63686F727573
"""Any number that no other program takes: "chorus" in ASCII."""

_REFUSED = ("28", "3D000", "42501")
"""SQLSTATE: credentials, no such database, insufficient privilege."""

_FILE = re.compile(r"(\d{14})_(chorus_[a-z0-9_]+)\.sql")

_BOOKKEEPING = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
"""


_STATEMENTS_OF_AN_ADMINISTRATOR = """
select array_agg(statement order by rank, statement) from (
  select 1 as rank, format('create role %I nologin', wanted) as statement
  from unnest(array['anon', 'authenticated', 'service_role']) wanted
  where not exists (select from pg_roles where rolname = wanted)
    and not (select rolsuper or rolcreaterole from pg_roles where rolname = current_user)
  union all
  select 2, format('grant create on database %I to %I', current_database(), current_user)
  where not has_database_privilege(current_database(), 'create')
  union all
  select 3, format('grant create, usage on schema public to %I with grant option', current_user)
  where to_regnamespace('public') is not null
    and not (has_schema_privilege('public', 'create') and has_schema_privilege('public', 'usage with grant option'))
) missing
"""
"""As few as there are: roles belong to the whole server, the schema `public` to the database's owner since 15."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: str
    name: str
    sql: str

    @property
    def id(self) -> str:
        return f"{self.version}_{self.name}"


async def apply_migrations(
    database_url: str, directory: Traversable = MIGRATIONS, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> list[str]:
    """Apply what is missing and return its names, in order. Idempotent.

    Raises `Unavailable`; `ConfigurationError` when the database refuses us, or contradicts the files; and
    `MigrationFailed` with the code of a statement that it refused.
    """
    migrations = read_migrations(directory)
    async with database_session(database_url, timeout_seconds) as connection:
        async with _locked(connection):
            if _missing(migrations, await _recorded(connection)):
                await _check_server(connection)
                await connection.execute(_BOOKKEEPING)
        applied = [m.id for m in migrations if await _apply(connection, m)]
        if applied:
            # PostgREST keeps a copy of the schema.
            await connection.execute("notify pgrst, 'reload schema'")
        return applied


async def pending_migrations(
    database_url: str, directory: Traversable = MIGRATIONS, *, timeout_seconds: float = CONNECT_SECONDS + 5
) -> list[str]:
    """The names of what `apply_migrations` would apply; changes nothing. Raises the same."""
    migrations = read_migrations(directory)
    async with database_session(database_url, timeout_seconds) as connection, connection.transaction():
        return [m.id for m in _missing(migrations, await _recorded(connection))]


async def newer_migrations(
    database_url: str, directory: Traversable = MIGRATIONS, *, timeout_seconds: float = CONNECT_SECONDS + 5
) -> list[str]:
    """The names of what a newer version of Chorus has applied; changes nothing. Raises as `apply_migrations`."""
    known = {m.id for m in read_migrations(directory)}
    async with database_session(database_url, timeout_seconds) as connection, connection.transaction():
        return sorted(set(await _recorded(connection)) - known)


def read_migrations(directory: Traversable = MIGRATIONS) -> list[Migration]:
    """Our files in order. Raises `ConfigurationError` if there are none."""
    files = sorted(directory.iterdir(), key=lambda file: file.name) if directory.is_dir() else []
    found = [(match, file) for file in files if (match := _FILE.fullmatch(file.name))]
    if not found:
        raise ConfigurationError("migrations", f"none found in {directory}; they come with the package")
    return [Migration(match[1], match[2], file.read_text(encoding="utf-8")) for match, file in found]


def _missing(migrations: list[Migration], recorded: Mapping[str, str | None]) -> list[Migration]:
    for m in migrations:
        statements = recorded.get(m.id)
        if statements is not None and _essence(statements) != _essence(m.sql):
            raise ConfigurationError(
                "migrations", f"{m.id} was changed after it was applied: undo that and write a new migration"
            )
    return [m for m in migrations if m.id not in recorded]


def _essence(sql: str) -> str:
    return re.sub(r"[\s;]+", "", sql)


async def _recorded(connection: asyncpg.Connection) -> dict[str, str | None]:
    """Each migration of ours that is applied -> its statements, if they were kept when it was applied."""
    if not await connection.fetchval("select to_regclass('supabase_migrations.schema_migrations') is not null"):
        return {}
    rows = await connection.fetch(
        "select version || '_' || name as id, array_to_string(statements, '') as sql"
        r" from supabase_migrations.schema_migrations where name like 'chorus\_%'"
    )
    return {row["id"]: row["sql"] for row in rows}


async def _check_server(connection: asyncpg.Connection) -> None:
    """Raises `ConfigurationError` if it is too old, or with the statements that give this user what the migrations need
    of it."""
    if connection.get_server_version().major < MINIMUM_VERSION:
        number = connection.get_server_version().major
        raise ConfigurationError("DATABASE_URL", f"PostgreSQL {MINIMUM_VERSION} or later is needed; this is {number}")
    statements = await connection.fetchval(_STATEMENTS_OF_AN_ADMINISTRATOR)
    if statements:
        lines = "".join(f"\n    {statement};" for statement in statements)
        raise ConfigurationError(
            "DATABASE_URL",
            "this user may not do all that the migrations need; an administrator must first run, in this database:"
            f"{lines}",
        )


async def _apply(connection: asyncpg.Connection, migration: Migration) -> bool:
    """False: another process was faster."""
    async with _locked(connection):
        if migration.id in await _recorded(connection):
            return False
        try:
            await connection.execute(migration.sql)
        except asyncpg.PostgresError as exc:
            exc.add_note(f"while applying {migration.id}{_line_of(exc, migration.sql)}")
            raise
        await connection.execute(
            "insert into supabase_migrations.schema_migrations (version, name, statements) values ($1, $2, $3)",
            migration.version, migration.name, [migration.sql],
        )  # fmt: skip
        return True


def _line_of(exc: asyncpg.PostgresError, sql: str) -> str:
    """Where the server could not read the file; nothing for a statement that it read and did not carry out."""
    position = getattr(exc, "position", None)
    return f", line {sql.count(chr(10), 0, int(position)) + 1}" if position and position.isdecimal() else ""


@asynccontextmanager
async def _locked(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that no other replica's migration overlaps."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK_ID)
        yield


@asynccontextmanager
async def database_session(database_url: str, timeout_seconds: float) -> AsyncIterator[asyncpg.Connection]:
    """One connection for at most `timeout_seconds` in all, with its errors translated."""
    try:
        async with asyncio.timeout(timeout_seconds):
            with connecting():
                connection = await asyncpg.connect(database_url, timeout=CONNECT_SECONDS, statement_cache_size=0)
            try:
                yield connection
            finally:
                connection.terminate()
    except asyncpg.PostgresError as exc:
        if exc.sqlstate.startswith(_REFUSED):
            cause = database_cause(exc)
            raise ConfigurationError("DATABASE_URL", _words(exc) + (f": {cause}" if cause else "")) from exc
        unavailable = trouble(exc.sqlstate)
        if unavailable is None or unavailable.trouble in (Trouble.REFUSED, Trouble.NOT_MIGRATED):
            raise MigrationFailed(_words(exc)) from exc
        raise unavailable from exc
    except (OSError, TimeoutError, asyncpg.InterfaceError) as exc:
        raise DatabaseUnavailable(Trouble.AWAY, f"no migration: {type(exc).__name__}") from exc


_NAME = re.compile(r"[\w.-]{1,63}")


def _words(exc: asyncpg.PostgresError) -> str:
    """Its code, what of the schema it is about, and our own notes. Its message and DETAIL may quote a row."""
    about = {what: getattr(exc, f"{what}_name", None) for what in ("table", "column", "constraint")}
    names = [f"{what} {name}" for what, name in about.items() if name and _NAME.fullmatch(name)]
    return " ".join([named(exc), *names, *(f"({note})" for note in getattr(exc, "__notes__", ()))])
