"""When the calls of an account come back to what somebody else has locked."""

from __future__ import annotations

import pytest

from app.adapters.database_trouble import (
    LACKING_MAX_SECONDS,
    LACKING_RETRY_SECONDS,
    MAX_GROUPS,
    Turns,
)
from tests.support.fakes import FakeClock


def test_one_call_comes_back_soon() -> None:
    assert Turns(FakeClock()).delay_seconds("a") == LACKING_RETRY_SECONDS


def test_many_of_one_account_come_one_after_the_other_and_none_very_late() -> None:
    turns = Turns(FakeClock())
    delays = [turns.delay_seconds("a") for _ in range(200)]
    assert delays[:3] == pytest.approx([1.0, 1.3, 1.6])
    assert max(delays) == LACKING_MAX_SECONDS
    assert turns.delay_seconds("b") == LACKING_RETRY_SECONDS


def test_what_is_over_is_forgotten() -> None:
    clock = FakeClock()
    turns = Turns(clock)
    for number in range(MAX_GROUPS):
        turns.delay_seconds(f"account {number}")
    clock.advance(60)
    assert turns.delay_seconds("a") == LACKING_RETRY_SECONDS
    assert len(turns._next) == 1


def test_a_person_comes_back_soon_however_much_waits() -> None:
    turns = Turns(FakeClock())
    assert [turns.delay_seconds("") for _ in range(100)] == [LACKING_RETRY_SECONDS] * 100
