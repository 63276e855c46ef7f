"""What is wrong with a field is said in words that tell what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.field_words import WORDS, in_words
from app.api.schemas import AccountIn, ProfileChanges

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
ACCOUNT = {"name": "A", "slug": "a", "phone_number_id": "1", "access_token": "12345678", "verify_token": "12345678"}
OF_OTHERS = {r"^sha256=[0-9a-f]{64}$", r"^[0-9]+$", r"^[a-z0-9_]+$"}
"""Meta's signature, which is refused as such, and what only our answers have."""


def patterns(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(found := node.get("pattern"), str) and found.startswith("^"):
            yield found
        yield from node.get("patternProperties", ())
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from patterns(child)


def test_every_pattern_of_the_interface_has_words() -> None:
    assert set(patterns(json.loads(DOCUMENT.read_text()))) - OF_OTHERS == set(WORDS)


@pytest.mark.parametrize(
    ("schema", "given", "words"),
    [
        (AccountIn, ACCOUNT | {"slug": "A B"}, "must be small letters"),
        (AccountIn, ACCOUNT | {"access_token": "short"}, "copy the whole token again"),
        (AccountIn, ACCOUNT | {"access_token": "two words"}, "has white space"),
        (AccountIn, ACCOUNT | {"nosuch": 1}, "there is no such field"),
        (ProfileChanges, {"business_hours": "always"}, "must be a JSON object"),
        (AccountIn, ACCOUNT | {"name": 5}, "input should be a valid string"),
    ],
    ids=["pattern", "token", "own words", "unknown", "object", "other"],
)
def test_it_is_told_what_the_field_takes(schema: type, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        schema(**given)
    assert words in in_words(caught.value.errors()[0])
