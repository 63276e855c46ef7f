"""What an invalidation names: one key, a group (`prefix:*`), or a glob."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

WILDCARDS = "*?["


class Kind(StrEnum):
    """As it travels in messages."""

    KEY = "k"
    GROUP = "g"
    PATTERN = "p"


@dataclass(frozen=True, slots=True)
class Target:
    """`text` is the key, the group's name without its colon, or the glob. `matches(key)`: is it one of them?"""

    kind: Kind
    text: str
    matches: Callable[[str], bool] = field(compare=False, repr=False)

    @classmethod
    def of(cls, pattern: str) -> Target:
        """`user:1` a key · `user:*` a group, if its prefix has no colon of its own · anything else with a wildcard."""
        head = pattern[:-2]
        if not any(sign in pattern for sign in WILDCARDS):
            return cls.key(pattern)
        if pattern.endswith(":*") and head and not any(sign in head for sign in WILDCARDS + ":"):
            return cls.group(head)
        return cls.pattern(pattern)

    @classmethod
    def key(cls, key: str) -> Target:
        return cls(Kind.KEY, key, key.__eq__)

    @classmethod
    def group(cls, group: str) -> Target:
        prefix = f"{group}:"
        return cls(Kind.GROUP, group, lambda key: key.startswith(prefix))

    @classmethod
    def pattern(cls, glob: str) -> Target:
        prefix = glob[:-1]
        if glob.endswith("*") and not any(sign in prefix for sign in WILDCARDS):
            return cls(Kind.PATTERN, glob, lambda key: key.startswith(prefix))
        # A key may contain a wildcard's sign itself.
        return cls(Kind.PATTERN, glob, lambda key: key == glob or fnmatch.fnmatchcase(key, glob))

    @classmethod
    def parse(cls, kind: str, text: str) -> Target:
        """From a message. Raises `ValueError` for a kind it does not know."""
        match Kind(kind):
            case Kind.KEY:
                return cls.key(text)
            case Kind.GROUP:
                return cls.group(text)
            case Kind.PATTERN:
                return cls.pattern(text)


def group_of(key: str) -> str:
    """The group of a key: what stands before its first colon; `""` without one."""
    return key.partition(":")[0] if ":" in key else ""
