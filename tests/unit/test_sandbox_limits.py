"""Meta's limits on sending, on a clock that stands still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.sandbox.config import Behaviour
from app.sandbox.limits import MAX_TRACKED, Limits
from app.sandbox.state import MEDIA_URL_SECONDS, MediaShelf

OFF = Behaviour(pair_interval_seconds=0, messages_per_second=0, window_hours=0)


class StoppedClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_pair_rate_allows_a_burst_borrowed_from_the_future() -> None:
    clock = StoppedClock()
    limits = Limits(clock)
    rate = Behaviour(messages_per_second=0)
    assert [limits.admit("n", "u", rate) for _ in range(46)] == [None] * 45 + ["131056"]
    assert limits.admit("n", "other", rate) is None
    clock.seconds += 5.9
    assert limits.admit("n", "u", rate) == "131056"
    clock.seconds += 0.1
    assert [limits.admit("n", "u", rate) for _ in range(2)] == [None, "131056"]
    clock.seconds += 270
    assert [limits.admit("n", "u", rate) for _ in range(46)] == [None] * 45 + ["131056"]


def test_throughput_is_counted_per_number_over_any_second() -> None:
    clock = StoppedClock()
    limits = Limits(clock)
    rate = OFF.model_copy(update={"messages_per_second": 3})
    assert [limits.admit("n", str(u), rate) for u in range(4)] == [None] * 3 + ["130429"]
    assert limits.admit("m", "0", rate) is None
    clock.seconds += 1
    assert limits.admit("n", "9", rate) is None


def test_a_refused_send_costs_nothing_of_the_other_limit() -> None:
    limits = Limits(StoppedClock())
    rate = Behaviour(pair_burst=1, messages_per_second=2, window_hours=0)
    assert [limits.admit("n", "u", rate) for _ in range(3)] == [None, "131056", "131056"]
    assert limits.admit("n", "v", rate) is None
    assert limits.admit("n", "w", rate) == "130429"


def test_the_window_closes_24_hours_after_the_last_message_if_it_is_known() -> None:
    clock = StoppedClock()
    limits = Limits(clock)
    window = OFF.model_copy(update={"window_hours": 24})
    assert limits.admit("n", "stranger", window) is None
    limits.customer_wrote("n", "u", clock.now().timestamp())
    clock.seconds += 24 * 3600
    assert limits.admit("n", "u", window) is None
    clock.seconds += 1
    assert limits.admit("n", "u", window) == "131047"
    assert limits.admit("n", "u", OFF) is None
    limits.customer_wrote("n", "u", clock.now().timestamp())
    assert limits.admit("n", "u", window) is None


def test_memory_is_bounded() -> None:
    limits = Limits(StoppedClock())
    rate = Behaviour(messages_per_second=0, pair_burst=1)
    for user in range(MAX_TRACKED + 1):
        limits.admit("n", str(user), rate)
    assert limits.admit("n", "0", rate) is None
    assert limits.admit("n", str(MAX_TRACKED), rate) == "131056"


def test_a_media_url_lives_five_minutes() -> None:
    clock = StoppedClock()
    shelf = MediaShelf(10_000, clock)
    media = shelf.add(b"bytes", "image/jpeg")
    token = shelf.url_token(media.id)
    clock.seconds += MEDIA_URL_SECONDS - 1
    assert shelf.by_token(token) == media
    clock.seconds += 1
    assert shelf.by_token(token) is None
    assert shelf.by_token("unknown") is None


def test_the_oldest_media_make_room() -> None:
    shelf = MediaShelf(10, StoppedClock())
    first, second = shelf.add(b"x" * 6, "a/b"), shelf.add(b"y" * 6, "a/b")
    assert shelf.get(first.id) is None
    assert shelf.get(second.id) == second
