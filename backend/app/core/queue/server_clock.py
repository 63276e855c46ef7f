"""The server's clock, as this process knows it."""

from __future__ import annotations

import math


class ServerClock:
    """Which time a server shows at a moment of this process' monotonic clock, learned from its answers.

    An answer that was asked for at a, came at b and says t puts the server ahead of this process by t - b at least and
    by t - a at most. What is known is kept as long as it lies between the two; otherwise (the clock moved, or another
    server answers) it becomes the lower one. So `at` is early by as much as an answer took, and late only by what the
    server's clock has gone back by since its last answer.
    """

    def __init__(self) -> None:
        self._ahead_ms: float | None = None

    def at(self, moment: float) -> int:
        """The server's Unix time in ms when the monotonic clock here shows `moment`; 0 before the first answer."""
        return 0 if self._ahead_ms is None else math.floor(moment * 1000 + self._ahead_ms)

    def learn(self, now_ms: int, *, asked: float, answered: float) -> float:
        """The server said `now_ms` between these moments of the monotonic clock. Returns by how many seconds at least
        its clock has gone back since its last answer, 0 if it has not."""
        before, least, most = self._ahead_ms, now_ms - answered * 1000, now_ms + 1 - asked * 1000
        if before is not None and least <= before <= most:
            return 0.0
        self._ahead_ms = least
        return 0.0 if before is None else max(0.0, (before - most) / 1000)
