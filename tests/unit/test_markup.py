"""Markdown becomes WhatsApp's marks, and what is no Markdown is not touched."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.markup import _converted, to_whatsapp


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("**bold** and __bold__", "*bold* and *bold*"),
        ("*it* and _it_", "_it_ and _it_"),
        ("***both***", "_*both*_"),
        ("**a *b* c**", "*a _b_ c*"),
        ("~~19 €~~ 15 €", "~19 €~ 15 €"),
        ("**19 €**", "*19 €*"),
        ("**Price:** 5 €", "*Price:* 5 €"),
        ("**two\nlines**", "*two*\n*lines*"),
        ("这是**重点**内容", "这是*重点*内容"),
        ("这是**“重点”**内容", "这是*“重点”*内容"),
        ("هذا **مهم** جدا", "هذا *مهم* جدا"),
        ("**Früh**stück", "Frühstück"),
    ],
)
def test_emphasis(markdown: str, shown: str) -> None:
    assert to_whatsapp(markdown) == shown


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("### Title\ntext", "*Title*\ntext"),
        ("# **Title** #\n\ntext", "*Title*\n\ntext"),
        ("a\n\n---\n\nb", "a\n\nb"),
        ("a\n***\nb", "a\n\nb"),
        ("* a\n* b\n    * c", "- a\n- b\n    - c"),
        ("*   **Bread**: 3 €\n*   Cake", "- *Bread*: 3 €\n- Cake"),
        ("- a\n- **b**", "- a\n- *b*"),
        ("1. **a**\n2. b\n   - *c*", "1. *a*\n2. b\n   - _c_"),
        ("1. ### a\n2. b", "1. *a*\n2. b"),
        ("> **q** x\n> y", "> *q* x\n> y"),
        ("a **b**\n    c **d**", "a *b*\n    c *d*"),
        ("| A | B |\n|---|---|\n| x | **3** |\n| y |  |", "*A: B*\n- x: *3*\n- y"),
        ("A | B | C\n--- | --- | ---\nx | 1 | 2", "*A*\n- x - B: 1, C: 2"),
    ],
)
def test_blocks(markdown: str, shown: str) -> None:
    assert to_whatsapp(markdown) == shown


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("[a](https://b)", "a (https://b)"),
        ('[a](https://b "title")', "a (https://b)"),
        ("[https://b.de](https://b.de)", "https://b.de"),
        ("[b.de](https://b.de/)", "https://b.de/"),
        ("<https://b.de/x_y_z>", "https://b.de/x_y_z"),
        ("**[a](https://b/c_d_e)**", "*a (https://b/c_d_e)*"),
        ("[Menü](https://b/ü?q=1&x=2)", "Menü (https://b/ü?q=1&x=2)"),
        ("![pic](https://b/p.png)", "pic (https://b/p.png)"),
        ("![](https://b/p.png)", "https://b/p.png"),
        ("[write](mailto:a@b.de), [+33 6](tel:+336)", "write (a@b.de), +33 6 (+336)"),
    ],
)
def test_links(markdown: str, shown: str) -> None:
    assert to_whatsapp(markdown) == shown


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("&amp; &lt;3 &euro;", "& <3 €"),
        ("\\*x\\* 1\\. \\_", "*x* 1. _"),
        ("a<br>b", "a\nb"),
        ("`**a**` and **b**", "`**a**` and *b*"),
        ("```py\n**a** [x](https://y)\n```\n**b**", "```py\n**a** [x](https://y)\n```\n*b*"),
        ("**b**\n```\n**never closed**", "*b*\n```\n**never closed**"),
    ],
)
def test_escapes_and_code(markdown: str, shown: str) -> None:
    assert to_whatsapp(markdown) == shown


PLAIN = [
    "2*3*4", "2**3**4", "5 * 3 * 2", "a**b", "snake_case_names", "my_file_name.txt", "__init__.py", "_private", "*_*",
    "(*_*)", "^_^ T_T -_- o_O >_<", "~_~", "¯\\_(ツ)_/¯", "+33 6 12 34 56 78", "+ 33 6 12", "*100# or *101#",
    "Dial *123* now", "٢*٣*٤", "السعر *٥٠* ريال", "ملاحظة* السعر يشمل الضريبة", "5* hotel and 4* hotel", "C:\\temp",
    "x ~5 km ~10 €", "array[i](x)", "see [1]", "*args, **kwargs", "#hashtag #2", "AT&T Q&A", "a < b > c",
    "1986. A year", "3) x", "- a", "1. a", "> quote", "https://b.de/a_b_c?x=*", "`code`", "tab\there", "*", "**",
    "***a", "\\o/", "50%",
]  # fmt: skip


@pytest.mark.parametrize("text", [*PLAIN, "", "  lead", "trail  ", "a  \n   b", "a\r\nb", "a\n\n\n\nb", "\n\na\n"])
def test_what_is_no_markdown_comes_back_byte_for_byte(text: str) -> None:
    assert to_whatsapp(text) == text


NO_LISTS = [text for text in PLAIN if text[:1] not in "*#"]
WORDS = st.one_of(
    st.sampled_from(NO_LISTS), st.text(st.characters(categories=["L", "Nd"]), max_size=8), st.just("👨‍👩‍👧 €")
)


@given(st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=6).map("\n".join))
def test_any_mixture_of_plain_words_comes_back_byte_for_byte(text: str) -> None:
    if "`" not in text:  # two pieces of code may enclose a third word
        assert to_whatsapp(text) == text


@given(st.text(st.sampled_from("ab é重7.):!,-=\n\t\xa0\u2028\0\r"), max_size=40))
def test_what_is_not_shown_to_the_parser_is_what_the_parser_would_leave(text: str) -> None:
    assert to_whatsapp(text) == _converted(text)


MARKDOWN = st.text(st.sampled_from("ab é重 1*_~`#>-+.[]()|\n\\&<"), max_size=80)


@given(MARKDOWN)
def test_no_text_breaks_it_and_no_letter_is_lost(text: str) -> None:
    shown = to_whatsapp(text)
    assert sorted(c for c in shown if c.isalpha()) == sorted(c for c in text if c.isalpha())


@given(st.lists(st.sampled_from(["_it_", "~x~", "- a", "1. b", "> q", "a (https://b)", "`c`", "plain"]), max_size=8))
def test_its_own_output_without_bold_comes_back_as_it_is(lines: list[str]) -> None:
    assert to_whatsapp("\n".join(lines)) == "\n".join(lines)


HOSTILE = [
    "*a " * 10_000, "**" * 10_000, "[" * 10_000, "> " * 5000, "_a*" * 10_000, "| a" * 5000, "*a " * 3000 + "a* " * 3000,
    "**a " * 2000 + "a** " * 2000, "~~a " * 2000 + "a~~ " * 2000, "[" * 2000 + "a" + "](https://b)" * 2000,
    "".join("  " * depth + "- a\n" for depth in range(200)), "**bold** " * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_long_hostile_text_breaks_nothing_and_ends_soon(text: str) -> None:
    started = time.monotonic()
    assert len(to_whatsapp(text)) <= 2 * len(text)
    assert time.monotonic() - started < 10
