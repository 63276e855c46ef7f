"""What promises a person, and what only sounds like it, in five languages (tests/cases/handover/promises.json)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from app.demo.bakery import BAKERY
from app.domain.models import BotProfile
from app.domain.promises import promises_person
from app.domain.prompt import system_instruction
from tests.support.patience import Within

SETS = json.loads((Path(__file__).parents[1] / "cases/handover/promises.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["en", "fr", "es", "pt", "ar"])
def test_every_promise_is_found_and_nothing_ordinary(language: str) -> None:
    promises, ordinary = SETS[language]["promises"], SETS[language]["ordinary"]
    assert len(promises) >= 10
    assert len(ordinary) >= 16
    assert [text for text in promises if not promises_person(text)] == []
    assert [text for text in ordinary if promises_person(text)] == []


def test_one_promise_among_other_sentences_is_enough_and_case_and_signs_do_not_matter() -> None:
    assert promises_person("We bake at night.\n*A COLLEAGUE WILL CALL YOU* 😊 Do you need anything else?")
    assert promises_person("un colle\u0300gue va vous rappeler")
    assert not promises_person("We bake at night.\nShall a colleague call you?\nIf you like, our team will call you.")
    assert not promises_person("")


def test_what_a_shop_says_of_itself_promises_no_person() -> None:
    lines = system_instruction(BotProfile("a1", **BAKERY), "Amina").splitlines()
    assert [line for line in lines if promises_person(line)] == []


@pytest.mark.parametrize("words", ["a colleague ", "i will pass x x x x ", "سيتصل بك ", "je transmets a un ", "will "])
def test_no_text_takes_long(words: str, within: Within) -> None:
    began = time.process_time()
    promises_person(words * 4000)
    assert time.process_time() - began < within(0.5)
