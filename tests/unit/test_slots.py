"""Who gets the next place in a bulkhead that calls of several ranks and groups share."""

from __future__ import annotations

import asyncio

import pytest

from app.core.slots import CALLER, Caller, Rank, Slots, calling_as

URGENT, PERSON, WORK = (Caller(rank) for rank in Rank)


async def waiting(slots: Slots, caller: Caller, served: list[object], name: object) -> asyncio.Task[None]:
    """A call that has begun to wait; it notes its name when it gets a place."""

    async def call() -> None:
        await slots.enter(caller, 30)
        served.append(name)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_the_last_places_are_kept_for_what_is_urgent() -> None:
    slots = Slots(4, kept=1)
    assert [slots.try_enter(WORK) for _ in range(4)] == [True, True, True, False]
    assert not slots.try_enter(PERSON)
    assert slots.try_enter(URGENT)
    assert not slots.try_enter(URGENT)
    assert slots.taken == 4


def test_neither_people_nor_the_work_in_the_background_can_take_all_places() -> None:
    slots = Slots(10, kept=1, per_rank=7)
    assert sum(slots.try_enter(WORK) for _ in range(10)) == 7
    assert sum(slots.try_enter(PERSON) for _ in range(10)) == 2


def test_one_group_has_at_most_its_share_whatever_it_is_for() -> None:
    slots = Slots(10, per_group=5)
    stuck = [Caller(rank, "a") for rank in (Rank.BACKGROUND, Rank.URGENT, Rank.INTERACTIVE)]
    assert sum(slots.try_enter(caller) for caller in stuck * 5) == 5
    assert slots.try_enter(Caller(Rank.BACKGROUND, "b"))


async def test_calls_wait_in_order_and_urgent_ones_go_first() -> None:
    slots, served = Slots(1), []
    assert slots.try_enter(WORK)
    order = [("work 1", WORK), ("work 2", WORK), ("person", PERSON), ("urgent", URGENT)]
    tasks = [await waiting(slots, caller, served, name) for name, caller in order]
    for caller in (WORK, URGENT, PERSON, WORK):
        slots.leave(caller)
        await settle()
    assert served == ["urgent", "person", "work 1", "work 2"]
    await asyncio.gather(*tasks)


async def test_a_group_that_has_its_share_is_passed_over_by_those_behind_it() -> None:
    slots, served = Slots(3, per_group=2), []
    a, b = Caller(Rank.BACKGROUND, "a"), Caller(Rank.BACKGROUND, "b")
    assert all([slots.try_enter(a), slots.try_enter(a), slots.try_enter(b)])
    tasks = [await waiting(slots, caller, served, caller.group) for caller in (a, b)]
    slots.leave(b)
    await settle()
    assert served == ["b"]
    slots.leave(a)
    await settle()
    assert served == ["b", "a"]
    await asyncio.gather(*tasks)


async def test_who_waits_too_long_leaves_the_line_and_takes_no_place() -> None:
    slots = Slots(1)
    assert slots.try_enter(WORK)
    with pytest.raises(TimeoutError):
        await slots.enter(WORK, 0.01)
    assert (slots.taken, slots.waiting) == (1, 0)
    slots.leave(WORK)
    assert slots.taken == 0


async def test_a_place_that_comes_to_a_cancelled_call_is_passed_on() -> None:
    slots, served = Slots(1), []
    assert slots.try_enter(WORK)
    first = await waiting(slots, WORK, served, "first")
    second = await waiting(slots, WORK, served, "second")
    slots.leave(WORK)  # it is the first one's now, which has not run yet
    first.cancel()
    await settle()
    assert (served, slots.taken, slots.waiting) == (["second"], 1, 0)
    await second


async def test_what_a_task_starts_calls_for_the_same_caller() -> None:
    async def seen() -> Caller:
        return CALLER.get()

    with calling_as(Caller(Rank.BACKGROUND, "a")):
        task = asyncio.create_task(seen())
    assert await task == Caller(Rank.BACKGROUND, "a")
    assert CALLER.get() == Caller()


def test_places_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="kept"):
        Slots(1, kept=1)
