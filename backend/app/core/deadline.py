"""A point in time that a whole operation must not pass, handed down to the socket."""

from __future__ import annotations

from dataclasses import dataclass

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """Absolute, on the monotonic clock, so that retries and nested calls share one budget.

    It does not cancel anything by itself: the caller that awaits the network passes `cap(limit)` as its timeout.
    """

    at: float
    """Monotonic seconds."""
    clock: Clock = SYSTEM_CLOCK

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        return cls(clock.monotonic() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock.monotonic())

    def cap(self, limit_seconds: float) -> float:
        """The smaller of `limit_seconds` and what is left."""
        return min(limit_seconds, self.remaining())

    def check(self, dependency: str) -> None:
        """Raise `DeadlineExceeded` if nothing is left."""
        if self.remaining() <= 0:
            raise DeadlineExceeded(dependency, f"{dependency}: no time left")
