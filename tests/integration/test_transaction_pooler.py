"""PgBouncer in transaction mode, on any port, from the start or switched to it while we run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from app.adapters.database_trouble import DatabaseUnavailable, Trouble
from app.adapters.postgres_store import PostgresStore
from app.core.http_client import close_http_client
from app.doctor.database_checks import check_database
from app.main import create_app
from app.settings import Pooling
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.serving import OPERATOR_KEY, outside_world, served, settings_of

MakeBouncer = Callable[..., PgBouncer]


@pytest.fixture
def bouncer(store_url: str) -> Iterator[MakeBouncer]:
    with ExitStack() as stack:
        yield lambda pool_mode, **more: stack.enter_context(pgbouncer(store_url, pool_mode=pool_mode, **more))


@asynccontextmanager
async def store_at(url: str, pooling: Pooling = Pooling.AUTO) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, pooling=pooling)
    try:
        yield store
    finally:
        await store.aclose()


async def work(store: PostgresStore, rounds: int) -> None:
    """Different calls at once, as replicas make them."""
    for _ in range(rounds):
        await asyncio.gather(store.ping(), store.schema_version(), store.list_accounts(user_id=None))


@pytest.mark.parametrize("pool_size", [1, 20])
async def test_it_is_recognised_before_the_first_call(bouncer: MakeBouncer, pool_size: int) -> None:
    async with store_at(bouncer("transaction", pool_size=pool_size).url) as store:
        await store.ping()
        assert store.is_pooled
        await work(store, 20)


async def test_a_pooler_that_keeps_sessions_is_none(bouncer: MakeBouncer) -> None:
    async with store_at(bouncer("session").url) as store:
        await work(store, 20)
        assert not store.is_pooled


async def test_switched_to_it_no_call_fails_and_none_is_a_bug(bouncer: MakeBouncer) -> None:
    pooler = bouncer("session")
    async with store_at(pooler.url) as store:
        await work(store, 10)
        await pooler.switch("transaction")
        await asyncio.gather(*(work(store, 10) for _ in range(10)))
        assert store.is_pooled
        await work(store, 20)


async def test_told_that_there_is_none_its_errors_are_still_no_bug(bouncer: MakeBouncer) -> None:
    pooler = bouncer("session")
    async with store_at(pooler.url, Pooling.SESSION) as store:
        await work(store, 10)
        await pooler.switch("transaction")
        outcomes = await asyncio.gather(*(work(store, 5) for _ in range(10)), return_exceptions=True)
        troubles = {o.trouble if isinstance(o, DatabaseUnavailable) else type(o) for o in outcomes if o is not None}
        assert troubles <= {Trouble.POOLED, Trouble.AWAY}
        assert not store.is_pooled


async def test_told_that_there_is_one_nobody_looks(bouncer: MakeBouncer) -> None:
    async with store_at(bouncer("session").url, Pooling.TRANSACTION) as store:
        await work(store, 5)
        assert store.is_pooled


@pytest.mark.parametrize(("pool_mode", "words"), [("session", "session of its own"), ("transaction", "no prepared")])
async def test_doctor_says_it(bouncer: MakeBouncer, valkey_url: str, pool_mode: str, words: str) -> None:
    settings = settings_of("http://127.0.0.1:9", valkey_url, bouncer(pool_mode).url)
    async with AsyncExitStack() as stack:
        findings = {finding.subject: finding for finding in await check_database(settings, stack)}
    assert words in findings["database pooling"].detail
    assert not any(finding.is_bad for finding in findings.values()), findings


async def test_a_lock_is_not_waited_for_behind_it_either(bouncer: MakeBouncer, store_url: str) -> None:
    other = await asyncpg.connect(store_url)
    async with store_at(bouncer("transaction").url) as store:
        account = await _account(store)
        async with other.transaction():
            await other.execute("select from whatsapp_accounts where id = $1 for update", account)
            with pytest.raises(DatabaseUnavailable) as caught:
                await store.update_account(account, {"name": "New"})
        assert caught.value.trouble is Trouble.LOCKED
        await store.update_account(account, {"name": "New"})
    await other.close()


async def _account(store: PostgresStore) -> str:
    made = await store.create_account(
        name="Shop", slug="shop", phone_number_id="1", access_token="cipher", verify_token="verify"
    )
    return made.id


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_a_replica_starts_behind_it(bouncer: MakeBouncer, valkey_url: str, pool_mode: str) -> None:
    pooler = bouncer(pool_mode)
    body: dict[str, Any] = {
        "name": "Shop", "slug": "shop-1", "phone_number_id": "7000123456", "access_token": "a-token-of-the-sandbox",
        "verify_token": "verify-token-1",
    }  # fmt: skip
    async with (
        outside_world() as world,
        served(create_app(settings_of(world.url, valkey_url, pooler.url))) as base,
        httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {OPERATOR_KEY}"}) as http,
    ):
        answer = await http.post("/accounts", json=body)
        assert answer.status_code == 201, answer.text
        assert (await http.get("/health/ready")).status_code == 200
    await close_http_client()
