"""Is there a pooler between us and PostgreSQL, and does it give every transaction another server connection?

Behind such a one (PgBouncer and Supavisor in transaction mode) nothing may outlive a transaction: no prepared
statement, no setting of the session, no LISTEN.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg

TRANSACTION_POOLER_PORT = 6543
"""Supavisor in transaction mode (Supabase docs, "Connect to your database")."""
SIGNS = frozenset({"26000", "42P05"})
"""A prepared statement is not where we left it, or is one that another client left: we are given another server
connection than before. Neither was carried out."""
PROBE_SECONDS = 2.0


def is_known_pooler(database_url: str) -> bool:
    """By its port."""
    try:
        return urlsplit(database_url).port == TRANSACTION_POOLER_PORT
    except ValueError:
        return False


async def is_transaction_pooler(database_url: str, *, connect_seconds: float) -> bool:
    """Do two connections of ours share one of the server's? `False` also where that cannot be found out: the errors
    will tell. Raises what connecting raises."""
    async with AsyncExitStack() as stack:
        first = await _connect(stack, database_url, connect_seconds)
        try:
            second = await _connect(stack, database_url, connect_seconds)
            async with asyncio.timeout(PROBE_SECONDS):
                before = await _server_of(first)
                await first.execute("commit")
                if await _server_of(second) == before:  # which is in a transaction from now on
                    return True
                return await _server_of(first) != before
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            return False


async def _connect(stack: AsyncExitStack, database_url: str, seconds: float) -> asyncpg.Connection:
    connection = await asyncpg.connect(
        database_url, timeout=seconds, command_timeout=PROBE_SECONDS, statement_cache_size=0
    )
    stack.callback(connection.terminate)
    return connection


async def _server_of(connection: asyncpg.Connection) -> int:
    """The process that serves the transaction which this begins."""
    await connection.execute("begin")
    pid: int = await connection.fetchval("select pg_backend_pid()")
    return pid
