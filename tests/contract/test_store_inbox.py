"""The inbox that stands in for the queue, on every store."""

from __future__ import annotations

import asyncio

import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Conflict
from app.domain.models import InboxState
from tests.support.store_kit import unique


@pytest.fixture(autouse=True)
async def empty(store: SqlStore) -> None:
    await store.inbox_delete([row for row, _ in await store.inbox_peek(limit=1000)])
    assert await store.inbox_close() is InboxState.CLOSED


def event(name: str, *, immediate: bool = False) -> Event:
    return Event(name, f"box of {name}", b"\x00\xff not text " * 20, immediate=immediate)


async def test_events_come_out_as_they_went_in_and_in_order(store: SqlStore) -> None:
    events = [event(unique("e"), immediate=n % 2 == 0) for n in range(30)]
    assert await store.inbox_put(events[:10], max_rows=100, max_bytes=10**9, reopen=True) == (InboxState.OPEN, 10, ())
    assert await store.inbox_put(events[10:], max_rows=100, max_bytes=10**9, reopen=False) == (InboxState.OPEN, 20, ())
    rows = await store.inbox_peek(limit=100)
    assert [each for _, each in rows] == events
    assert [each for _, each in await store.inbox_peek(limit=5)] == events[:5]
    await store.inbox_delete([row for row, _ in rows[:29]])
    assert [each for _, each in await store.inbox_peek(limit=100)] == events[29:]


async def test_an_event_is_there_once(store: SqlStore) -> None:
    twice = event(unique("e"))
    assert await store.inbox_put([twice], max_rows=100, max_bytes=10**9, reopen=True) == (InboxState.OPEN, 1, ())
    assert await store.inbox_put([twice, event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=True) == (
        InboxState.OPEN,
        1,
        (),
    )
    assert len(await store.inbox_peek(limit=100)) == 2


async def test_beyond_the_bound_nothing_is_stored(store: SqlStore) -> None:
    await store.inbox_put([event(unique("e"))], max_rows=2, max_bytes=10**9, reopen=True)
    with pytest.raises(Conflict) as refused:
        await store.inbox_put([event(unique("e")), event(unique("e"))], max_rows=2, max_bytes=10**9, reopen=True)
    assert refused.value.code == "inbox_full"
    assert len(await store.inbox_peek(limit=100)) == 1


async def test_writers_at_once_leave_no_gap_behind_a_reader(store: SqlStore) -> None:
    """Whatever a reader sees, nothing older can still appear."""
    names = [unique("e") for _ in range(10)]
    writes = asyncio.gather(
        *(store.inbox_put([event(name)], max_rows=100, max_bytes=10**9, reopen=True) for name in names)
    )
    seen: list[int] = []
    while not writes.done():
        now = [row for row, _ in await store.inbox_peek(limit=100)]
        assert now[: len(seen)] == seen
        seen = now
    await writes
    assert len(await store.inbox_peek(limit=100)) == 10


async def test_a_closed_inbox_takes_nothing_until_it_is_opened(store: SqlStore) -> None:
    assert await store.inbox_state() is InboxState.CLOSED
    refused = await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=False)
    assert refused == (InboxState.CLOSED, 0, ())
    assert await store.inbox_peek(limit=100) == []
    assert await store.inbox_put([], max_rows=100, max_bytes=10**9, reopen=True) == (InboxState.OPEN, 0, ())
    assert await store.inbox_state() is InboxState.OPEN


async def test_a_closing_inbox_takes_nothing_and_is_closed_once_it_is_empty(store: SqlStore) -> None:
    await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=True)
    assert await store.inbox_close() is InboxState.CLOSING
    refused = await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=False)
    assert refused == (InboxState.CLOSING, 0, ())
    rows = await store.inbox_peek(limit=100)
    assert len(rows) == 1
    assert await store.inbox_close() is InboxState.CLOSING
    await store.inbox_delete([row for row, _ in rows])
    assert await store.inbox_state() is InboxState.CLOSING
    assert await store.inbox_close() is InboxState.CLOSED


async def test_a_closing_inbox_can_be_opened_again(store: SqlStore) -> None:
    await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=True)
    await store.inbox_close()
    assert await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=True) == (
        InboxState.OPEN,
        1,
        (),
    )
    assert await store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=False) == (
        InboxState.OPEN,
        1,
        (),
    )


async def test_nothing_goes_in_behind_the_back_of_a_close(store: SqlStore) -> None:
    """Every put beside it is either stored before, and seen, or refused."""
    await store.inbox_put([], max_rows=100, max_bytes=10**9, reopen=True)
    puts = [store.inbox_put([event(unique("e"))], max_rows=100, max_bytes=10**9, reopen=False) for _ in range(9)]
    *answers, left = await asyncio.gather(*puts, store.inbox_close())
    stored = sum(count for _, count, _ in answers)
    assert len(await store.inbox_peek(limit=100)) == stored
    assert left is (InboxState.CLOSING if stored else InboxState.CLOSED)
