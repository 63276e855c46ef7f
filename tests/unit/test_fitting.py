"""Texts are made to fit: nothing short is touched, what is cut says so, and the limit holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.fitting import CUT, cut, estimated_tokens, fit, newest, size
from app.domain.models import Turn

any_text = st.text(max_size=300)


def test_a_token_is_about_four_letters_and_one_character_of_a_wide_script() -> None:
    assert estimated_tokens("x" * 4000) == 1000
    assert 700 <= estimated_tokens("面" * 1000) <= 800
    assert estimated_tokens("") == 0


def test_what_is_cut_says_so_and_what_fits_is_as_it_was() -> None:
    assert cut("Hello", 5) == "Hello"
    assert cut("x" * 100, 60) == "x" * (60 - size(CUT) - 1) + " " + CUT
    assert cut("x" * 100, 3) == CUT


@given(any_text, st.integers(len(CUT) + 2, 200))
def test_a_cut_text_is_no_longer_than_its_limit(text: str, limit: int) -> None:
    assert size(cut(text, limit)) <= limit
    assert cut(text, limit) == text or cut(text, limit).endswith(CUT)


def test_half_an_emoji_is_no_bug() -> None:
    assert cut("\ud83d" * 100, 60).endswith(CUT)


def test_the_longest_are_cut_first_and_to_one_length() -> None:
    first, second, third = fit(["a" * 10, "b" * 5000, "c" * 5000], 2010)
    assert first == "a" * 10
    assert size(second) == size(third) == 1000


@given(st.lists(any_text, max_size=20), st.integers(1000, 3000))
def test_together_they_fit(texts: list[str], limit: int) -> None:
    fitted = fit(texts, limit)
    assert len(fitted) == len(texts)
    assert sum(map(size, fitted)) <= limit
    assert sum(map(size, texts)) > limit or fitted == texts


def test_of_the_history_the_oldest_goes_first() -> None:
    turns = [Turn("user", f"{number:03d}" + "x" * 97) for number in range(10)]
    assert [turn.text[:3] for turn in newest(turns, 350, each=1000)] == ["007", "008", "009"]
    assert newest(turns, 50, each=1000) == []
    assert [size(turn.text) for turn in newest(turns, 1000, each=60)] == [60] * 10
