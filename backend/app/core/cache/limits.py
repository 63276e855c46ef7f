"""Time limits of calls that are over in microseconds: one timer watches them all, because setting and cancelling one
for each was the dearest part of our own in a hit in Redis."""

from __future__ import annotations

import asyncio
import math
import time

LAST_STRETCH_SECONDS = 0.005
"""The end of every time limit only runs while our own loop does, so that an answer which waits in the socket buffer
behind our own work is not taken for a slow server."""


class Limits:
    """The limits of all calls under way, watched by one timer. It is left running when a call ends, so that calls one
    after the other share it."""

    def __init__(self) -> None:
        self.running: set[Limit] = set()
        self.wakes_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wake_at(self, at: float) -> None:
        """`at`: monotonic. The timer that was set before is not needed then."""
        if self._timer is not None:
            self._timer.cancel()
        self.wakes_at = at
        self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._wake)

    def _wake(self) -> None:
        self._timer, self.wakes_at = None, math.inf
        now = time.monotonic()
        for limit in [limit for limit in self.running if limit.watched_until <= now]:
            self.running.discard(limit)
            limit.begin_last_stretch()
        if self.running:
            self.wake_at(min(limit.watched_until for limit in self.running))


class Limit:
    """As `asyncio.timeout`: raises `TimeoutError` where its time ran out, unless somebody else cancelled as well."""

    __slots__ = ("_cancelling", "_expired", "_last_stretch", "_limits", "_seconds", "_task", "watched_until")

    def __init__(self, limits: Limits, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._task = task
        self._cancelling = task.cancelling()
        self._last_stretch: asyncio.TimerHandle | None = None
        self._expired = False
        limits, seconds = self._limits, self._seconds
        self.watched_until = until = time.monotonic() + max(seconds - LAST_STRETCH_SECONDS, seconds / 2)
        limits.running.add(self)
        if until < limits.wakes_at:
            limits.wake_at(until)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._limits.running.discard(self)
        if self._last_stretch is not None:
            self._last_stretch.cancel()
        # Another cancellation may have come as well: then it is that one that counts.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError("no answer in time")

    def begin_last_stretch(self) -> None:
        stretch = min(LAST_STRETCH_SECONDS, self._seconds / 2)
        self._last_stretch = asyncio.get_running_loop().call_later(stretch, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
