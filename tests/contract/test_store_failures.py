"""The database away, slow, restarted, refusing, or hidden behind a proxy's error page."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
from postgrest.exceptions import APIError

from app.adapters.database_trouble import LOCK_SECONDS, DatabaseUnavailable, Trouble
from app.adapters.migrations import apply_migrations
from app.adapters.postgres_store import PostgresStore
from app.adapters.sql_store import SqlStore
from app.adapters.supabase_store import SupabaseStore
from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.errors import Unavailable
from app.core.http_client import close_http_client, get_http_client
from app.core.resilience import ResiliencePolicy
from app.core.slots import Caller, Rank, calling_as
from app.domain.errors import ConfigurationError, Conflict
from app.domain.models import Account
from app.localhost.servers import Postgres
from app.settings import Pooling
from tests.support.patience import Within
from tests.support.store_kit import quick_policy, unique, until_all_wait

# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(
    url: str,
    policy: ResiliencePolicy | None = None,
    *,
    pooling: Pooling = Pooling.AUTO,
    lock_seconds: float = LOCK_SECONDS,
) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, pooling=pooling, policy=policy or quick_policy(), lock_seconds=lock_seconds)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def somebody_else(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_database_that_is_away_at_the_start_is_used_when_it_is_there(
    store_url: str, postgres: Postgres
) -> None:
    postgres.stop()
    async with connected(store_url) as store:
        with pytest.raises(DatabaseUnavailable) as caught:
            await store.ping()
        assert caught.value.trouble is Trouble.AWAY
        assert caught.value.dependency == "database"
        await asyncio.to_thread(postgres.start)
        await store.ping()


async def test_a_goodbye_on_an_idle_connection_costs_no_call(store_url: str) -> None:
    """As on a restart: the server's last words are read, its closing of the connection is not yet."""
    async with connected(store_url) as store:
        await store.ping()
        assert store._connections is not None
        connection = await store._connections.acquire()
        goodbye = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
        connection._protocol.data_received(b"E" + (len(goodbye) + 4).to_bytes(4, "big") + goodbye)
        store._connections.release(connection)
        await store.ping()


async def test_a_restart_costs_no_call_that_comes_after_it(store_url: str, postgres: Postgres) -> None:
    async with connected(store_url) as store:
        await asyncio.gather(*(store.ping() for _ in range(10)))  # several idle connections, soon all broken
        await asyncio.to_thread(postgres.restart)
        await asyncio.gather(*(store.ping() for _ in range(10)))


async def test_a_crash_during_calls_fails_them_and_no_later_one(store_url: str, postgres: Postgres) -> None:
    async with connected(store_url) as store:
        await store.ping()
        await asyncio.to_thread(postgres.pause)
        calls = [asyncio.create_task(store.ping()) for _ in range(10)]
        await asyncio.to_thread(postgres.kill)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
        await asyncio.to_thread(postgres.start)
        await store.ping()


@pytest.mark.parametrize("pooling", Pooling)
async def test_a_frozen_database_is_given_up_in_time_and_used_again(
    store_url: str, postgres: Postgres, pooling: Pooling, within: Within
) -> None:
    policy = quick_policy(attempt_timeout_seconds=0.5)
    async with connected(store_url, policy, pooling=pooling) as store:
        await store.ping()
        await asyncio.to_thread(postgres.pause)
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="no answer"):
            await store.ping()
        assert time.monotonic() - started < within(2)
        await asyncio.to_thread(postgres.resume)
        await store.ping()


@pytest.mark.parametrize("pooling", [Pooling.SESSION, Pooling.TRANSACTION])
async def test_a_locked_row_is_given_up_soon_not_asked_for_again_and_blames_nobody(
    store_url: str, pooling: Pooling, within: Within
) -> None:
    policy = quick_policy(failure_threshold=1)
    async with somebody_else(store_url) as other, connected(store_url, policy, pooling=pooling) as store:
        account = await _another(store)
        async with other.transaction():
            await other.execute("select from whatsapp_accounts where id = $1 for update", account.id)
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable) as caught:
                await store.update_account(account.id, {"name": "New"})
            assert LOCK_SECONDS <= time.monotonic() - started < within(2 * LOCK_SECONDS + 0.2)
            assert (caught.value.trouble, caught.value.retry_after) == (Trouble.LOCKED, 1.0)
            assert await store.get_account(account.id) == account
        await store.update_account(account.id, {"name": "New"})


@pytest.mark.parametrize("pooling", [Pooling.SESSION, Pooling.TRANSACTION])
async def test_one_accounts_locked_rows_keep_no_place_from_the_others(store_url: str, pooling: Pooling) -> None:
    """Forty handlers of one account wait for a lock; another one's, a page, the probe and a record are quick."""
    async with (
        somebody_else(store_url) as other,
        connected(store_url, quick_policy(), pooling=pooling, lock_seconds=4.0) as store,
    ):
        account, healthy = await _another(store), await _another(store)

        async def handler(group: str, of: Account) -> None:
            with calling_as(Caller(Rank.BACKGROUND, group)):
                await store.update_account(of.id, {"name": "New"})

        async with other.transaction():
            await other.execute("select from whatsapp_accounts where id = $1 for update", account.id)
            stuck = [asyncio.create_task(handler("stuck", account)) for _ in range(40)]
            await until_all_wait(other, *stuck[:5])
            started = time.monotonic()
            await asyncio.gather(
                *(handler("healthy", healthy) for _ in range(20)),
                *(store.get_account(account.id) for _ in range(20)),
                store.ping(),
            )
            seconds = time.monotonic() - started
            for task in stuck:
                task.cancel()
            await asyncio.wait(stuck)
        assert seconds < 4.0, "they waited for the lock of the other account"


async def test_a_cancelled_call_leaves_nothing_behind(store_url: str, postgres: Postgres) -> None:
    async with connected(store_url) as store:
        await asyncio.gather(*(store.ping() for _ in range(10)))
        await asyncio.to_thread(postgres.pause)
        calls = [asyncio.create_task(store.ping()) for _ in range(20)]
        for _ in range(10):  # ten of them have asked, ten wait for their turn
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        await asyncio.to_thread(postgres.resume)
        await asyncio.gather(*(store.ping() for _ in range(20)))


async def test_more_calls_than_connections_wait_their_turn(store_url: str) -> None:
    async with connected(store_url) as store:
        await asyncio.gather(*(store.ping() for _ in range(200)))


async def test_behind_a_transaction_pooler_every_call_is_one_transaction(store_url: str) -> None:
    async with connected(store_url, pooling=Pooling.TRANSACTION) as store:
        account = await _another(store)
        assert await store.get_account(account.id) == account
        with pytest.raises(Conflict):
            await store.update_account(account.id, {"slug": (await _another(store)).slug})
        with pytest.raises(asyncpg.PostgresError):
            await store.update_account(account.id, {"name": None})
        assert await store.get_account(account.id) == account


async def _another(store: SqlStore) -> Account:
    name = unique("account")
    return await store.create_account(name=name, slug=name, phone_number_id=name, access_token="c", verify_token="v")


async def test_a_database_without_our_schema_says_what_to_do(postgres_url: str) -> None:
    async with connected(postgres_url) as store:
        with pytest.raises(DatabaseUnavailable, match="chorus migrate") as caught:
            await store.ping()
        assert caught.value.trouble is Trouble.NOT_MIGRATED
        assert await store.applied_migrations() == ()


async def test_a_missing_schema_opens_no_circuit(postgres_url: str) -> None:
    """It would stay open after `chorus migrate`."""
    async with connected(postgres_url) as store:
        for _ in range(20):
            with pytest.raises(DatabaseUnavailable, match="chorus migrate"):
                await store.ping()
        await apply_migrations(postgres_url)
        await store.ping()


async def test_a_database_that_takes_no_writes_is_seen_by_looking_at_it(store_url: str) -> None:
    """No message can be stored in it, although it answers."""
    async with connected(f"{store_url}?default_transaction_read_only=on") as store:
        assert await store.ping() is False
        with pytest.raises(DatabaseUnavailable, match="25006, it takes no writes"):
            await store.probe()


async def test_refused_credentials_are_unavailable_and_not_tried_again(store_url: str) -> None:
    """Work waits until the operator has mended it; it is not lost."""
    async with connected(re.sub(r":[^:@]+@", ":wrong@", store_url)) as store:
        with pytest.raises(DatabaseUnavailable, match="28P01") as caught:
            await store.ping()
        assert caught.value.trouble is Trouble.REFUSED


async def test_a_malformed_url_is_named_without_its_password() -> None:
    async with connected("postgresql://user:secret@host:port/x") as store:
        with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
            await store.ping()
        assert "secret" not in str(caught.value)


async def test_a_closed_store_is_unavailable(store_url: str) -> None:
    async with connected(store_url) as store:
        await store.ping()
        await store.aclose()
        with pytest.raises(Unavailable):
            await store.ping()


async def test_five_failures_open_the_circuit() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/x"
        async with connected(url, quick_policy(failure_threshold=5)) as store:
            with pytest.raises(DatabaseUnavailable):
                await store.ping()
            with pytest.raises(CircuitBreakerOpenError):
                await store.ping()


# -- REST, with a server that answers what it is told ------------------------------------------------------------------

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Rest:
    """Answers the n-th request with the n-th answer, and the last one from then on."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answers: list[Answer] = []
        self._connections: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Yields the URL. Ends when the client has closed its connections."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await asyncio.gather(*self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        self.requests.append(f"{head.partition(' HTTP')[0]} {body.decode()}")
        await self.answers[min(len(self.requests), len(self.answers)) - 1](reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def answer(status: int, body: str, *, content_type: str = "application/json") -> Answer:
    async def write(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
        writer.write(f"{head}\r\nconnection: close\r\n\r\n{body}".encode())

    return write


def error(status: int, code: str | None, message: str = "") -> Answer:
    fields = {"message": message} | ({"code": code} if code else {})
    return answer(status, json.dumps(fields))


async def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection is lost after the request was read: perhaps it was carried out."""
    writer.transport.abort()


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers, half a body, and silence until the client gives up."""
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"ok":')
    await reader.read()


GOOD = answer(200, '{"ok": true}')


@pytest.fixture
def rest() -> Rest:
    return Rest()


@pytest.fixture
async def rest_store(rest: Rest) -> AsyncIterator[SqlStore]:
    async with rest.listening() as url:
        policy = quick_policy(attempt_timeout_seconds=0.8, failure_threshold=4)
        try:
            yield SupabaseStore(url, "sb_secret_x", await get_http_client(), policy=policy)
        finally:
            await close_http_client()


PASSING = {
    "503 without a body": answer(503, ""),
    "an edge's page": answer(502, "<html>Bad gateway</html>", content_type="text/html"),
    "an edge's page with 200": answer(200, "<html>One moment</html>", content_type="text/html"),
    "522 of the edge": answer(522, "<html></html>", content_type="text/html"),
    "too many requests": answer(429, "slow down", content_type="text/plain"),
    "the gateway's own JSON": error(503, None, "name resolution failed"),
    "no connection to the database": error(503, "PGRST000"),
    "pool exhausted": error(504, "PGRST003"),
    "serialisation failure": error(400, "40001"),
    "deadlock": error(400, "40P01"),
    "too many clients": error(503, "53300"),
    "shutting down": error(503, "57P01"),
    "connection failure": error(503, "08006"),
    "a token of the future": error(401, "PGRST303", "JWT issued at future"),
    "a token of the future, as older versions say": error(401, "PGRST301", "JWT not yet valid"),
    "lost after the request": drop,
    "half an answer": stall,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_passing_fault_is_repeated(rest: Rest, rest_store: SqlStore, fault: Answer) -> None:
    rest.answers = [fault, fault, GOOD]
    await rest_store.ping()
    assert rest.requests == ['POST /rest/v1/rpc/chorus_ping {"p":{}}'] * 3


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_lasting_fault_is_unavailable(rest: Rest, rest_store: SqlStore, fault: Answer) -> None:
    rest.answers = [fault]
    with pytest.raises(DatabaseUnavailable) as caught:
        await rest_store.ping()
    assert caught.value.trouble is not Trouble.REFUSED
    assert len(rest.requests) == 3


REFUSED = {
    "key refused by the gateway": answer(401, "no", content_type="text/plain"),
    "token refused": error(401, "PGRST301"),
    "token expired": error(401, "PGRST303", "JWT expired"),
    "token for another audience": error(401, "PGRST303", "JWT not in audience"),
    "no privilege": error(403, "42501"),
}


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
async def test_a_refusal_is_unavailable_at_once(rest: Rest, rest_store: SqlStore, fault: Answer) -> None:
    rest.answers = [fault]
    with pytest.raises(DatabaseUnavailable) as caught:
        await rest_store.ping()
    assert caught.value.trouble is Trouble.REFUSED
    assert len(rest.requests) == 1


async def test_an_unknown_function_means_a_missing_migration(rest: Rest, rest_store: SqlStore) -> None:
    rest.answers = [error(404, "PGRST202")]
    with pytest.raises(DatabaseUnavailable, match="chorus migrate") as caught:
        await rest_store.ping()
    assert caught.value.trouble is Trouble.NOT_MIGRATED
    assert len(rest.requests) == 1


@pytest.mark.parametrize("code", ["23505", "22P02", "42703", "P0001", "PGRST116", "PGRST204"])
async def test_a_bug_is_raised_as_it_is(rest: Rest, rest_store: SqlStore, code: str) -> None:
    rest.answers = [error(400, code)]
    with pytest.raises(APIError):
        await rest_store.ping()
    assert len(rest.requests) == 1


async def test_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        store = SupabaseStore(url, "sb_secret_x", await get_http_client(), policy=quick_policy())
        with pytest.raises(DatabaseUnavailable):
            await store.ping()
        await close_http_client()


async def test_transactions_that_lose_say_nothing_about_the_databases_health(rest: Rest, rest_store: SqlStore) -> None:
    rest.answers = [error(400, "40P01")]
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await rest_store.ping()
    rest.answers = [GOOD]
    await rest_store.ping()
