"""The stand-in's replies must look like a helpful person's and never depend on anything but the request."""

from __future__ import annotations

import pytest

from app.demo.bakery import BAKERY
from app.domain.models import BotProfile
from app.domain.prompt import system_instruction
from app.sandbox.gemini_reply import compose

PROFILE = BotProfile(account_id="a", **{k: v for k, v in BAKERY.items() if k in BotProfile.__slots__})
SYSTEM = system_instruction(PROFILE, "Sheena")


def ask(*questions: str, system: str = SYSTEM) -> str:
    """The reply to the last question of a conversation in which the model said "…" in between."""
    turns: list[tuple[str, str]] = []
    for question in questions:
        turns += [("user", question), ("model", "…")]
    return compose(system, turns[:-1])


@pytest.mark.parametrize(
    ("question", "quoted"),
    [
        ("Hi, are you open on Sunday?", "Sunday 7:00-13:00"),
        ("Vous êtes ouverts le dimanche ?", "Sunday 7:00-13:00"),
        ("How much is a croissant?", "Butter croissant: 1.40 EUR"),
        ("Combien coûte un croissant ?", "Butter croissant: 1.40 EUR"),
        ("Hola, ¿cuánto cuesta un croissant?", "Butter croissant: 1.40 EUR"),
        ("Où êtes-vous situés ?", "12 rue des Tables Claudiennes"),
        ("Wo sind Sie?", "12 rue des Tables Claudiennes"),
        ("Do you have gluten-free bread?", "No. We work with wheat everywhere"),
        ("Can I pay by card?", "Payment: cash, card, meal vouchers."),
        ("Vous livrez ?", "We deliver within Lyon 1 and Lyon 4"),
    ],
)
def test_quotes_the_fact_that_was_asked_for(question: str, quoted: str) -> None:
    assert quoted in ask(question)


@pytest.mark.parametrize(
    ("question", "closing"),
    [("Are you open on monday?", "?"), ("Êtes-vous ouverts le lundi ?", "?"), ("Haben Sie am Montag offen?", "?")],
)
def test_ends_with_a_question(question: str, closing: str) -> None:
    assert ask(question).endswith(closing)


def test_speaks_the_customers_language() -> None:
    assert "I don't have that information" in ask("Do you sell bicycles?")
    assert "Je n'ai pas cette information" in ask("Vendez-vous des vélos ?")
    assert "No tengo esa información" in ask("¿Tienen bicicletas?")
    assert "Das weiß ich leider nicht" in ask("Haben Sie Fahrräder?")


def test_an_ambiguous_message_is_answered_in_the_language_of_the_one_before() -> None:
    assert "Je n'ai pas cette information" in ask("Bonjour, quels gâteaux avez-vous ?", "Kouglof?")


def test_greets_by_name_on_the_first_turn_only() -> None:
    assert ask("Hello").startswith("Hello Sheena! ")
    assert ask("Bonjour").startswith("Bonjour Sheena ! ")
    assert "Sheena" not in ask("Hello", "Are you open on Sunday?")


def test_greets_without_a_name_when_there_is_none() -> None:
    assert ask("Hello", system=system_instruction(PROFILE, None)).startswith("Hello! ")


def test_a_contact_in_the_profile_is_not_taken_for_the_customer() -> None:
    assert ask("Hello", system="## Business\nContact: Claire Levain").startswith("Hello! ")


def test_answers_each_of_several_quick_messages() -> None:
    reply = ask("Hello\nHow much is a croissant?\nAre you open on Sunday?")
    assert "1.40 EUR" in reply
    assert "Sunday 7:00-13:00" in reply


def test_never_quotes_the_rules_meant_for_the_bot() -> None:
    assert "invent" not in ask("Do you invent facts?")
    assert "Claire: say" not in ask("I have a complaint about an invoice")


def test_echoes_the_markers_of_the_last_turn() -> None:
    reply = ask("Hi #old", "Are you open on Sunday? #m1\nand Monday #m-2")
    assert reply.endswith("(#m1 #m-2)")
    assert "#old" not in reply


def test_thanks_are_acknowledged() -> None:
    assert "You're welcome" in ask("Thank you very much!")
    assert "Avec plaisir" in ask("Merci beaucoup")


def test_the_same_request_gives_the_same_text() -> None:
    assert len({ask("Do you have cakes for a birthday?") for _ in range(5)}) == 1


@pytest.mark.parametrize("system", ["", "You are a bot.", "## Rules\n- Never lie."])
def test_an_empty_profile_still_gets_a_polite_answer(system: str) -> None:
    assert "I would rather not guess" in ask("Are you open on Sunday?", system=system)


def test_a_very_long_line_is_quoted_in_part() -> None:
    assert len(ask("Tell me about bread", system="Bread " + "is baked daily and " * 100)) < 700
