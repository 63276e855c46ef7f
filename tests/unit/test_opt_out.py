"""The one word that ends automatic answers, and the one that brings them back."""

from __future__ import annotations

import pytest

from app.domain.opt_out import Wish, confirmation, wish


@pytest.mark.parametrize(
    "text",
    ["STOP", "stop", " Stop. ", "STOP!!", "Arrêt", "ARRÊTEZ", "désabonner", "baja", "Parar", "¡BAJA!", "sair", "PARE",
     "Cancelar inscrição", "توقف", "إيقاف", "إلغاء الاشتراك", "unsubscribe", "Opt out", "abmelden", "STOPP",
     "STOP 🛑", "🛑🛑 stop", "Stop 🙏🏽", "stop ❤\ufe0f", "Stop\u200e", "\u202bتوقف\u202c", "#STOP", "stop\u200b"],
)  # fmt: skip
def test_the_word_alone_stops(text: str) -> None:
    assert wish([text]) is Wish.STOP


@pytest.mark.parametrize(
    "text",
    ["Where is the bus stop?", "please stop", "Stop by tomorrow?", "don't stop", "arrêt de bus", "Cancel my order",
     "baja el precio", "stop stop", "", "?!", "s t o p", "the end", "STOP " * 40],
)  # fmt: skip
def test_anything_else_is_a_message(text: str) -> None:
    assert wish([text]) is None


@pytest.mark.parametrize("text", ["START", "start", "Démarrer", "reprendre", "INICIAR", "começar", "ابدأ", "Unstop"])
def test_the_word_alone_starts(text: str) -> None:
    assert wish([text]) is Wish.START


def test_the_last_wish_counts_and_what_is_said_beside_it_does_not_undo_it() -> None:
    assert wish(["STOP", "START"]) is Wish.START
    assert wish(["START", "Do you have bread?", "stop"]) is Wish.STOP
    assert wish(["STOP", "Do you have bread?", None]) is Wish.STOP


def test_a_profile_has_words_of_its_own() -> None:
    assert wish(["Genug!"], ["genug", "Basta così"]) is Wish.STOP
    assert wish(["BASTA COSI"], ["genug", "Basta così"]) is Wish.STOP
    assert wish(["alta"], ["Alta"]) is Wish.STOP, "the profile knows better"
    assert wish(["that is genug"], ["genug"]) is None
    assert wish(["🛑"], ["🛑"]) is Wish.STOP
    assert wish(["🙏"], ["🛑"]) is None


def test_the_confirmation_is_in_the_language_of_the_word_or_of_the_number() -> None:
    assert confirmation(Wish.STOP, "baja", "33612345678").startswith("No recibirá")
    assert confirmation(Wish.STOP, "STOP", "33612345678").startswith("Vous ne recevrez")
    assert confirmation(Wish.STOP, "STOP", "5511987654321").startswith("Não receberá")
    assert confirmation(Wish.STOP, "STOP", "212612345678").startswith("لن تتلقى")
    assert confirmation(Wish.STOP, "STOP", "447700900123").startswith("You will get no more")
    assert confirmation(Wish.STOP, "genug", None).startswith("You will get no more")
    assert confirmation(Wish.START, "start", "33612345678").startswith("Vous pouvez à nouveau")
    assert confirmation(Wish.START, "start", None).startswith("You can get automatic answers here again")
