"""The database lives and lacks something: a lock, connections, disk. It is told, not counted, and over at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import httpx
import pytest

from app.core.circuit_breaker import State, supabase_circuit_breaker
from app.core.http_client import close_http_client
from app.main import create_app
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice
from tests.support.patience import Within
from tests.support.serving import OPERATOR_KEY, outside_world, served, settings_of

BACK_SECONDS = 4.0
"""From the end of the trouble to the last answer: a second to the next try, which tells the others; a slow machine."""
WAITING = 20
UNTOLD_SECONDS = 7.0
"""When the last of so many would come if the first did not tell the others."""

Lack = Callable[[], Awaitable[None]]


@pytest.fixture
async def sql(store_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(store_url)
    yield connection
    await connection.close()


def refusing(sql: asyncpg.Connection, table: str, sqlstate: str) -> tuple[Lack, Lack]:
    """Every insert into `table` fails with this code, until the second function is called."""

    async def begin() -> None:
        await sql.execute(
            f"create function public.refuse() returns trigger language plpgsql as $$"
            f" begin raise exception using errcode = '{sqlstate}'; end $$;"
            f" create trigger refuse before insert on public.{table} for each row execute function public.refuse()"
        )

    async def end() -> None:
        await sql.execute(f"drop trigger refuse on public.{table}; drop function public.refuse()")

    return begin, end


@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [("53100", "its disk is full"), ("53200", "no memory left"), ("53300", "no connection left"), ("55P03", "a lock")],
)
async def test_what_the_database_lacks_is_told_costs_no_attempt_and_is_over_at_once(
    make_office: MakeOffice, sql: asyncpg.Connection, sqlstate: str, words: str, within: Within
) -> None:
    office = await make_office(max_attempts=1)
    begin, end = refusing(sql, "messages", sqlstate)
    await begin()
    people = [office.person() for _ in range(WAITING)]
    for person in people:
        await office.receive(person, wa.text(person, "Where are you?"))

    async def told() -> bool:
        return words in (office.store.trouble() or "")

    await office.until(told)
    await office.store.ping()
    assert supabase_circuit_breaker.snapshot().state is State.CLOSED
    await end()
    ended = time.monotonic()
    await office.until_idle()
    assert time.monotonic() - ended < within(BACK_SECONDS, below=UNTOLD_SECONDS)
    assert (await office.queue.stats()).dead == 0
    assert [len(await office.sends(person)) for person in people] == [1] * WAITING


async def test_health_says_in_words_what_the_database_lacks(
    valkey_url: str, store_url: str, sql: asyncpg.Connection
) -> None:
    begin, end = refusing(sql, "whatsapp_accounts", "53100")
    await begin()
    body = {
        "name": "Shop", "slug": "shop-1", "phone_number_id": "7000123456", "access_token": "a-token-of-the-sandbox",
        "verify_token": "verify-token-1",
    }  # fmt: skip
    async with (
        outside_world() as world,
        served(create_app(settings_of(world.url, valkey_url, store_url))) as base,
        httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {OPERATOR_KEY}"}, timeout=20) as http,
    ):
        assert (await http.post("/accounts", json=body)).status_code == 503
        async with asyncio.timeout(10):
            while "trouble" not in (page := (await http.get("/health")).json())["dependencies"]["supabase"]:
                await asyncio.sleep(0.05)
        assert "its disk is full" in page["dependencies"]["supabase"]["trouble"]
        assert page["status"] == "degraded"
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get("/accounts")).status_code == 200, "what can be read is read"
        await end()
        assert (await http.post("/accounts", json=body)).status_code == 201
    await close_http_client()
