"""When a person is called, what the customer reads then, and for how long the bot is silent. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from app.domain.business_hours import read_hours
from app.domain.folding import fold
from app.domain.models import BotProfile, Function, Generation, Handover, HandoverReason, OnHandover

MAX_KEYWORDS = 50
MAX_KEYWORD_CHARACTERS = 60

CALL_PERSON = Function(
    name="call_person",
    description=(
        "Calls a person of the business into this chat. Call it when the customer asks for a person: a human, an "
        "agent, a colleague, the manager, anyone but a bot, or to be called back. Call it too when only a person can "
        "do what the customer needs: a complaint, a refund, a change of an order, an emergency. Do not call it for a "
        "question that the information answers, nor because a message only mentions a person."
    ),
    parameters={
        "type": "object",
        "properties": {
            "reason": {
                "type": "string",
                "enum": [str(HandoverReason.CUSTOMER_ASKED), str(HandoverReason.NEEDS_PERSON)],
                "description": "customer_asked: they want a person. needs_person: only a person can help.",
            },
            "message_to_customer": {
                "type": "string",
                "description": (
                    "What the customer reads, in their language: one or two sentences which say that a person has been "
                    "told and will answer here, and when, if no person is there now."
                ),
            },
        },
        "required": ["reason", "message_to_customer"],
    },
)
"""Declared with every question, so that the customer reads a sentence in their language at the price of one call."""

_EXPECTED = frozenset({HandoverReason.CUSTOMER_ASKED, HandoverReason.NEEDS_PERSON, HandoverReason.PROMISED})
"""The customer was told that a person will come: the bot does not talk over that person's head. With every other reason
it goes on: a customer who writes again after an outage is to be answered."""

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that put no spaces between words, by the names of their letters."""


def handover(profile: BotProfile, reason: HandoverReason) -> Handover:
    pauses = reason in _EXPECTED and profile.on_handover is OnHandover.PAUSE
    return Handover(reason, max(1, profile.handover_pause_minutes) if pauses else None)


def handover_text(profile: BotProfile, at: datetime) -> str:
    """What a customer reads who gets a person and no words of the model."""
    hours = read_hours(profile.business_hours)
    closed_text = (profile.outside_hours_text or "").strip()
    return closed_text if closed_text and hours is not None and not hours.is_open(at) else profile.fallback_text


@dataclass(frozen=True, slots=True)
class PersonCalled:
    """The model called a person. `message`: what the customer is to read; may be blank."""

    reason: HandoverReason
    message: str


_DECLINES = re.compile(
    r"(?:\b(?:(?:do not|don't|dont|didn't|did not) (?:want|need|wish)|no need|(?:would|'d) rather not|prefer not|"
    r"(?:veux|souhaite|voudrais|desire|ai) pas|pas besoin|no (?:quiero|necesito|deseo)|nao (?:quero|preciso|desejo))"
    r"|لا (?:اريد|احتاج|ارغب)|بدون)"
    r"(?: (?:d')?(?:to|for|with|a|an|any|the|another|real|live|talk|speak|chat|talking|speaking|be|connected|"
    r"transferred|called|by|parler|discuter|etre|rappele|par|avec|au|un|une|de|vraie?|hablar|"
    r"conversar|con|una|ninguna?|nenhuma?|falar|com|uma?|"
    r"التحدث|الكلام|التواصل|مع|الي|اي)){0,6} (?:d')?$"
)
"""Before the word, with nothing between but the asking: "I don't want a bot but a human" asks for one."""
_NO = re.compile(
    r"(?:^|[,.;:!?] ?)(?:no|non|nao|pas d'|pas de|sin|sem|sans|without)(?: (?:an?|une?|uma?|una|real|vraie?))? ?$"
)
_POLITELY = re.compile(
    r" ?[,.!]? ?(?:please|pls|thanks|thank you|thx|needed|necessary|required|svp|stp|s'il|merci|por favor|gracias|"
    r"obrigad[oa])\b"
)


def person_called(generation: Generation) -> PersonCalled | None:
    """Total: a reason that is none of ours counts as the less definite one."""
    for call in generation.calls:
        if call.name == CALL_PERSON.name:
            told, message = call.arguments.get("reason"), call.arguments.get("message_to_customer")
            asked = told == HandoverReason.CUSTOMER_ASKED
            return PersonCalled(
                HandoverReason.CUSTOMER_ASKED if asked else HandoverReason.NEEDS_PERSON,
                _joined(generation.text, message if isinstance(message, str) else ""),
            )
    return None


def _joined(text: str, message: str) -> str:
    """A model may answer beside the call, with the message's words or with others."""
    text, message = text.strip(), message.replace("\0", "\ufffd").strip()
    if message in text:
        return text
    return message if text in message else f"{text}\n{message}"


def has_keyword(keywords: tuple[str, ...], texts: Iterable[str]) -> bool:
    """Is one of `keywords` in one of `texts`, as whole words? Case, accents and the kind of white space do not matter;
    in scripts without spaces a word may stand inside others. What a customer declines ("no human please", "I don't want
    to talk to a person") is not asked for: the model reads such a message."""
    pattern = _any_of(keywords)
    return pattern is not None and any(
        not _is_declined(folded, found) for folded in map(fold, texts) for found in pattern.finditer(folded)
    )


def _is_declined(text: str, found: re.Match[str]) -> bool:
    """In doubt it is not: "no human answers me" asks for one."""
    before, after = text[: found.start()], text[found.end() :]
    return bool(_DECLINES.search(before) or (_NO.search(before) and _POLITELY.match(after)))


@lru_cache(maxsize=1024)
def _any_of(keywords: tuple[str, ...]) -> re.Pattern[str] | None:
    words = [_whole(folded) for word in keywords[:MAX_KEYWORDS] if (folded := fold(word)[:MAX_KEYWORD_CHARACTERS])]
    return re.compile("|".join(words)) if words else None


def _whole(word: str) -> str:
    # An underscore is a part of a word within one; around it, it is WhatsApp's emphasis: _human_.
    before = r"(?<![^\W_])(?<!\w_)" if _needs_edge(word[0]) else ""
    after = r"(?![^\W_])(?!_\w)" if _needs_edge(word[-1]) else ""
    return before + re.escape(word) + after


def _needs_edge(letter: str) -> bool:
    return letter.isalnum() and not unicodedata.name(letter, "").startswith(_UNSPACED)
