"""Long replies become few messages of at most 4,096 characters, and lose nothing but the white space at the cuts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import TEXT_LIMIT
from app.domain.text import split_text


def test_what_fits_is_one_message() -> None:
    assert split_text("a" * TEXT_LIMIT) == ["a" * TEXT_LIMIT]


def test_blank_text_is_no_message() -> None:
    assert split_text("  \n ") == []


def test_it_prefers_the_paragraph_to_the_sentence_to_the_word() -> None:
    assert split_text("aaaa bbbb.\n\ncccc. dddd eeee", 18) == ["aaaa bbbb.", "cccc. dddd eeee"]
    assert split_text("aaaa bbbb. cccc dddd", 18) == ["aaaa bbbb.", "cccc dddd"]
    assert split_text("aaaabbbb cccc", 10) == ["aaaabbbb", "cccc"]


def test_a_word_longer_than_the_limit_is_cut() -> None:
    assert split_text("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


@given(st.text(alphabet=st.sampled_from("ab .\n"), max_size=300), st.integers(min_value=4, max_value=50))
def test_parts_fit_and_hold_every_character(text: str, limit: int) -> None:
    parts = split_text(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert parts == split_text(text, limit)
