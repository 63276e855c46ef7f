"""Background loops: restarted when they die, visible when they stop beating, gone when told to stop."""

from __future__ import annotations

import asyncio

import pytest

from app.core import lifecycle
from app.core.lifecycle import Supervisor
from tests.support.fakes import FakeClock


class Dying:
    """Dies `deaths` times, then runs until it is cancelled."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.runs = 0
        self.healthy = asyncio.Event()
        self.cancelled = False

    async def __call__(self) -> None:
        self.runs += 1
        if self.runs <= self.deaths:
            raise RuntimeError(f"death {self.runs}")
        self.healthy.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_a_loop_that_dies_is_logged_with_its_traceback_and_started_again(caplog):
    clock = FakeClock()
    supervisor = Supervisor(clock=clock, uniform=lambda: 0.0)
    loop = Dying(9)
    supervisor.start("probes", loop)
    await loop.healthy.wait()
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert caplog.records[0].getMessage() == "background loop died"
    assert (caplog.records[0].loop, caplog.records[0].deaths) == ("probes", 1)
    assert "RuntimeError: death 1" in caplog.text
    assert supervisor.view()["probes"] == {"running": True, "deaths": 9, "silent_seconds": None}
    await supervisor.stop()


async def test_a_loop_that_lived_long_starts_from_the_first_pause_again():
    clock = FakeClock()
    supervisor = Supervisor(clock=clock, uniform=lambda: 0.0)
    runs = 0
    done = asyncio.Event()

    async def loop():
        nonlocal runs
        runs += 1
        if runs == 3:
            clock.advance(61)
        if runs == 5:
            done.set()
            return
        raise RuntimeError

    supervisor.start("x", loop)
    await done.wait()
    assert clock.slept == [0.5, 1.0, 0.5, 1.0]
    await supervisor.stop()


async def test_a_loop_that_returns_is_finished():
    supervisor = Supervisor(clock=FakeClock())
    done = asyncio.Event()

    async def once():
        done.set()

    supervisor.start("once", once)
    await done.wait()
    await asyncio.sleep(0)
    assert not supervisor.view()["once"]["running"]
    await supervisor.stop()


async def test_a_loop_is_stuck_when_its_beat_stops():
    clock = FakeClock()
    supervisor = Supervisor(clock=clock)
    supervisor.start("silent", Dying(0))
    supervisor.start("worker", Dying(0), beat_within_seconds=10)
    clock.advance(1000)
    assert supervisor.stuck() == (), "a loop that never beats has promised nothing"
    supervisor.beat("worker")
    clock.advance(10)
    assert supervisor.stuck() == ()
    clock.advance(0.1)
    assert supervisor.stuck() == ("worker",)
    assert supervisor.view()["worker"]["silent_seconds"] == 10.1
    supervisor.beat("worker")
    assert supervisor.stuck() == ()
    await supervisor.stop()


async def test_stop_waits_for_every_loop_and_may_be_repeated():
    supervisor = Supervisor(clock=FakeClock())
    loops = [Dying(0), Dying(0)]
    for n, loop in enumerate(loops):
        supervisor.start(str(n), loop)
        await loop.healthy.wait()
    await supervisor.stop()
    assert all(loop.cancelled for loop in loops)
    await supervisor.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        supervisor.start("late", Dying(0))


async def test_a_loop_that_resists_cancellation_is_reported_and_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(lifecycle, "STOP_SECONDS", 0.02)
    supervisor = Supervisor(clock=FakeClock())
    release = asyncio.Event()
    started = asyncio.Event()

    async def stubborn():
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    supervisor.start("stubborn", stubborn)
    await started.wait()
    await supervisor.stop()
    assert "resists cancellation" in caplog.text
    release.set()


async def test_stopping_before_anything_started_is_fine():
    await Supervisor().stop()


async def test_names_are_unique():
    supervisor = Supervisor()
    supervisor.start("x", Dying(0))
    with pytest.raises(ValueError, match="already"):
        supervisor.start("x", Dying(0))
    await supervisor.stop()
