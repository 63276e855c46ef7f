"""When a person is called, what the customer reads then, and for how long the bot is silent. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from app.domain.business_hours import read_hours
from app.domain.folding import fold
from app.domain.models import BotProfile, Handover, HandoverReason, OnHandover

MAX_KEYWORDS = 50
MAX_KEYWORD_CHARACTERS = 60

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


def has_keyword(keywords: tuple[str, ...], texts: Iterable[str]) -> bool:
    """Is one of `keywords` in one of `texts`, as whole words? Case, accents and the kind of white space do not matter;
    in scripts without spaces a word may stand inside others."""
    pattern = _any_of(keywords)
    return pattern is not None and any(pattern.search(fold(text)) for text in texts)


@lru_cache(maxsize=1024)
def _any_of(keywords: tuple[str, ...]) -> re.Pattern[str] | None:
    words = [_whole(folded) for word in keywords[:MAX_KEYWORDS] if (folded := fold(word)[:MAX_KEYWORD_CHARACTERS])]
    return re.compile("|".join(words)) if words else None


def _whole(word: str) -> str:
    before = r"(?<!\w)" if _needs_edge(word[0]) else ""
    after = r"(?!\w)" if _needs_edge(word[-1]) else ""
    return before + re.escape(word) + after


def _needs_edge(letter: str) -> bool:
    return letter.isalnum() and not unicodedata.name(letter, "").startswith(_UNSPACED)
