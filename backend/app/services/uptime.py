"""How long something that answers now and then was certainly there.

    uptime = Uptime(["database", "redis"], gap_seconds=4.5)
    uptime.answered("database")                     # whenever it has
    uptime.lost_seconds(since)                      # of the time since then, without one of them or the other

Two answers that are at most `gap_seconds` apart show that it was there in between; a longer silence counts as lost from
beginning to end, and so does the time before the first answer, and the time in which this process itself was stopped.

What it does not do: ask. Nor does it remember more than the last `MAX_GAPS` losses.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from datetime import datetime

from app.core.clock import SYSTEM_CLOCK, Clock

MAX_GAPS = 1000


class Uptime:
    """Of several parts together: there is when all of them are."""

    def __init__(self, parts: Sequence[str], *, gap_seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._gap_seconds = gap_seconds
        self._clock = clock
        self._answered = dict.fromkeys(parts, -math.inf)
        self._seen_until = -math.inf
        self._gaps: deque[tuple[float, float]] = deque(maxlen=MAX_GAPS)

    def answered(self, part: str) -> None:
        """`part` answered just now."""
        self._answered[part] = self._clock.monotonic()
        until = min(self._answered.values())
        if until - self._seen_until > self._gap_seconds:
            self._gaps.append((self._seen_until, until))
        self._seen_until = until

    def lost_seconds(self, since: datetime) -> float:
        """Seconds from `since` until now in which one of the parts was not there. Nothing is lost without parts."""
        if not self._answered:
            return 0.0
        now = self._clock.monotonic()
        began = now - max(0.0, (self._clock.now() - since).total_seconds())
        gaps = [*self._gaps]
        if now - self._seen_until > self._gap_seconds:
            gaps.append((self._seen_until, now))
        return sum(max(0.0, end - max(start, began)) for start, end in gaps)
