"""The journal's rows on both stores: in order, once each, forgotten with the life they were moved in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Conflict

DAY = 86400.0


@pytest.fixture(autouse=True)
async def _empty(sql: asyncpg.Connection) -> AsyncIterator[None]:
    await sql.execute("truncate journal")
    yield
    await sql.execute("truncate journal")


def events(*numbers: int) -> list[Event]:
    return [Event(f"e{n}", f"box{n % 2}", b"\x00payload %d" % n, immediate=bool(n % 2)) for n in numbers]


async def test_what_is_put_comes_out_once_and_in_order(store: SqlStore) -> None:
    assert await store.journal_put(events(0, 1), max_rows=10, max_bytes=10**9) == (2, ())
    assert await store.journal_put(events(1, 2), max_rows=10, max_bytes=10**9) == (1, ())
    rows = await store.journal_next(after=0, limit=10)
    assert [event for _, event in rows] == events(0, 1, 2)
    assert [event for _, event in await store.journal_next(after=rows[0][0], limit=1)] == events(1)


async def test_what_was_moved_is_next_again_in_another_life(store: SqlStore) -> None:
    await store.journal_put(events(0, 1, 2), max_rows=10, max_bytes=10**9)
    rows = await store.journal_next(after=0, limit=10)
    await store.journal_moved([row for row, _ in rows[:2]], life="b")
    assert [event for _, event in await store.journal_next(after=0, limit=10)] == events(2)
    assert await store.journal_begin(life="b", keep_seconds=DAY) == 0
    for life in ("c", "a"):
        assert await store.journal_begin(life=life, keep_seconds=DAY) == 2
        assert [event for _, event in await store.journal_next(after=0, limit=10)] == events(0, 1, 2)
        await store.journal_moved([row for row, _ in rows[:2]], life="b")


async def test_what_is_settled_is_gone(store: SqlStore) -> None:
    await store.journal_put(events(0, 1), max_rows=10, max_bytes=10**9)
    (first, _), _ = await store.journal_next(after=0, limit=10)
    await store.journal_settle([first])
    await store.journal_settle([first])
    await store.journal_moved([first], life="a")
    assert [event for _, event in await store.journal_next(after=0, limit=10)] == events(1)


async def test_more_than_may_wait_are_refused_together(store: SqlStore) -> None:
    await store.journal_put(events(0), max_rows=2, max_bytes=10**9)
    with pytest.raises(Conflict) as refused:
        await store.journal_put(events(1, 2), max_rows=2, max_bytes=10**9)
    assert refused.value.code == "journal_full"
    assert len(await store.journal_next(after=0, limit=10)) == 1


async def test_old_rows_go(store: SqlStore, sql: asyncpg.Connection) -> None:
    await store.journal_put(events(0, 1), max_rows=10, max_bytes=10**9)
    await sql.execute("update journal set created_at = now() - interval '9 days' where event_id = 'e0'")
    await store.journal_begin(life="a", keep_seconds=8 * DAY)
    assert [event for _, event in await store.journal_next(after=0, limit=10)] == events(1)


async def test_of_an_accounts_dead_letters_the_newest_stay_and_those_of_others(
    store: SqlStore, sql: asyncpg.Connection
) -> None:
    await store.journal_put(events(0, 1, 2, 4, 6), max_rows=100, max_bytes=10**9)
    rows = [row for row, _ in await store.journal_next(after=0, limit=10)]
    await store.journal_moved(rows, life="a")
    for row in rows:
        await store.journal_bury([row], life="a", keep=2)
        await store.journal_bury([row], life="a", keep=2)
    left = await sql.fetch("select event_id from journal order by id")
    assert [event_id for (event_id,) in left] == ["e1", "e4", "e6"]


async def test_a_dead_letter_waits_again_in_another_life_and_no_late_word_buries_it(
    store: SqlStore, sql: asyncpg.Connection
) -> None:
    await store.journal_put(events(0, 1), max_rows=10, max_bytes=10**9)
    rows = [row for row, _ in await store.journal_next(after=0, limit=10)]
    await store.journal_moved(rows, life="a")
    await store.journal_bury(rows[:1], life="a", keep=10)
    assert await store.journal_begin(life="b", keep_seconds=DAY) == 2
    await store.journal_bury(rows, life="a", keep=0)
    await store.journal_moved(rows, life="b")
    await store.journal_bury(rows, life="a", keep=0)
    assert await sql.fetchval("select count(*) from journal where dead_at is null") == 2


async def test_dead_letters_take_no_room_of_what_waits(store: SqlStore) -> None:
    waiting = [Event(f"w{n}", "shop:box", b"x") for n in range(40)]
    assert await store.journal_put(waiting[:20], max_rows=40, max_bytes=10**9) == (20, ())
    rows = [row for row, _ in await store.journal_next(after=0, limit=100)]
    await store.journal_moved(rows, life="a")
    await store.journal_bury(rows, life="a", keep=100)
    assert await store.journal_put(waiting[20:], max_rows=40, max_bytes=10**9) == (20, ())
