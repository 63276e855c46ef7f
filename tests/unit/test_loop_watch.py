"""The event loop's own pulse, and the thread that listens to it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.loop_watch import LoopWatch, stalled_since

BACKEND = Path(__file__).resolve().parents[2] / "backend"
PROCESS = """
import asyncio, re, time
from app.core.loop_watch import LoopWatch

def expression():
    re.match(r"(a+)+$", "a" * 64 + "b")  # would take years, and lets no other thread run

def sleep():
    time.sleep(60)

async def main():
    beaten = asyncio.Event()
    watch = LoopWatch(tick_seconds=0.1, stuck_seconds=0.5, hopeless_seconds=1, frozen_seconds=2)
    running = asyncio.create_task(watch.run(beaten.set))
    await beaten.wait()
    {during}
    running.cancel()
    await asyncio.wait([running])
    time.sleep(2.5)  # time itself: nothing watches any more

asyncio.run(main())
"""


async def _watched(during: Callable[[], None], **settings: float) -> tuple[LoopWatch, threading.Event]:
    gave_up = threading.Event()
    beaten = asyncio.Event()
    watch = LoopWatch(give_up=gave_up.set, **settings)
    running = asyncio.create_task(watch.run(beaten.set))
    await beaten.wait()
    during()
    beaten.clear()
    await beaten.wait()
    running.cancel()
    await asyncio.wait([running])
    return watch, gave_up


async def test_a_turning_loop_beats_and_is_left_alone(caplog, within):
    watch, gave_up = await _watched(lambda: None)
    assert watch.lag_seconds < within(0.25)
    assert not gave_up.is_set()
    assert caplog.text == ""


async def test_what_blocks_the_loop_is_named_and_in_the_end_the_process_is_given_up(caplog):
    waited = threading.Event()

    def block_the_loop() -> None:
        waited.wait(1.5)  # the thread gives up long before

    watch, gave_up = await _watched(block_the_loop, tick_seconds=0.05, stuck_seconds=0.4, hopeless_seconds=0.8)
    assert gave_up.is_set()
    stuck = next(record for record in caplog.records if record.getMessage() == "event loop is stuck")
    assert "block_the_loop" in stuck.stack
    assert watch.lag_seconds > 1


async def test_the_thread_ends_with_the_loop():
    await _watched(lambda: None, tick_seconds=0.01)
    deadline = time.monotonic() + 5
    while any(thread.name == "loop-watch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_stall_is_told_to_what_ran_out_of_time_in_it_and_only_to_that(within):
    seen: dict[str, float] = {}

    def block_the_loop() -> None:
        seen["before"] = time.monotonic()
        threading.Event().wait(0.9)
        seen["during"] = stalled_since(seen["before"])

    watching = asyncio.create_task(LoopWatch().run())
    await asyncio.sleep(0)
    block_the_loop()
    assert 0.5 <= seen["during"] <= within(1.0), "before the watch itself had its turn"
    while stalled_since(seen["before"]) < 0.5:
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)  # time itself: the watch has seen the end of it
    assert 0.5 <= stalled_since(seen["before"]) <= within(1.0)
    assert stalled_since(time.monotonic()) == 0
    watching.cancel()
    await asyncio.wait([watching])
    assert stalled_since(seen["before"]) == 0, "nothing is known without a watch"


async def test_a_failure_across_a_stall_of_the_own_loop_is_not_counted():
    breaker = CircuitBreaker("t", BreakerPolicy(1, 60.0, slow_call_seconds=0.5))

    async def times_out() -> None:
        threading.Event().wait(0.9)
        raise TimeoutError

    async def fails() -> None:
        raise TimeoutError

    watching = asyncio.create_task(LoopWatch().run())
    await asyncio.sleep(0)
    with suppress(TimeoutError):
        await breaker.call_async(times_out)
    assert (breaker.snapshot().state, breaker.tally.ignored, breaker.tally.failed) == ("closed", 1, 0)
    await asyncio.sleep(0.3)  # time itself, as above
    with suppress(TimeoutError):
        await breaker.call_async(fails)
    assert breaker.snapshot().state == "open"
    watching.cancel()
    await asyncio.wait([watching])


@pytest.mark.parametrize(
    ("during", "exit_code", "told"),
    [
        ("expression()", 1, ["Timeout (0:00:02)!", "in expression"]),
        ("sleep()", 70, ["event loop is stuck", "event loop is stuck for good, ending the process"]),
        ("await asyncio.sleep(2.5)", 0, []),  # time itself
    ],
    ids=["stuck in C code", "blocked", "turning"],
)
def test_a_real_process_ends_if_and_only_if_its_loop_stands_still(during: str, exit_code: int, told: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS.format(during=during)], cwd=BACKEND, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == exit_code, ended.stderr
    assert [words for words in told if words not in ended.stderr] == []
    assert told or ended.stderr == ""
