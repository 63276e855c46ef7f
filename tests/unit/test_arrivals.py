"""What an hour of the week usually brings, and from when on nothing is unusual."""

from __future__ import annotations

from app.services.arrivals import EXPECTED, usual

HOUR = 3_600_000
WEEK = 168
MONDAY = 2900 * WEEK
"""The first hour of some week, in hours since the epoch."""


def week(counted: int = 2900, **hours: float) -> dict[bytes, float]:
    return {b"week": float(counted)} | {hour.removeprefix("h").encode(): n for hour, n in hours.items()}


def between(known: dict[bytes, float], since: float, now: float) -> float:
    return round(usual(known, round((MONDAY + since) * HOUR), round((MONDAY + now) * HOUR)), 3)


def test_hours_that_are_usually_busy_add_up_and_the_present_one_counts_by_what_has_passed():
    known = week(h9=8, h10=6, h11=4)
    assert between(known, 8.5, 9) == 0
    assert between(known, 8.5, 11) == 14
    assert between(known, 8.5, 11.25) == 15


def test_the_hour_of_the_last_arrival_counts_for_nothing():
    assert between(week(h9=8, h10=6), 9.1, 11) == 6


def test_a_usually_quiet_night_or_weekend_takes_no_part():
    assert between(week(h9=30), 10, 9 + WEEK) == 0


def test_a_week_that_began_since_the_last_arrival_halves_what_was_counted():
    assert between(week(h9=40), 160, WEEK + 10) == 20
    assert between(week(h9=40), 160, 2 * WEEK + 10) == 30


def test_a_new_sender_is_never_missed_in_its_first_week():
    assert between(week(h9=1000), 9.5, WEEK) < EXPECTED
