"""Invalidations that Redis has not taken yet ("owed"): kept, and their keys read past the cache, until it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from app.core.cache.patterns import Kind, Target, group_of
from app.core.clock import Clock

MAX_PENDING = 10_000
"""Beyond it, keys are replaced by their groups."""
REMEMBER_SECONDS = 30.0
"""A replica that takes over may lack this much of what the primary had acknowledged; usually it is far less."""
MAX_REMEMBERED = 10_000


class PendingInvalidations:
    """A set of targets, and what this process has carried out lately."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._keys: dict[str, int] = {}
        self._wide: dict[Target, int] = {}
        self._recent: deque[tuple[float, Target]] = deque(maxlen=MAX_REMEMBERED)
        self._serial = 0
        self.any = False
        """At least one is pending: asked at every read."""

    def __len__(self) -> int:
        return len(self._keys) + len(self._wide)

    @property
    def has_groups(self) -> bool:
        return bool(self._wide)

    def add(self, targets: Iterable[Target]) -> int:
        """The number to `settle` with."""
        self._serial += 1
        for target in targets:
            if target.kind is Kind.KEY:
                self._keys[target.text] = self._serial
            else:
                self._wide[target] = self._serial
        if len(self._keys) > MAX_PENDING:
            groups = {group_of(key) for key in self._keys}
            self._keys.clear()
            # A key without a colon is in no group that an invalidation could name.
            self.add([Target.group(group) if group else Target.pattern("*") for group in groups])
        self.any = bool(self)
        return self._serial

    def covers(self, key: str) -> bool:
        return key in self._keys or any(target.matches(key) for target in self._wide)

    def targets(self) -> tuple[int, list[Target]]:
        """All of them, and the number to `settle` with."""
        return self._serial, [*(Target.key(key) for key in self._keys), *self._wide]

    def settle(self, serial: int, targets: Iterable[Target]) -> None:
        """They have been carried out; what was added again since `serial` still has to be."""
        now = self._monotonic()
        for target in targets:
            if target.kind is Kind.KEY:
                if self._keys.get(target.text, serial + 1) <= serial:
                    del self._keys[target.text]
            elif self._wide.get(target, serial + 1) <= serial:
                del self._wide[target]
            self._recent.append((now, target))
        self.any = bool(self)

    def recall(self, concerns: Callable[[Target], bool]) -> None:
        """A server may have forgotten: have pending again what was carried out lately and concerns it."""
        since = self._monotonic() - REMEMBER_SECONDS
        self.add([target for at, target in self._recent if at >= since and concerns(target)])
