"""The prompt holds the whole profile and nothing else; a golden file shows what the model reads."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.demo.bakery import BAKERY
from app.domain.fitting import CUT, MISSING, estimated_tokens, size
from app.domain.models import BotProfile, Prompt, Turn
from app.domain.prompt import (
    ASKED_BYTES,
    BASE_RULES,
    MAX_ASKED,
    NAME_LABEL,
    TURNS_BYTES,
    build_prompt,
    merge_turns,
    system_instruction,
)

GOLDEN = Path(__file__).parent / "golden"
BAKERY_PROFILE = BotProfile(account_id="a1", **BAKERY)


def test_bakery_prompt_is_the_golden_one() -> None:
    assert system_instruction(BAKERY_PROFILE, "Amina") + "\n" == (GOLDEN / "bakery_prompt.txt").read_text()


def test_an_empty_profile_still_gives_rules_and_no_empty_section() -> None:
    assert system_instruction(BotProfile(account_id="a1"), None) + "\n" == (GOLDEN / "empty_prompt.txt").read_text()


def test_every_leaf_of_the_profile_reaches_the_model() -> None:
    text = system_instruction(BAKERY_PROFILE, "Amina")

    def leaves(value: object) -> list[str]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, list):
            return [leaf for item in value for leaf in leaves(item)]
        return [str(value)]

    never_asked = {"fallback_text", "interim_text", "non_text_reply"}
    about = {key: value for key, value in BAKERY.items() if key not in never_asked}
    assert [leaf for leaf in leaves(about) if leaf not in text] == []


def test_the_model_is_told_when_a_person_is_there_and_may_call_one() -> None:
    hours = {"time_zone": "Europe/Paris", "weekly": {"monday": [["09:00", "12:00"]]}}
    profile = BotProfile("a1", business_hours=hours, outside_hours_text="Back on Monday. " + "x" * 4000)
    at = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
    prompt = build_prompt(profile, "Amina", (), ["hi"], at=at)
    assert [function.name for function in prompt.functions] == ["call_person"]
    section = prompt.system.partition("## When a person is there\n")[2]
    assert "Monday: 09:00-12:00\n" in section
    assert "Now: Tuesday 2026-11-24, 11:00, no person is there until Monday 2026-11-30, 09:00\n" in section
    assert "is told, in their language: Back on Monday." in section
    assert size(section) < 3000
    assert "When a person is there" not in system_instruction(BotProfile("a1"), None, at=at)


def test_rules_forbid_inventing_and_promising_and_ask_to_advance() -> None:
    rules = " ".join(BASE_RULES)
    for needed in ("Never invent", "Promise no price, delay, availability or booking", "language", "forward"):
        assert needed in rules


def test_what_is_asked_is_the_last_turn_even_if_the_history_ends_with_the_model() -> None:
    history = [Turn("model", "Hello!"), Turn("user", "Hi"), Turn("model", "How can I help?")]
    prompt = build_prompt(BAKERY_PROFILE, None, history, ["Are you open?", "Today?"])
    assert prompt.turns == (Turn("user", "Hi"), Turn("model", "How can I help?"), Turn("user", "Are you open?\nToday?"))


@given(st.lists(st.builds(Turn, st.sampled_from(["user", "model"]), st.text(min_size=1))), st.text(min_size=1))
def test_turns_start_and_end_with_the_user_and_alternate(history: list[Turn], asked: str) -> None:
    turns = merge_turns([*history, Turn("user", asked)])
    assert turns[0].role == turns[-1].role == "user"
    assert all(a.role != b.role for a, b in itertools.pairwise(turns))
    kept = "\n".join(turn.text for turn in turns)
    first_user = next((i for i, turn in enumerate(history) if turn.role == "user"), len(history))
    assert all(turn.text in kept for turn in history[first_user:])


def turn_bytes(prompt: Prompt) -> int:
    return sum(size(turn.text) for turn in prompt.turns)


def test_thirty_long_messages_cost_no_more_than_a_prompt_may() -> None:
    history = [Turn("user", f"{number} " + "x" * 65_000) for number in range(30)]
    prompt = build_prompt(BAKERY_PROFILE, None, history, ["hi"])
    assert turn_bytes(prompt) <= TURNS_BYTES + 100
    assert sum(estimated_tokens(turn.text) for turn in prompt.turns) <= 12_100
    (turn,) = prompt.turns
    assert turn.text.endswith("\nhi")
    assert turn.text.startswith("27 "), "the oldest go first"
    assert turn.text.count(CUT) == 3


def test_of_what_is_asked_something_always_stays() -> None:
    prompt = build_prompt(BAKERY_PROFILE, None, [Turn("user", "before")], ["Are you open?", "y" * 65_536, "z" * 65_536])
    (turn,) = prompt.turns
    assert size(turn.text) <= ASKED_BYTES + 100
    assert turn.text.startswith("before\nAre you open?\nyyy")
    assert "zzz" in turn.text
    assert turn.text.count(CUT) == 2


def test_of_very_many_messages_the_latest_are_asked() -> None:
    (turn,) = build_prompt(BAKERY_PROFILE, None, (), [f"message {n}" for n in range(1000)]).turns
    lines = turn.text.splitlines()
    assert lines[0] == MISSING
    assert lines[1:] == [f"message {n}" for n in range(1000 - MAX_ASKED, 1000)]


def test_a_stored_profile_that_is_too_large_is_cut_and_its_rules_and_the_customer_stay() -> None:
    profile = BotProfile(
        "a1", business_name="B" * 100_000, description="d" * 500_000, hours="Mon-Fri", knowledge_base="k" * 500_000,
        custom_fields={"a": "c" * 500_000}, template_config={"system_rules": ["r" * 500_000], "faq": ["Parking: yes"]},
    )  # fmt: skip
    text = system_instruction(profile, "Amina")
    assert size(text) <= 74 * 1024
    assert all(rule in text for rule in BASE_RULES)
    assert "Parking: yes" in text
    assert NAME_LABEL in text.splitlines()[-1]
    assert CUT in text


def test_a_profile_nested_without_end_is_read_as_far_as_may_be_stored() -> None:
    value: object = "the bottom"
    for level in range(3000):
        value = {"a": value, "seen": f"level {3000 - level}"}
    text = system_instruction(BotProfile("a1", custom_fields={"top": value}), None)
    assert "level 60" in text
    assert "level 70" not in text
    assert "the bottom" not in text


def test_no_profile_asks_for_more_than_fits_an_attempt() -> None:
    assert build_prompt(BotProfile("a", max_output_tokens=65_536), None, (), ["hi"]).max_output_tokens == 2048
    assert build_prompt(BotProfile("a", max_output_tokens=99), None, (), ["hi"]).max_output_tokens == 99
    assert build_prompt(BotProfile("a"), None, (), ["hi"]).max_output_tokens is None
