"""What a process knows of a shard's invalidations, and whether its memory may be believed. No I/O.

The server numbers every invalidation, and every message carries the number before its own: a process that knows its
position in the chain knows whether it has missed one. Trust is won by subscribing first and reading the number after,
and lost with the connection, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.core.cache.invalidation import Kind, Target


def _ignore(*_args: object) -> None:
    """Until a cache joins."""


@dataclass(slots=True, eq=False)
class Channel:
    """The position of one process in one shard's chain of invalidations.

    `on_drop(target)`: another process invalidated it · `on_flush(channel)`: anything may have been missed, forget
    everything of this shard · `on_gap(channel)`: one has been missed, and the server may have forgotten others (data
    lost, or a fail-over to a replica that lagged), so what this process invalidated lately must be repeated. The
    sequence does not tell: the first invalidation after a fail-over lifts it above every position of before.
    """

    origin: str = ""
    trusted: bool = False
    """Every invalidation that was published has been, or will be, received. Otherwise memory is bypassed."""
    position: int | None = None
    acknowledged: int = 0
    """Number of the last invalidation of this process that the server took, 0 after a gap. Its message may still be on
    its way."""
    ahead_us: float = 0.0
    """Server time less this process' monotonic time, µs."""
    flushes: int = 0
    """A value may be put into memory only if this is still what it was before the value was read."""
    gaps: int = 0
    received: int = 0
    on_drop: Callable[[Target], object] = _ignore
    on_flush: Callable[[Channel], object] = _ignore
    on_gap: Callable[[Channel], object] = _ignore

    @property
    def reached(self) -> int:
        """Where the server's sequence has been, as far as this process knows."""
        return max(self.position or 0, self.acknowledged)

    def open(self, sequence: int) -> None:
        """Subscribed, and then the sequence was read: the same as before means that nothing was missed."""
        if sequence != self.position:
            self._resume_at(sequence)
        self.trusted = True

    def lose(self) -> None:
        """The connection is gone, or may be."""
        self.trusted = False

    def receive(self, message: bytes) -> None:
        """A published message. Raises `ValueError` for one that is none."""
        prev, now, origin, kind, text = message.decode().split("|", 4)
        target = Target(Kind(kind), text)
        before, sequence = int(prev), int(now)
        self.received += 1
        assert self.position is not None  # noqa: S101  `open` comes first
        if sequence > self.position:
            # Every number that was acknowledged to us is in the chain; one that is not has been forgotten.
            if before != self.position or before < self.acknowledged < sequence:
                self._resume_at(sequence)
                return
            self.position = sequence
        # Our own were dropped before the script ran; what was read while they were owed was not kept.
        if origin != self.origin:
            self.on_drop(target)

    def check(self, reached: int, sequence: int) -> bool:
        """A heartbeat's answer, when everything published before it has been received. `reached`: as of the question.
        `False`: something was lost on the way, and memory has been flushed."""
        assert self.position is not None  # noqa: S101  it narrows the type
        if reached <= sequence <= self.position:
            return True
        self._resume_at(sequence)
        return False

    def _resume_at(self, sequence: int) -> None:
        before, self.position, self.acknowledged = self.position, sequence, 0
        self.flushes += 1
        self.on_flush(self)
        if before is not None:
            self.gaps += 1
            self.on_gap(self)


LOCAL = Channel(trusted=True)
"""Of entries that only this process knows of."""
