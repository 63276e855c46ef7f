"""A phone number is its digits, however it is written; some lines have two numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.phone import phone_digits, shortest_number


@pytest.mark.parametrize(
    "written",
    ["34610000016", "+34610000016", " +34 610 000 016 ", "0034610000016", "(34) 610-000.016",
     "+34\u00a0610\u202f000016", "\u202a+34610000016\u202c", 34610000016],
)  # fmt: skip
def test_every_way_of_writing_gives_the_digits(written: Any) -> None:
    assert phone_digits(written) == "34610000016"


@pytest.mark.parametrize("written", ["", "+", "0", "abc", "US.123", "34610x", None, True, 1.5, [], {}, "9" * 21])
def test_what_is_no_number_is_none(written: Any) -> None:
    assert phone_digits(written) is None


@given(st.text())
def test_only_digits_come_out(text: str) -> None:
    digits = phone_digits(text)
    assert digits is None or (digits.isascii() and digits.isdigit() and phone_digits(digits) == digits)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5215512345678", "525512345678"), ("5491123456789", "541123456789"), ("5511987654321", "551187654321")],
)
def test_the_two_numbers_of_one_line_compare_equal(one: str, other: str) -> None:
    assert shortest_number(one) == shortest_number(other)


def test_other_numbers_stay_apart() -> None:
    assert len({shortest_number(n) for n in ("34610000016", "34610000017", "5211234", "15550001111")}) == 4
