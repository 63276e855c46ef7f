"""Long replies become few messages of at most 4,096 characters, and lose nothing but the white space at the cuts."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import TEXT_LIMIT
from app.domain.text import split_text, whole_sentences


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


FAMILY, FLAG, ACCENTED = "👨‍👩‍👧‍👦", "🇫🇷", "e\u0301"


@pytest.mark.parametrize("cluster", [FAMILY, FLAG, ACCENTED, "👍🏽", "1️⃣"])
def test_a_cut_never_falls_into_what_is_read_as_one_character(cluster: str) -> None:
    for before in range(TEXT_LIMIT - 30, TEXT_LIMIT + 1):
        parts = split_text("a" * before + cluster * 40)
        assert "".join(parts) == "a" * before + cluster * 40
        assert all(len(part) <= TEXT_LIMIT for part in parts)
        assert all(regex.fullmatch(rf"a*(?:{cluster})*", part) for part in parts)


def test_a_part_fits_in_utf_16_units_too() -> None:
    parts = split_text("😀" * 5000)
    assert [len(part.encode("utf-16-le")) // 2 for part in parts] == [4096, 4096, 1808]


def test_a_cluster_longer_than_a_message_is_cut() -> None:
    zalgo = "e" + "\u0301" * 9000
    parts = split_text(zalgo)
    assert "".join(parts) == zalgo
    assert all(len(part) <= TEXT_LIMIT for part in parts)


@pytest.mark.parametrize("mark", ["*", "_", "~", "`"])
def test_a_cut_falls_before_marked_words_not_into_them(mark: str) -> None:
    assert split_text(f"aaaa aaaa {mark}bbbb bbbb bbbb{mark} ccc", 24) == [
        "aaaa aaaa",
        f"{mark}bbbb bbbb bbbb{mark} ccc",
    ]


def test_marks_around_more_than_a_message_are_closed_and_opened_again() -> None:
    parts = split_text("*bbbb bbbb bbbb cccc dddd eeee ffff* ccc", 24)
    assert parts == ["*bbbb bbbb bbbb cccc*", "*dddd eeee ffff* ccc"]


def test_a_code_block_is_not_torn() -> None:
    block = "```\nline one is\nline two is\nline three\n```"
    assert split_text(f"{block}\nend", 24) == [
        "```\nline one is\n```", "```\nline two is\n```", "```\nline three\n```\nend",
    ]  # fmt: skip
    assert split_text("words " * 600 + "```\n" + "code\n" * 200 + "```")[1].startswith("```\ncode")


@given(
    st.lists(
        st.sampled_from(["*", "_", "~", "`", "```", " ", "\n", ". ", "a", "bb", FAMILY, FLAG, ACCENTED]), max_size=99
    ),
    st.integers(min_value=24, max_value=60),
)
def test_parts_fit_whatever_is_marked(pieces: list[str], limit: int) -> None:
    text = "".join(pieces)
    parts = split_text(text, limit)
    assert all(0 < len(part.encode("utf-16-le")) // 2 <= limit for part in parts)
    words = [c for c in text if c not in "*_~` \n"]
    assert [c for part in parts for c in part if c not in "*_~` \n"] == words


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("Hello. We have bread and the pi", "Hello."),
        ("Really?! Yes", "Really?!"),
        ('He said "Yes." And the', 'He said "Yes."'),
        ("Bread:\n- a\n- b\n- cro", "Bread:\n- a\n- b"),
        ("1. Bread\n2. Cak", "1. Bread"),
        ("It costs 3.", "It costs…"),
        ("We open at 7. Bread costs 3.", "We open at 7."),
        ("Our bakery opens at seven and", "Our bakery opens at seven…"),
        ("Bread, cake, piz", "Bread, cake…"),
        ("We sell bread, e.g. rye and whe", "We sell bread, e.g. rye and…"),
        ("See https://levain.example/me", "See…"),
        ("今天我们有面包。明天我们有蛋", "今天我们有面包。"),
        ("今天我们有面包和蛋糕", "今天我们有面包和蛋…"),
        ("السعر ٥ ريال. هل تري", "السعر ٥ ريال."),
        ("क्या आप खुले हैं। हाँ", "क्या आप खुले हैं।"),
        ("**Note: we open at 7. And the pi", "**Note: we open at 7.**"),
        ("We have **bread and", "We have **bread**…"),
        ("We have **piz", "We have…"),
        ("```\na\nb", "```\na\n```"),
        ("Whole.", "Whole."),
        ("Brea", ""),
        ("1. Bread", ""),
        ("", ""),
    ],
)
def test_a_text_cut_off_ends_with_a_whole_sentence_or_word(cut: str, whole: str) -> None:
    assert whole_sentences(cut) == whole


@given(st.text(alphabet=st.sampled_from("ab .!?\n*_`1重。é"), max_size=200))
def test_what_is_left_of_a_cut_text_was_there(text: str) -> None:
    whole = whole_sentences(text).removesuffix("…")
    assert all(c in "*_~`\n" or c in text for c in whole)
    assert len(whole) <= len(text) + 5
