"""The user as whom replicas connect: a login that is a member of `service_role` and may do nothing else.

    await ensure_replica_role(owner_url, "postgresql://chorus_replica:secret@postgres/chorus")

`chorus migrate` calls it when MIGRATE_DATABASE_URL names the owner and DATABASE_URL the replicas' user, so that the two
never drift apart. The password is sent as a SCRAM verifier (RFC 5803): PostgreSQL writes statements into its log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import unicodedata
from urllib.parse import unquote, urlsplit

import asyncpg

from app.adapters.migrations import TIMEOUT_SECONDS, database_session
from app.domain.errors import ConfigurationError

ITERATIONS = 4096
"""PostgreSQL's own default (scram_iterations)."""
SALT_BYTES = 16

_STATE = """
select r.rolcanlogin, r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication as is_mighty,
  (select coalesce(array_agg(m.roleid::regrole::text), '{}') from pg_auth_members m where m.member = r.oid) as groups
from pg_roles r where r.rolname = $1
"""


async def ensure_replica_role(owner_url: str, replica_url: str) -> str:
    """Make the user of `replica_url`, or correct it: its password, its membership, and that temporary tables are the
    owner's alone. Returns its name. Idempotent. Raises `ConfigurationError` for a user that has rights of its own,
    and as `apply_migrations`."""
    parts = urlsplit(replica_url)
    name, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not name:
        raise ConfigurationError("DATABASE_URL", "names no user for the replicas")
    async with database_session(owner_url, TIMEOUT_SECONDS) as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtext('chorus replica role'))")
        state = await connection.fetchrow(_STATE, name)
        _check(name, state)
        statements = ["create role %I login inherit"] if state is None else []
        if password:
            statements.append(f"alter role %I password '{scram_verifier(password)}'")
        if state is None or "service_role" not in state["groups"]:
            statements.append("grant service_role to %I")
        for statement in statements:
            await _run(connection, statement, name)
        database = await connection.fetchval("select current_database()")
        await _run(connection, "revoke create, temporary on database %I from public", database)
        return name


def _check(name: str, state: asyncpg.Record | None) -> None:
    if state is None:
        return
    if state["is_mighty"] or not state["rolcanlogin"] or set(state["groups"]) - {"service_role"}:
        raise ConfigurationError(
            "DATABASE_URL",
            f"the user {name} may do more than a replica needs; name another one, and `chorus migrate` makes it",
        )


async def _run(connection: asyncpg.Connection, statement: str, name: str) -> None:
    """A name cannot be a parameter; `format` quotes it."""
    await connection.execute(await connection.fetchval("select format($1, $2::text)", statement, name))


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, as pg_authid.rolpassword holds it."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    prepared = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt_text}${stored_text}:{server_text}"
