"""When people are there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.domain.business_hours import is_time_zone, read_hours

BAKERY = {
    "time_zone": "Europe/Paris",
    "weekly": {"monday": [["09:00", "12:30"], ["14:00", "18:00"]], "saturday": [["22:00", "02:00"]]},
    "exceptions": {"2026-12-28": [], "2026-12-25": [["10:00", "24:00"]]},
}


def at(text: str) -> datetime:
    """In UTC; Paris is an hour ahead in December."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-12-21 07:59", False),  # a Monday
        ("2026-12-21 08:00", True),
        ("2026-12-21 11:30", False),
        ("2026-12-21 16:59", True),
        ("2026-12-22 10:00", False),  # a day that is not named
        ("2026-12-19 20:59", False),  # Saturday evening
        ("2026-12-19 21:00", True),
        ("2026-12-20 00:59", True),  # after midnight
        ("2026-12-20 01:00", False),
        ("2026-12-28 10:00", False),  # a Monday that is an exception
        ("2026-12-25 22:59", True),
        ("2026-12-25 23:00", False),
    ],
)
def test_ranges_exceptions_and_nights(when: str, is_open: bool) -> None:
    hours = read_hours(BAKERY)
    assert hours is not None
    assert hours.is_open(at(when)) is is_open


def test_the_clock_is_the_time_zones_also_in_summer() -> None:
    hours = read_hours(BAKERY)
    assert hours is not None
    assert hours.is_open(at("2026-07-06 07:00")), "nine o'clock in Paris"


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-03-28 21:30", True),  # Saturday 22:30; the clocks go forward at 02:00
        ("2026-03-29 00:59", True),  # 01:59, a minute later it is 03:00
        ("2026-03-29 01:00", False),
        ("2026-10-25 00:30", True),  # 02:30 in summer time; at 03:00 the clocks go back to 02:00
        ("2026-10-25 00:59", False),  # 02:59
        ("2026-10-25 01:29", True),  # 02:29 for the second time
        ("2026-10-25 01:45", False),
    ],
)
def test_a_night_in_which_the_clocks_change_follows_the_clock_on_the_wall(when: str, is_open: bool) -> None:
    closes = "03:00" if "-03-" in when else "02:45"
    hours = read_hours({"time_zone": "Europe/Paris", "weekly": {"saturday": [["22:00", closes]]}})
    assert hours is not None
    assert hours.is_open(at(when)) is is_open


def test_it_is_told_in_words_with_the_days_to_come_and_the_next_opening() -> None:
    hours = read_hours(BAKERY)
    assert hours is not None
    assert hours.in_words(at("2026-12-26 10:00")).splitlines() == [
        "Time zone: Europe/Paris",
        "Monday: 09:00-12:30, 14:00-18:00",
        *(f"{day}: closed" for day in ("Tuesday", "Wednesday", "Thursday", "Friday")),
        "Saturday: 22:00-02:00",
        "Sunday: closed",
        "2026-12-28: closed",
        "Now: Saturday 2026-12-26, 11:00, no person is there until Saturday 2026-12-26, 22:00",
    ]
    assert hours.in_words(at("2026-12-26 21:30")).endswith("22:30, a person is there")
    never = read_hours({"time_zone": "UTC", "weekly": {}})
    assert never is not None
    assert never.in_words(at("2026-12-26 10:00")).endswith("no person is there")


@pytest.mark.parametrize(
    "value",
    [
        {}, {"time_zone": "Europe/Nowhere", "weekly": {}}, {"time_zone": "../etc", "weekly": {}},
        {"time_zone": "UTC", "weekly": []}, {"time_zone": "UTC", "weekly": {"monday": [["9", "10"]]}},
        {"time_zone": "UTC", "weekly": {"monday": "09:00"}},
        {"time_zone": "UTC", "weekly": {}, "exceptions": {"x": []}}, {"time_zone": 5, "weekly": {}},
    ],
)  # fmt: skip
def test_what_sql_has_written_wrongly_is_as_if_it_were_not_there(value: Any) -> None:
    assert read_hours(value) is None


def test_time_zones() -> None:
    assert read_hours(None) is None
    assert is_time_zone("America/Sao_Paulo")
    assert not is_time_zone("Mars/Olympus")


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "right/Europe/Paris", "posix/Europe/Paris"])
def test_a_name_that_means_another_time_on_each_machine_is_no_time_zone(name: str) -> None:
    assert not is_time_zone(name)
