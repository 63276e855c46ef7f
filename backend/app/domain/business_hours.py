"""When people are there: weekly ranges in a time zone, and days that differ. Pure.

    {"time_zone": "Europe/Paris",
     "weekly": {"monday": [["09:00", "12:30"], ["14:00", "18:00"]], "saturday": [["22:00", "02:00"]]},
     "exceptions": {"2026-12-25": [], "2026-12-31": [["09:00", "12:00"]]}}

A day that is not named is closed. A range that ends at or before its start ends on the next day; "24:00" ends a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.domain.models import Json

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MAX_RANGES = 10
"""Of one day."""
MAX_EXCEPTIONS = 366
DAY_MINUTES = 24 * 60
SHOWN_EXCEPTIONS = 14
"""The next ones, in the prompt."""
LOOK_AHEAD_DAYS = 30

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")

_NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})
"""Files beside the zones: the first two are the machine's own zone, the last says that none is set."""
_OTHER_CLOCKS = ("right/", "posix/")
"""The database once more, with leap seconds and without."""

Range = tuple[int, int]
"""Minutes after midnight; the end may be on the next day."""


@dataclass(frozen=True, slots=True)
class BusinessHours:
    zone: ZoneInfo
    weekly: tuple[tuple[Range, ...], ...]
    """Monday first."""
    exceptions: Mapping[date, tuple[Range, ...]]

    def is_open(self, at: datetime) -> bool:
        local = at.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        yesterday = local.date() - timedelta(days=1)
        return any(start <= minute < end for start, end in self._ranges(local.date())) or any(
            minute < end - DAY_MINUTES for _, end in self._ranges(yesterday)
        )

    def next_opening(self, at: datetime) -> datetime | None:
        """In local time; `None` if there is none in the next 30 days."""
        local = at.astimezone(self.zone)
        for days in range(LOOK_AHEAD_DAYS + 1):
            day = local.date() + timedelta(days=days)
            for start, _ in sorted(self._ranges(day)):
                opening = datetime.combine(day, time(start // 60 % 24, start % 60), self.zone)
                if start < DAY_MINUTES and opening > local:
                    return opening
        return None

    def in_words(self, at: datetime) -> str:
        """Lines for the model: the week, the days that differ, and what is now."""
        local = at.astimezone(self.zone)
        coming = sorted(day for day in self.exceptions if day >= local.date())[:SHOWN_EXCEPTIONS]
        return "\n".join([
            f"Time zone: {self.zone.key}",
            *(f"{name.capitalize()}: {_ranges_in_words(self.weekly[day])}" for day, name in enumerate(DAYS)),
            *(f"{day.isoformat()}: {_ranges_in_words(self.exceptions[day])}" for day in coming),
            f"Now: {_moment(local)}, {self._state(at)}",
        ])  # fmt: skip

    def _state(self, at: datetime) -> str:
        if self.is_open(at):
            return "a person is there"
        opening = self.next_opening(at)
        return "no person is there" + (f" until {_moment(opening)}" if opening else "")

    def _ranges(self, day: date) -> tuple[Range, ...]:
        return self.exceptions.get(day, self.weekly[day.weekday()])


def is_time_zone(name: str) -> bool:
    """Of the IANA database: a name that means the same on every machine."""
    if name in _NO_ZONES or name.startswith(_OTHER_CLOCKS):
        return False
    try:
        return bool(ZoneInfo(name).key)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return False


def read_hours(value: Json | None) -> BusinessHours | None:
    """`None` also for what is not as above: profiles may be written by SQL."""
    if value is None:
        return None
    try:
        weekly, exceptions = value["weekly"], value.get("exceptions") or {}
        return BusinessHours(
            ZoneInfo(value["time_zone"]),
            tuple(_read_ranges(weekly.get(day) or ()) for day in DAYS),
            {date.fromisoformat(day): _read_ranges(ranges) for day, ranges in exceptions.items()},
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError, ZoneInfoNotFoundError):
        return None


def _read_ranges(ranges: object) -> tuple[Range, ...]:
    """Raises `TypeError`, `ValueError`."""
    if not isinstance(ranges, list | tuple):
        raise TypeError("not a list of ranges")
    return tuple(_read_range(*found) for found in ranges)


def _read_range(start: str, end: str) -> Range:
    opens, closes = _minutes(start), _minutes(end)
    return opens, closes if closes > opens else closes + DAY_MINUTES


def _minutes(told: str) -> int:
    if not _TIME.fullmatch(told):
        raise ValueError("not a time of day")
    return int(told[:2]) * 60 + int(told[3:])


def _ranges_in_words(ranges: tuple[Range, ...]) -> str:
    return ", ".join(f"{_clock(start)}-{_clock(end)}" for start, end in ranges) or "closed"


def _clock(minutes: int) -> str:
    return "24:00" if minutes == DAY_MINUTES else f"{minutes // 60 % 24:02}:{minutes % 60:02}"


def _moment(at: datetime) -> str:
    return f"{DAYS[at.weekday()].capitalize()} {at.date().isoformat()}, {at:%H:%M}"
