"""What is known of the server's time: never more than its answers said, whatever its clock does between them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.core.queue.shards import ServerClock

seconds = st.floats(0, 10)


def test_nothing_is_known_before_the_first_answer() -> None:
    assert ServerClock().at(1.0) == 0


@given(ahead=st.floats(-1e6, 1e9), answers=st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=5))
def test_it_is_never_late_and_no_earlier_than_the_quickest_answer_took(
    ahead: float, answers: list[tuple[float, float, float]]
) -> None:
    """`answers`: the pause before each, how long it was on its way there, and back."""
    server, moment = ServerClock(), 0.0
    for pause, there, back in answers:
        asked = moment + pause
        moment = asked + there + back
        stepped = server.learn(math.floor((asked + there + ahead) * 1000), asked=asked, answered=moment)
        assert stepped == 0
    true = (moment + ahead) * 1000
    quickest = min(back for _, _, back in answers) * 1000
    assert true - quickest - 3 <= server.at(moment) <= true + 0.01


@given(before=st.floats(-1e6, 1e6), step=st.floats(-1e6, 1e6), back=st.floats(0, 0.5))
def test_one_answer_is_enough_after_the_clock_moved(before: float, step: float, back: float) -> None:
    server = ServerClock()
    server.learn(math.floor(before * 1000), asked=0, answered=0)
    stepped = server.learn(math.floor((before + step + 1) * 1000), asked=1, answered=1 + back)
    true = (1 + back + before + step) * 1000
    assert true - back * 1000 - 3 <= server.at(1 + back) <= true + 3
    assert math.isclose(stepped, max(0.0, -step), abs_tol=0.003)
