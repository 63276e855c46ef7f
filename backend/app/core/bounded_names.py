"""Names from outside as metric labels: the first few distinct ones, then "other"."""

from __future__ import annotations

import re

OTHER = "other"
_NAME = re.compile(r"(?!.*\d{6})[a-z][a-z0-9_.]{0,59}", re.ASCII)
"""What a field may be called; an id or a phone number is none."""


class BoundedNames:
    """At most `limit` names in this process; memory and labels stay bounded whatever is sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def label(self, name: object) -> tuple[str, bool]:
        """`name` or "other", and whether this process sees that label for the first time."""
        text = name if isinstance(name, str) and _NAME.fullmatch(name) else OTHER
        if text not in self._names and len(self._names - {OTHER}) >= self._limit:
            text = OTHER
        is_new = text not in self._names
        self._names.add(text)
        return text, is_new
