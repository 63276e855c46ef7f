"""Without Redis each replica keeps its share of the limits: never unpaced."""

from __future__ import annotations

import pytest

from app.core.fleet import pacing
from app.core.fleet.pacing import Limit, LocalPacer
from tests.support.fakes import FakeClock

FREE = Limit(0.000001, 1_000_000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def made(clock: FakeClock, *, number: Limit = FREE, pair: Limit = FREE) -> LocalPacer:
    return LocalPacer(per_number=number, per_pair=pair, clock=clock)


def passed(pacer: LocalPacer, clock: FakeClock, seconds: float, *, share: int) -> int:
    count = 0
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        if not pacer.ask("n", f"p{count}", share=share):
            count += 1
        clock.advance(0.001)
    return count


@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_all_replicas_together_stay_below_the_limit(clock: FakeClock, replicas: int) -> None:
    limit = Limit(1 / 80, 5)
    each = passed(made(clock, number=limit), clock, 10, share=replicas)
    assert 0.9 * 800 <= replicas * each <= 800 + replicas + limit.burst


def test_what_passed_before_counts(clock: FakeClock) -> None:
    pacer = made(clock, pair=Limit(6.0, 45))
    for _ in range(45):
        pacer.note("n", "p")
    assert pacer.ask("n", "p", share=1) == pytest.approx(6.0)
    assert pacer.ask("n", "another", share=1) == 0.0
    clock.advance(6.01)
    assert pacer.ask("n", "p", share=1) == 0.0


def test_a_refused_message_is_not_counted(clock: FakeClock) -> None:
    pacer = made(clock, number=Limit(1.0, 1))
    assert pacer.ask("n", "p", share=1) == 0.0
    assert [pacer.ask("n", "p", share=1) for _ in range(5)] == [1.0] * 5


def test_each_hold_is_four_times_as_long_and_concerns_one_peer(clock: FakeClock) -> None:
    pacer = made(clock)
    assert [pacer.hold("n", "p") for _ in range(3)] == [4.0, 16.0, 64.0]
    assert pacer.ask("n", "p", share=3) == 64.0
    assert pacer.ask("n", "another", share=3) == 0.0
    clock.advance(64 + pacing.FORGET_HOLD_SECONDS)
    assert pacer.hold("n", "p") == 4.0


def test_what_it_remembers_is_bounded(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MAX_REMEMBERED", 10)
    pacer = made(clock)
    for number in range(100):
        pacer.ask(f"n{number}", "p", share=1)
        pacer.hold(f"n{number}", "p")
    assert (len(pacer._paid), len(pacer._holds)) == (10, 10)
