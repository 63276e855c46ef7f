"""The prompt holds the whole profile and nothing else; a golden file shows what the model reads."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.domain.models import BotProfile, Turn
from app.domain.prompt import BASE_RULES, build_prompt, merge_turns, system_instruction
from app.sandbox.bakery import BAKERY

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

    about = {key: value for key, value in BAKERY.items() if key not in {"fallback_text", "non_text_reply"}}
    assert [leaf for leaf in leaves(about) if leaf not in text] == []


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
