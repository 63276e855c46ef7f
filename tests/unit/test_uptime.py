"""What counts as time in which the stores were there."""

from __future__ import annotations

from app.services.uptime import Uptime
from tests.support.fakes import FakeClock


def test_answers_that_follow_each_other_closely_lose_nothing() -> None:
    clock = FakeClock()
    uptime = Uptime(["database"], gap_seconds=4.5, clock=clock)
    uptime.answered("database")
    since = clock.now()
    for _ in range(5):
        clock.advance(4)
        uptime.answered("database")
    clock.advance(4)
    assert uptime.lost_seconds(since) == 0


def test_a_silence_counts_from_its_beginning_also_before_it_ends() -> None:
    clock = FakeClock()
    uptime = Uptime(["database"], gap_seconds=4.5, clock=clock)
    uptime.answered("database")
    clock.advance(1)
    since = clock.now()
    clock.advance(24)
    assert uptime.lost_seconds(since) == 24
    uptime.answered("database")
    clock.advance(3)
    uptime.answered("database")
    assert uptime.lost_seconds(since) == 24
    assert uptime.lost_seconds(clock.now()) == 0


def test_losses_of_several_parts_are_counted_once_where_they_overlap() -> None:
    clock = FakeClock()
    uptime = Uptime(["database", "redis"], gap_seconds=2, clock=clock)
    uptime.answered("database")
    assert uptime.lost_seconds(clock.now()) == 0
    uptime.answered("redis")
    since = clock.now()
    for second in range(30):
        clock.advance(1)
        if second < 5 or second >= 20:
            uptime.answered("database")
        if second < 10 or second >= 25:
            uptime.answered("redis")
    assert uptime.lost_seconds(since) == 21  # from the fifth second, the last good one, to the twenty-sixth


def test_the_time_before_the_first_answer_is_lost() -> None:
    clock = FakeClock()
    since = clock.now()
    clock.advance(10)
    uptime = Uptime(["database"], gap_seconds=4.5, clock=clock)
    uptime.answered("database")
    clock.advance(2)
    assert uptime.lost_seconds(since) == 10


def test_without_parts_nothing_is_lost() -> None:
    clock = FakeClock()
    assert Uptime([], gap_seconds=1, clock=clock).lost_seconds(clock.now()) == 0
