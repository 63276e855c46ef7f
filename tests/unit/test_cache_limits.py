"""The time limits of the cache's calls: one timer for all of them, and each holds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvloop

from app.core.cache.limits import Limit, Limits


async def answer_of(limits: Limits, seconds: float, answer: asyncio.Future[Any]) -> Any:
    with Limit(limits, seconds):
        return await answer


def never() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def test_a_call_that_is_not_answered_ends_in_time_and_not_before() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await answer_of(Limits(), 0.02, never())
    assert time.monotonic() - started >= 0.02
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_each_call_has_its_own_limit_whichever_began_first() -> None:
    limits, answers = Limits(), {"long": never()}
    ended: list[str] = []

    async def call(name: str, seconds: float) -> None:
        try:
            await answer_of(limits, seconds, answers.get(name, never()))
        except TimeoutError:
            name = f"{name} too late"
        ended.append(name)

    async with asyncio.TaskGroup() as calls:
        for name, seconds in (("long", 60.0), ("middle", 0.04), ("short", 0.01)):
            calls.create_task(call(name, seconds))
        while len(ended) < 2:
            await asyncio.sleep(0)
        answers["long"].set_result(None)
    assert ended == ["short too late", "middle too late", "long"]


async def test_a_limit_that_begins_while_the_timer_waits_for_a_later_one_holds() -> None:
    limits, answer = Limits(), never()
    long = asyncio.create_task(answer_of(limits, 60.0, answer))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await answer_of(limits, 0.01, never())
    answer.set_result("in time")
    assert await long == "in time"
    # With the timer still set for a call that has ended, the next short one must move it.
    with pytest.raises(TimeoutError):
        await answer_of(limits, 0.01, never())


async def test_an_answer_that_waited_behind_our_own_work_counts() -> None:
    loop, answer = asyncio.get_running_loop(), never()

    def arrive(turns: int) -> None:
        """As bytes from a socket: read in one turn of the loop, understood in another."""
        if turns:
            loop.call_soon(arrive, turns - 1)
        else:
            answer.set_result("there")

    loop.call_later(0.001, arrive, 3)
    loop.call_soon(time.sleep, 0.05)  # time itself: longer than the limit
    assert await answer_of(Limits(), 0.02, answer) == "there"


def test_it_holds_on_uvloop_whose_timers_count_whole_milliseconds() -> None:
    async def calls() -> Any:
        limits, answer = Limits(), never()
        time.sleep(0.05)  # time itself: our own work before a call is not part of its time
        with pytest.raises(TimeoutError):
            await answer_of(limits, 0.01, never())
        asyncio.get_running_loop().call_later(0.001, answer.set_result, "there")
        return await answer_of(limits, 0.03, answer)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(calls()) == "there"


async def test_a_cancellation_from_outside_stays_one() -> None:
    limits = Limits()
    call = asyncio.create_task(answer_of(limits, 60.0, never()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not limits.running


async def test_a_cancellation_counts_more_than_a_limit_that_ran_out_as_well() -> None:
    async def stubborn() -> None:
        with Limit(Limits(), 0.01):
            try:
                await never()
            finally:  # its time has run out
                call.cancel()

    call = asyncio.create_task(stubborn())
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_calls_one_after_the_other_share_one_timer() -> None:
    loop = asyncio.get_running_loop()
    set_at: list[float] = []
    limits = Limits()
    wake_at = limits.wake_at
    limits.wake_at = lambda at: (set_at.append(at), wake_at(at))[1]  # type: ignore[method-assign]
    for _ in range(1000):
        answer = never()
        loop.call_soon(answer.set_result, None)
        await answer_of(limits, 60.0, answer)
    assert len(set_at) == 1
