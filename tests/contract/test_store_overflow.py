"""Where events wait for which the queue has no room, on every store."""

from __future__ import annotations

import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Conflict
from tests.support.desk import new_account
from tests.support.store_kit import unique


@pytest.fixture(autouse=True)
async def empty(store: SqlStore) -> None:
    await store.overflow_delete([row for row, _ in await store.overflow_peek(limit=1000)])


BOUNDS = {"max_rows": 1000, "max_bytes": 10**6}


def event(number: str = "1", size: int = 220) -> Event:
    return Event(unique("e"), f"message:{number}:2", (b"\x00\xff not text " * 20)[:size], immediate=True)


async def test_events_come_out_in_order_with_the_time_when_they_came_in(store: SqlStore) -> None:
    events = [event() for _ in range(5)]
    assert await store.overflow_put(events[:2], **BOUNDS) == (2, ())
    assert await store.overflow_put(events[1:], **BOUNDS) == (3, ())
    rows = await store.overflow_peek(limit=100)
    assert [each._replace(accepted_at=0.0) for _, each in rows] == events
    assert all(each.accepted_at > 1_700_000_000 for _, each in rows)
    await store.overflow_delete([row for row, _ in rows[:3]])
    assert [each.id for _, each in await store.overflow_peek(limit=1)] == [events[3].id]


@pytest.mark.parametrize("bounds", [BOUNDS | {"max_rows": 1}, BOUNDS | {"max_bytes": 300}])
async def test_when_it_is_full_it_takes_nothing_of_a_delivery(store: SqlStore, bounds: dict[str, int]) -> None:
    with pytest.raises(Conflict) as full:
        await store.overflow_put([event(), event(await an_account(store))], **bounds)
    assert full.value.code == "overflow_full"
    assert await store.overflow_peek(limit=10) == []


@pytest.mark.parametrize("bounds", [BOUNDS | {"max_rows": 10}, BOUNDS | {"max_bytes": 10 * 220}])
async def test_an_account_may_hold_as_much_as_is_free(store: SqlStore, bounds: dict[str, int]) -> None:
    loud, quiet = [await an_account(store) for _ in range(2)]
    flood, hello = [event(loud) for _ in range(7)], event(quiet)
    assert await store.overflow_put([*flood, hello], **bounds) == (6, tuple(flood[5:]))
    assert await store.overflow_put(flood[4:], **bounds) == (0, tuple(flood[5:])), "the first is known"
    assert [each.id for _, each in await store.overflow_peek(limit=100)] == [e.id for e in (*flood[:5], hello)]


async def an_account(store: SqlStore) -> str:
    return (await new_account(store)).phone_number_id
