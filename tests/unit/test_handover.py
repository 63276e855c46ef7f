"""Which words call a person, how long the bot is silent, and what the customer reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain.handover import PersonCalled, handover, handover_text, has_keyword, person_called
from app.domain.models import BotProfile, FunctionCall, Generation, Handover, HandoverReason, OnHandover
from app.services.handover_notices import WORDS

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("agent", "AGENT!"), ("agent", "please, an agent."), ("real person", "a real\u00a0 person, now"),
        ("atención al cliente", "ATENCION AL CLIENTE"), ("conseillère", "une Conseille\u0300re ?"),
        ("موظف", "أريد مُوَظَّف"), ("人工", "我要人工客服"), ("คน", "ขอคุยกับคน"), ("व्यक्ति", "व्यक्ति से बात"),
        ("c'est urgent", "C\u2019est urgent"), ("*911*", "call *911* now"),
    ],
)  # fmt: skip
def test_a_keyword_is_found_as_whole_words_in_any_script(keyword: str, text: str) -> None:
    assert has_keyword(("human", keyword), ["hello", text])


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("agent", "a magenta cake for the agents' ball: reagent, agent_7"), ("man", "woman, mankind, manly"),
        ("موظف", "موظفون"), ("कर", "करना"), ("real person", "really personal"),
    ],
)  # fmt: skip
def test_a_part_of_a_word_is_none(keyword: str, text: str) -> None:
    assert not has_keyword((keyword,), [text.replace("agents'", "").replace("agent_7", "agent_7x")])


KEYWORDS = ("human", "real person", "humain", "persona", "موظف")


@pytest.mark.parametrize(
    "text",
    [
        "_human_",
        "*HUMAN*!!",
        "hu\u200bman",
        "a real\u200f person",
        "\u202bأريد \u200fموظف\u202c",
        "human🙏",
        "NO BOT! HUMAN!!!",
        "no, human please",
        "no human answers me",
        "Why is there no human here?",
        "I don't want a bot, I want a human",
        "I don't want to talk to a bot but a human",
        "I dont want to wait for a human any longer",
        "Je veux pas un robot, je veux un humain",
    ],
)
def test_customers_ask_with_emoji_emphasis_unseen_signs_and_beside_what_they_decline(text: str) -> None:
    assert has_keyword(KEYWORDS, [text])


@pytest.mark.parametrize(
    "text",
    [
        "no human please",
        "NO HUMAN PLEASE 🙏",
        "I don't want to talk to a human",
        "I'd rather not speak with a real person",
        "No need for a human.",
        "Je ne veux pas parler à un humain",
        "pas besoin d'un humain",
        "No quiero hablar con una persona",
        "não quero falar com uma persona",
        "لا أريد التحدث إلى موظف",
    ],
)
def test_who_declines_a_person_is_left_to_the_model(text: str) -> None:
    assert not has_keyword(KEYWORDS, [text])
    assert has_keyword(KEYWORDS, [text, "human"])


def test_no_keywords_and_blank_ones_find_nothing() -> None:
    assert not has_keyword((), ["agent"])
    assert not has_keyword(("", "  ", "\u0301"), ["agent", "", " "])


@pytest.mark.parametrize(
    ("text", "arguments", "reason", "message"),
    [
        ("", {"reason": "customer_asked", "message_to_customer": "One comes."}, "customer_asked", "One comes."),
        (
            "Sorry!",
            {"reason": "needs_person", "message_to_customer": "One comes."},
            "needs_person",
            "Sorry!\nOne comes.",
        ),
        ("One comes. Soon.", {"reason": "x", "message_to_customer": "One comes."}, "needs_person", "One comes. Soon."),
        ("One comes.", {"message_to_customer": "One comes. Soon."}, "needs_person", "One comes. Soon."),
        (" ", {"reason": ["customer_asked"], "message_to_customer": 5}, "needs_person", ""),
    ],
)
def test_a_call_of_the_model_is_read_whatever_it_holds(
    text: str, arguments: dict[str, Any], reason: str, message: str
) -> None:
    generation = Generation(text, "m", calls=(FunctionCall("other", {}), FunctionCall("call_person", arguments)))
    assert person_called(generation) == PersonCalled(HandoverReason(reason), message)
    assert person_called(Generation("hi", "m", calls=(FunctionCall("other", arguments),))) is None


def test_the_bot_pauses_where_the_customer_expects_a_person_and_the_profile_wants_it() -> None:
    profile = BotProfile("a", handover_pause_minutes=15)
    for reason in HandoverReason:
        expected = reason in ("customer_asked", "needs_person", "promised")
        assert handover(profile, reason) == Handover(reason, 15 if expected else None)
    going_on = BotProfile("a", on_handover=OnHandover.CONTINUE)
    assert handover(going_on, HandoverReason.CUSTOMER_ASKED) == Handover(HandoverReason.CUSTOMER_ASKED)


def test_every_reason_has_words_for_the_person_and_a_place_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs/handover.md").read_text(encoding="utf-8")
    assert set(WORDS) == set(HandoverReason)
    assert [reason for reason in HandoverReason if f"`{reason}`" not in guide] == []


def test_outside_business_hours_the_customer_reads_when_a_person_comes() -> None:
    hours = {"time_zone": "UTC", "weekly": {"monday": [["09:00", "12:00"]]}}
    profile = BotProfile("a", fallback_text="Soon.", outside_hours_text="Tomorrow.", business_hours=hours)
    assert handover_text(profile, NOON.replace(hour=9)) == "Soon."
    assert handover_text(profile, NOON) == "Tomorrow."
    assert handover_text(BotProfile("a", fallback_text="Soon.", business_hours=hours), NOON) == "Soon."
    assert handover_text(BotProfile("a", fallback_text="Soon.", outside_hours_text="Tomorrow."), NOON) == "Soon."
