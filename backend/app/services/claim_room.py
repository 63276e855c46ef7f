"""How many conversations a worker holds: WORKER_CONCURRENCY, and fewer while the event loop is late.

Webhooks and pages of the same process wait as long as the loop is late, at every step, and more conversations at once
get nothing done sooner: the core is in use. Every `LOOK_SECONDS` the lag is looked at: late, a quarter less than are
held; in time, a fifth of the most is added. A conversation that waits for the model makes no loop late, so one that
hangs takes no room away.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock

LATE_SECONDS = 0.1
LOOK_SECONDS = 0.25
"""As often as the lag is measured."""
LEAST = 10
"""As many keep a core busy."""

ROOM = Gauge(
    "chorus_claim_room", "Conversations that this worker would hold at once; fewer while the event loop is late"
)


class ClaimRoom:
    def __init__(self, most: int, lag_seconds: Callable[[], float], *, clock: Clock = SYSTEM_CLOCK) -> None:
        """`lag_seconds`: how late the event loop was, when last measured."""
        self._most = most
        self._lag_seconds = lag_seconds
        self._clock = clock
        self._room = most
        self._look_at = -math.inf

    def look(self, held: int) -> int:
        """How many may be held now; between one and `most`."""
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            if self._lag_seconds() > LATE_SECONDS:
                self._room = max(min(LEAST, self._most), min(self._room, held) * 3 // 4)
            else:
                self._room = min(self._most, self._room + math.ceil(self._most / 5))
            ROOM.set(self._room)
        return self._room
