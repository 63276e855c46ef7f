"""A worker holds fewer conversations while the event loop is late, and all it may again soon after."""

from __future__ import annotations

from app.services.claim_room import LATE_SECONDS, LEAST, LOOK_SECONDS, ClaimRoom
from tests.support.fakes import FakeClock


class Loop:
    """What a worker of `most` may hold, looked at as often as it is judged."""

    def __init__(self, most: int) -> None:
        self.clock = FakeClock()
        self.lag = 0.0
        self.room = ClaimRoom(most, lambda: self.lag, clock=self.clock)

    def look(self, held: int) -> int:
        self.clock.advance(LOOK_SECONDS)
        return self.room.look(held)


def test_all_are_held_while_the_loop_is_in_time() -> None:
    loop = Loop(200)
    loop.lag = LATE_SECONDS
    assert [loop.look(held) for held in (0, 200, 200)] == [200, 200, 200]


def test_a_late_loop_takes_away_a_quarter_of_what_is_held_at_each_look_down_to_the_least() -> None:
    loop = Loop(200)
    loop.lag = 1.0
    assert [loop.look(100), loop.look(75)] == [75, 56]
    for _ in range(20):
        last = loop.look(LEAST)
    assert last == LEAST


def test_between_two_looks_nothing_changes() -> None:
    loop = Loop(200)
    loop.lag = 1.0
    assert loop.look(100) == loop.room.look(0) == 75


def test_a_loop_in_time_again_gives_all_back_in_five_looks() -> None:
    loop = Loop(200)
    loop.lag = 1.0
    for _ in range(20):
        loop.look(LEAST)
    loop.lag = 0.0
    assert [loop.look(200) for _ in range(5)] == [50, 90, 130, 170, 200]


def test_a_small_worker_keeps_what_it_has() -> None:
    loop = Loop(3)
    loop.lag = 1.0
    assert loop.look(3) == 3
