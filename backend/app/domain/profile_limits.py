"""How large a bot profile may be: every answer pays for all of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum

from app.domain.errors import InvalidInput
from app.domain.models import BotProfile

PROFILE_BYTES = 64 * 1024
"""Of all its texts and free-form fields together: about 16,000 tokens with every answer."""
_NO_TEXT = frozenset({"account_id", "media_kinds"})
"""An id, and a choice among words of ours."""
MAX_DEPTH = 64
"""Objects and lists inside each other in a free-form field. What we store, cache and send back with it around it stays
below orjson's 254."""


def check_profile(before: BotProfile, changes: Mapping[str, object]) -> None:
    """Raises `InvalidInput` naming the largest changed field if the profile would be too large and no smaller than it
    is."""
    known = {one.name: _size(getattr(before, one.name)) for one in fields(before) if one.name not in _NO_TEXT}
    changed = {name: _size(value) for name, value in changes.items() if name not in _NO_TEXT}
    total = sum((known | changed).values())
    if total > PROFILE_BYTES and total > sum(known.values()):
        raise InvalidInput(
            f"the profile would have {total} bytes of text and free-form fields; at most {PROFILE_BYTES} are allowed",
            field=max(changed, key=lambda name: changed[name]),
        )


def _size(value: object) -> int:
    """Bytes of UTF-8; a free-form field or a list as JSON. Numbers, switches and times cost nothing worth counting."""
    if isinstance(value, Mapping | list | tuple):
        try:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str) if value else ""
        except RecursionError:  # written by SQL
            return PROFILE_BYTES
    if not isinstance(value, str) or isinstance(value, Enum):
        return 0
    return len(value.encode("utf-8", "surrogatepass"))
