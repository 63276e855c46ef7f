"""The journal and the inbox have room for everybody: an account may hold what is still free, on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Conflict
from tests.support.store_kit import NewAccount, unique

Put = Callable[..., Awaitable[tuple[int, tuple[Event, ...]]]]


@pytest.fixture(params=["journal", "inbox"])
async def put(request: pytest.FixtureRequest, store: SqlStore, sql: asyncpg.Connection) -> AsyncIterator[Put]:
    """`await put(events, max_rows=…, max_bytes=…)`: into an empty table of this name."""
    await sql.execute("truncate journal, inbox")

    async def into(
        events: Sequence[Event], *, max_rows: int = 1000, max_bytes: int = 10**9
    ) -> tuple[int, tuple[Event, ...]]:
        if request.param == "journal":
            return await store.journal_put(events, max_rows=max_rows, max_bytes=max_bytes)
        _, stored, diverted = await store.inbox_put(events, max_rows=max_rows, max_bytes=max_bytes, reopen=True)
        return stored, diverted

    yield into
    await sql.execute("truncate journal, inbox")
    await store.inbox_close()


def events(mailbox: str, count: int, *, size: int = 10) -> list[Event]:
    """Each in a conversation of its own."""
    return [Event(unique("e"), f"{mailbox}{n}", b"x" * size) for n in range(count)]


async def test_an_account_leaves_as_much_as_it_holds_whatever_kinds_it_uses(put: Put, new_account: NewAccount) -> None:
    loud, quiet = await new_account(), await new_account()
    stored = 0
    for kind in ("message", "status", "echo", "outbound"):
        stored += (await put(events(f"{kind}:{loud.phone_number_id}:", 50), max_rows=100))[0]
    assert stored == 50
    assert await put(events(f"message:{quiet.phone_number_id}:", 20), max_rows=100) == (20, ())


async def test_what_exceeds_a_share_is_told_and_what_came_with_it_is_stored(put: Put, new_account: NewAccount) -> None:
    loud, quiet = await new_account(), await new_account()
    flood = events(f"message:{loud.phone_number_id}:", 7)
    others = events(f"message:{quiet.phone_number_id}:", 2)
    assert await put([*flood, *others], max_rows=10) == (7, tuple(flood[5:]))


async def test_many_accounts_together_fill_it_and_then_nothing_is_stored(put: Put) -> None:
    for n in range(10):
        assert await put(events(f"account{n}:", 1), max_rows=10) == (1, ())
    with pytest.raises(Conflict):
        await put(events("one more:", 1), max_rows=10)


async def test_what_follows_a_diverted_event_in_its_conversation_is_diverted_too(put: Put) -> None:
    small, large, last = (Event(unique("e"), "shop:a", b"x" * size) for size in (10, 985, 10))
    assert await put([small, large, last], max_bytes=1000) == (1, (large, last))


async def test_a_share_is_one_of_bytes_too(put: Put) -> None:
    stored, diverted = await put(events("loud:", 10, size=1000), max_bytes=10_000)
    assert (stored, len(diverted)) == (5, 5)
    assert await put(events("quiet:", 20, size=100), max_bytes=10_000) == (20, ())


async def test_what_is_there_already_takes_no_second_place(put: Put) -> None:
    flood = events("loud:", 6)
    assert await put(flood[:5], max_rows=10) == (5, ())
    assert await put(flood[:5], max_rows=10) == (0, ())
    assert await put([*flood, *flood], max_rows=10) == (0, (flood[5], flood[5]))


async def test_numbers_without_an_account_have_one_share_together_and_notices_one(put: Put) -> None:
    strangers = [event for n in range(30) for event in events(f"message:{unique('n')}:", 1)]
    assert (await put(strangers, max_rows=30))[0] == 15
    notices = [Event(unique("e"), f"notice:{n}", b"x") for n in range(30)]
    assert (await put(notices, max_rows=30))[0] == 8


async def test_the_version_before_stores_all_or_nothing_and_reads_a_number(
    store: SqlStore, sql: asyncpg.Connection, put: Put
) -> None:
    rows = [{"id": unique("e"), "mailbox": "message:1:2", "payload": "eA==", "immediate": False} for _ in range(4)]
    assert await store._call("journal_put", events=rows, max_rows=5) == 4
    assert (await store._call("inbox_put", events=rows, max_rows=5, reopen=True))["stored"] == 4
    for operation in ("journal_put", "inbox_put"):
        with pytest.raises(Conflict):
            await store._call(operation, events=rows, max_rows=5, reopen=True)
    for table in ("journal", "inbox"):
        assert await sql.fetchval(f"select count(*) from {table} where share = '' and bytes = 1") == 4
