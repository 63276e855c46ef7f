"""What an invalidation names, and the invalidations that Redis has not taken yet."""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.core.clock import Clock

WILDCARDS = "*?["
MAX_PENDING = 10_000
"""Beyond it, keys are replaced by their groups."""
REMEMBER_SECONDS = 30.0
"""A replica that takes over may lack this much of what the primary had acknowledged; usually it is far less."""
MAX_REMEMBERED = 10_000


class Kind(StrEnum):
    """As it travels in messages."""

    KEY = "k"
    GROUP = "g"
    PATTERN = "p"


@dataclass(frozen=True, slots=True)
class Target:
    """`text` is the key, the group's name without its colon, or the glob."""

    kind: Kind
    text: str

    @classmethod
    def of(cls, pattern: str) -> Target:
        """`user:1` a key · `user:*` a group, if its prefix has no colon of its own · anything else with a wildcard."""
        head = pattern[:-2]
        if not any(sign in pattern for sign in WILDCARDS):
            return cls(Kind.KEY, pattern)
        if pattern.endswith(":*") and head and not any(sign in head for sign in WILDCARDS + ":"):
            return cls(Kind.GROUP, head)
        return cls(Kind.PATTERN, pattern)

    def matches(self, key: str) -> bool:
        if self.kind is Kind.GROUP:
            return key.startswith(f"{self.text}:")
        # A key may contain a wildcard's sign itself.
        return key == self.text or (self.kind is Kind.PATTERN and fnmatch.fnmatchcase(key, self.text))


EVERYTHING = Target(Kind.PATTERN, "*")


def group_of(key: str) -> str:
    """The group of a key: what stands before its first colon; `""` without one."""
    return key.partition(":")[0] if ":" in key else ""


class PendingInvalidations:
    """Invalidations under way and owed: their keys are read past the cache until Redis has taken them. Remembers what
    this process has carried out lately."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self.keys: dict[str, int] = {}
        self.wide: dict[Target, int] = {}
        self._recent: deque[tuple[float, Target]] = deque(maxlen=MAX_REMEMBERED)
        self._serial = 0

    def __len__(self) -> int:
        return len(self.keys) + len(self.wide)

    def add(self, targets: Sequence[Target]) -> tuple[int, list[Target]]:
        """The number to `settle` with, and what to carry out: `targets`, and groups that replace too many keys."""
        self._serial += 1
        for target in targets:
            if target.kind is Kind.KEY:
                self.keys[target.text] = self._serial
            else:
                self.wide[target] = self._serial
        groups: list[Target] = []
        if len(self.keys) > MAX_PENDING:
            # A key without a colon is in no group that an invalidation could name.
            names = {group_of(key) for key in self.keys}
            groups = [Target(Kind.GROUP, name) if name else EVERYTHING for name in names]
            self.wide |= dict.fromkeys(groups, self._serial)
            self.keys.clear()
        return self._serial, [*targets, *groups]

    def covers(self, key: str) -> bool:
        return key in self.keys or any(target.matches(key) for target in self.wide)

    def targets(self) -> tuple[int, list[Target]]:
        """All of them, and the number to `settle` with."""
        return self._serial, [*(Target(Kind.KEY, key) for key in self.keys), *self.wide]

    def settle(self, serial: int, targets: Iterable[Target]) -> None:
        """They have been carried out; what was added again since `serial` still has to be."""
        now = self._monotonic()
        for target in targets:
            if target.kind is Kind.KEY:
                if self.keys.get(target.text, serial + 1) <= serial:
                    del self.keys[target.text]
            elif self.wide.get(target, serial + 1) <= serial:
                del self.wide[target]
            self._recent.append((now, target))

    def recall(self, concerns: Callable[[Target], bool]) -> None:
        """A server may have forgotten: have pending again what was carried out lately and concerns it."""
        since = self._monotonic() - REMEMBER_SECONDS
        self.add([target for at, target in self._recent if at >= since and concerns(target)])
