"""What a field takes, for one who filled it in: pydantic's own words show a regular expression, or a class of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS: Mapping[str, str] = {
    r"^[^\x00]*$": "must not contain the character NUL",
    r"^[^\x00]*[^\s\x00][^\x00]*$": "must contain more than white space, and not the character NUL",
    r"^[a-z0-9][a-z0-9-]{0,62}$": "must be small letters, digits and hyphens, 63 at most, and not begin with a hyphen",
    r"^[0-9]{1,32}$": "must be the number's id as Meta shows it, 1 to 32 digits; it is not the number itself",
    r"^[0-9]{5,20}$": "must be the Meta app's id, 5 to 20 digits",
    r"^\+?[0-9]{6,20}$": "must be a phone number with its country code, 6 to 20 digits without spaces",
    r"^\+?0{0,2}[1-9]([ ().-]{0,2}[0-9]){5,14}$": "must be a phone number with its country code, as +33123456789",
    r"^[\x21\x24-\x26\x28-\x7e][\x21-\x7e]{7,999}$": (
        "must be 8 to 1000 letters, digits and signs of ASCII, without quotes around it: copy the whole token again"
    ),
    r"^[A-Za-z0-9_-][A-Za-z0-9._:@|-]{0,254}$": "must be a user's id as Supabase Auth shows it",
    r"^[\x21-\x7e]{1,200}$": "must be 1 to 200 letters, digits and signs of ASCII, without spaces",
    r"^[\x21-\x7e]+$": "must be a URL in ASCII: other characters are written in percent or punycode",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": "must be a time of day, as 09:00",
    r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$": "must be a time of day, as 18:30, or 24:00",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": "must be a day, as 2026-12-25",
    r"^[A-Za-z0-9_+/-]{1,64}$": "must be the name of a time zone, as Europe/Paris",
    r"^[A-Za-z0-9._-]{1,100}$": "must be the name of a model, as gemini-3.5-flash-lite",
    r"^\s*[^\s@\x00]+@[^\s@\x00]+\s*$": "must be an e-mail address",
    r"^[0-9]{1,17}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$": "must be the next_cursor of the page before",
    r"^[0-9]{1,18}$": "must be the next_cursor of the page before",
    r"^e?[0-9]{1,4}-[0-9]{1,19}-[0-9]{1,19}$": "must be the next_cursor of the page before",
    r"^[0-9]{1,20}-[0-9]{1,20}$": "must be the id of an event of this stream",
}
"""By the pattern of a field or a parameter."""


def in_words(error: Mapping[str, Any]) -> str:
    """`error`: one of those that a `ValidationError` lists. The value is never in it."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "string_pattern_mismatch" and (words := WORDS.get(context.get("pattern", ""))):
        return words
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "must be a JSON object"
    message: str = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
