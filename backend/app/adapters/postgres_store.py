"""The store on a direct PostgreSQL connection (DATABASE_URL), through asyncpg."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import orjson

from app.adapters.database_trouble import LOCK_SECONDS, DatabaseUnavailable, Trouble, database_policy, trouble
from app.adapters.postgres_connections import Connections
from app.adapters.postgres_notifications import OUTBOX_CHANNEL, Notifications
from app.adapters.postgres_pooling import SIGNS, is_known_pooler, is_transaction_pooler
from app.adapters.postgres_url import connecting
from app.adapters.sql_store import ERASED, ERASED_CODE, OnChanges, SqlStore, ignore_changes
from app.core.resilience import ResiliencePolicy
from app.settings import Pooling

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_CONNECTIONS = 10
"""And as many calls at once, each of about a millisecond."""
CONNECT_SECONDS = 3.0
COMMAND_SECONDS = 10.0
CLOSE_SECONDS = 5.0

_FOR_USERS = """
select current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
  - coalesce(current_setting('reserved_connections', true), '0')::integer
"""


class PostgresStore(SqlStore):
    """Nothing is connected before the first call, and a connection that breaks is replaced by the next one: a
    database that is away or restarts costs the calls made meanwhile, not the process.

    Behind a transaction pooler nothing may outlive a transaction: no prepared statement is kept, and every call is
    wrapped in a transaction of its own, since otherwise parsing and executing a statement can end up on two different
    servers. With `Pooling.AUTO` it is recognised by its port, by a look before the first call, or later by its errors.
    """

    def __init__(
        self,
        database_url: str,
        *,
        pooling: Pooling = Pooling.AUTO,
        max_connections: int = MAX_CONNECTIONS,
        policy: ResiliencePolicy | None = None,
        lock_seconds: float = LOCK_SECONDS,
        on_changes: OnChanges = ignore_changes,
    ) -> None:
        super().__init__(policy or database_policy(max_concurrent=max_connections), on_changes)
        self._url = database_url
        self._pooling = pooling
        self._max_connections = max_connections
        self._lock_seconds = lock_seconds
        self._pooled = pooling is Pooling.TRANSACTION or (pooling is Pooling.AUTO and is_known_pooler(database_url))
        self._opening = asyncio.Lock()
        self._connections: Connections | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._notifications = Notifications(database_url)
        self._event_notifications = Notifications(database_url, OUTBOX_CHANNEL)

    @property
    def is_pooled(self) -> bool:
        """Is every call a transaction of its own, because a pooler is in between? Certain after the first call."""
        return self._pooled

    async def wait_for_invalidations(self, timeout_seconds: float) -> None:
        if self._pooled:  # a transaction pooler has no session that could listen
            await super().wait_for_invalidations(timeout_seconds)
        else:
            await self._notifications.wait(timeout_seconds)

    async def ignore_invalidations(self) -> None:
        await self._notifications.aclose()

    async def wait_for_events(self, timeout_seconds: float) -> None:
        if self._pooled:
            await super().wait_for_events(timeout_seconds)
        else:
            await self._event_notifications.wait(timeout_seconds)

    async def ignore_events(self) -> None:
        await self._event_notifications.aclose()

    async def mute_events(self) -> bool:
        return await self._event_notifications.mute()

    async def unmute_events(self) -> None:
        await self._event_notifications.unmute()

    async def connection_limit(self) -> int:
        """How many connections the server has for ordinary users, of all programs. Raises `DatabaseUnavailable`."""
        with _TRANSLATED:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await self._with_connection(_connection_limit)

    async def _execute(self, function: str, body: bytes) -> object:
        text = body.decode()
        with _TRANSLATED:
            try:
                answer = await self._with_connection(self._fetch, function, text)
            except asyncpg.PostgresError as exc:
                if exc.sqlstate == ERASED_CODE:
                    return ERASED
                if not self._recognises_pooler(exc):
                    raise
                answer = await self._with_connection(self._fetch, function, text)  # nothing was carried out
        return orjson.loads(answer)

    async def _with_connection(self, ask: Callable[..., Awaitable[T]], *args: object) -> T:
        connections = self._connections or await self._open()
        try:
            connection = await connections.acquire()
        except asyncpg.InterfaceError:
            if connections is self._connections:
                raise
            # Another call has recognised a pooler, and these were closed while this one waited.
            connections = self._connections or await self._open()
            connection = await connections.acquire()
        try:
            answer = await ask(connection, *args)
        except BaseException as exc:
            if self._is_reusable(exc):
                connections.release(connection)
            else:
                connections.discard(connection)
            raise
        connections.release(connection)
        return answer

    def _recognises_pooler(self, exc: asyncpg.PostgresError) -> bool:
        """Was it one of its signs? Then from now on this store works as behind one, with new connections."""
        if exc.sqlstate not in SIGNS or self._pooling is Pooling.SESSION:
            return False
        if not self._pooled:
            logger.warning("a pooler in transaction mode is in front of the database", extra={"reason": exc.sqlstate})
            self._pooled = True
            connections, self._connections = self._connections, None
            if connections is not None:
                closing = asyncio.create_task(connections.aclose(CLOSE_SECONDS), name="close connections")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        return True

    async def _fetch(self, connection: asyncpg.Connection, function: str, body: str) -> str:
        query = f"select public.{function}($1::jsonb)"  # the names are literals of SqlStore
        if not self._pooled:
            return str(await connection.fetchval(query, body))
        await connection.execute(f"begin; {self._limits('set local')}")
        answer = str(await connection.fetchval(query, body))
        await connection.execute("commit")
        return answer

    def _is_reusable(self, exc: BaseException) -> bool:
        """May the connection serve the next call? Cancelled or broken half-way, what comes back on it is not the
        next call's; read-only, it leads to what used to be the primary; behind a pooler it is left in a transaction."""
        return (
            isinstance(exc, asyncpg.PostgresError)
            and not isinstance(exc, asyncpg.ReadOnlySQLTransactionError)
            and not self._pooled
        )

    async def _open(self) -> Connections:
        async with self._opening:
            if self._closed:
                raise DatabaseUnavailable(Trouble.AWAY, "the store is closed")
            if self._connections is None:
                if self._pooling is Pooling.AUTO and not self._pooled:
                    self._pooled = await _look(self._url)
                self._connections = Connections(
                    self._connect, limit=self._max_connections, connect_seconds=CONNECT_SECONDS
                )
            return self._connections

    async def _connect(self) -> asyncpg.Connection:
        """No limit of asyncpg's own for a command: every call here has one."""
        with connecting():
            connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_SECONDS,
                statement_cache_size=0 if self._pooled else 100,
                server_settings={"application_name": "chorus", "timezone": "UTC"},
            )
        try:
            if not self._pooled:
                await self._limit(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def aclose(self) -> None:
        """Idempotent. Waits for calls under way, `CLOSE_SECONDS` at most."""
        await self.ignore_invalidations()
        await self.ignore_events()
        async with self._opening:
            self._closed = True
            connections, self._connections = self._connections, None
        if connections is not None:
            await connections.aclose(CLOSE_SECONDS)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _limit(self, connection: asyncpg.Connection) -> None:
        """The server stops by itself what we have given up. Not at connect: poolers refuse what they do not know."""
        await connection.execute(self._limits("set"))

    def _limits(self, how: str) -> str:
        return f"{how} statement_timeout = '{COMMAND_SECONDS}s'; {how} lock_timeout = '{self._lock_seconds}s'"


class _Translated:
    """What asyncpg says in the block, as `DatabaseUnavailable` where it is about the database and not about what we
    asked."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, asyncpg.PostgresError):
            if unavailable := trouble(exc.sqlstate or ""):
                raise unavailable from exc
        elif isinstance(exc, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            # The last one: the server has said goodbye on an idle connection, and asyncpg, which has not yet seen it
            # closed, finds itself in the middle of reading that when the next call comes.
            raise DatabaseUnavailable(Trouble.AWAY, type(exc).__name__) from exc


_TRANSLATED = _Translated()


async def _connection_limit(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval(_FOR_USERS))


async def _look(database_url: str) -> bool:
    with connecting():
        return await is_transaction_pooler(database_url, connect_seconds=CONNECT_SECONDS)
