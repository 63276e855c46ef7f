"""Where events wait for which the queue has no room, on every store."""

from __future__ import annotations

import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Conflict
from tests.support.store_kit import unique


@pytest.fixture(autouse=True)
async def empty(store: SqlStore) -> None:
    await store.overflow_delete([row for row, _ in await store.overflow_peek(limit=1000)])


def event() -> Event:
    return Event(unique("e"), "box", b"\x00\xff not text " * 20, immediate=True)


async def test_events_come_out_in_order_with_the_time_when_they_came_in(store: SqlStore) -> None:
    events = [event() for _ in range(5)]
    assert await store.overflow_put(events[:2], max_rows=1000) == 2
    assert await store.overflow_put(events[1:], max_rows=1000) == 3
    rows = await store.overflow_peek(limit=100)
    assert [each._replace(accepted_at=0.0) for _, each in rows] == events
    assert all(each.accepted_at > 1_700_000_000 for _, each in rows)
    await store.overflow_delete([row for row, _ in rows[:3]])
    assert [each.id for _, each in await store.overflow_peek(limit=1)] == [events[3].id]


async def test_it_is_bounded_and_takes_a_delivery_as_a_whole_or_not_at_all(store: SqlStore) -> None:
    await store.overflow_put([event()], max_rows=2)
    with pytest.raises(Conflict) as full:
        await store.overflow_put([event(), event()], max_rows=2)
    assert full.value.code == "overflow_full"
    assert len(await store.overflow_peek(limit=10)) == 1
