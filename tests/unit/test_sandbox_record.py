"""The record tells what arrived and what became of it, wakes those who wait, and stays bounded."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from app.sandbox.record import MAX_WAITERS, Filter, Record, TooManyWaiters


def record(max_entries: int = 100, max_bytes: int = 1_000_000) -> Record:
    return Record(max_entries, max_bytes)


def test_an_entry_goes_from_open_to_answered() -> None:
    rec = record()
    entry = rec.open("send", b"{}", to="1")
    assert (entry.state, entry.processed, entry.status) == ("open", False, None)
    rec.process(entry)
    rec.answer(entry, 200)
    assert (entry.state, entry.processed, entry.status) == ("answered", True, 200)
    assert rec.summary()["kinds"] == {"send": {"received": 1, "processed": 1, "answers": {"200": 1}}}


def test_a_closed_entry_was_never_answered() -> None:
    rec = record()
    rec.close(rec.open("send", b"{}"))
    assert rec.summary()["kinds"]["send"] == {"received": 1, "processed": 0, "answers": {"none": 1}}


def test_filters_combine_and_after_skips() -> None:
    rec = record()
    for n in range(6):
        rec.open("send" if n % 2 else "read", b"{}", to=str(n % 3))
    assert [e.seq for e in rec.find(Filter({"kind": "send"}))] == [2, 4, 6]
    assert [e.seq for e in rec.find(Filter({"kind": "send", "to": "1"}))] == [2]
    assert [e.seq for e in rec.find(Filter({"kind": "send"}, after=2))] == [4, 6]
    assert [e.seq for e in rec.find(Filter({"kind": "send"}), limit=1)] == [2]


async def test_wait_returns_at_once_when_enough_is_there() -> None:
    rec = record()
    rec.open("send", b"{}")
    assert len(await rec.wait(Filter({"kind": "send"}), 1, timeout_seconds=0)) == 1


async def test_wait_wakes_on_the_change_that_completes_it() -> None:
    rec = record()
    waiting = asyncio.create_task(rec.wait(Filter({"kind": "send", "processed": True}), 2, timeout_seconds=10))
    await asyncio.sleep(0)
    first, second = rec.open("send", b"1"), rec.open("send", b"2")
    rec.process(first)
    rec.answer(first, 200)
    await asyncio.sleep(0)
    assert not waiting.done()
    rec.process(second)
    assert await waiting == [first, second]


async def test_wait_returns_what_there_is_when_the_time_is_over() -> None:
    rec = record()
    entry = rec.open("send", b"1")
    assert await rec.wait(Filter({"kind": "send"}), 2, timeout_seconds=0.01) == [entry]


async def test_the_number_of_waiters_is_bounded() -> None:
    rec = record()
    waiting = [asyncio.create_task(rec.wait(Filter(), 1, timeout_seconds=10)) for _ in range(MAX_WAITERS)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaiters):
        await rec.wait(Filter(), 1, timeout_seconds=10)
    rec.open("send", b"")
    await asyncio.gather(*waiting)


def test_old_entries_make_room_by_number_and_by_bytes() -> None:
    by_number = record(max_entries=3)
    for _ in range(5):
        by_number.open("send", b"")
    assert [e.seq for e in by_number.find(Filter())] == [3, 4, 5]
    by_bytes = record(max_bytes=3000)
    for _ in range(5):
        by_bytes.open("send", b"x" * 1000)
    assert [e.seq for e in by_bytes.find(Filter())] == [4, 5]
    assert by_bytes.summary()["evicted"] == 3
    assert by_bytes.summary()["kinds"]["send"]["received"] == 5


def test_clear_keeps_the_sequence_going() -> None:
    rec = record()
    rec.open("send", b"")
    rec.clear()
    assert rec.find(Filter()) == []
    assert rec.open("send", b"").seq == 2


def test_bodies_are_shown_as_json_or_as_text() -> None:
    rec = record()
    shown = [
        orjson.loads(orjson.dumps(rec.open("send", raw).to_json()))["body"] for raw in (b'{"a": 1}', b"<oops", b"")
    ]
    assert shown == [{"a": 1}, "<oops", ""]
