"""One form for words that people write in many ways: case, accents and white space do not tell them apart."""

from __future__ import annotations

import re
import unicodedata

_MARKS = re.compile(r"[\u0300-\u036f\u0610-\u061a\u0640\u064b-\u065f\u0670]")
"""Accents of the Latin, Greek and Cyrillic scripts; Arabic vowel signs and the bar that only makes a word longer. Not
the signs of the Indic scripts, which are letters."""
_UNSEEN = re.compile(r"[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufe0e\ufe0f\ufeff]")
"""Signs without a width: keyboards and copied texts leave them inside words; directions of writing; forms of emoji."""
_SAME = str.maketrans({"\u0649": "\u064a", "\u0629": "\u0647", "\u2019": "'", "\u02bc": "'", "`": "'"})
"""Arabic letters that people exchange at the end of a word, and apostrophes."""


def fold(text: str) -> str:
    """`text` for comparing, never for showing."""
    plain = _UNSEEN.sub("", unicodedata.normalize("NFKD", text)).translate(_SAME)
    return " ".join(_MARKS.sub("", plain).casefold().split())
