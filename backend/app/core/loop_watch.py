"""Is the event loop still turning? Measured from inside, and judged from outside.

A loop that something blocks answers no request, /health/live included, so a load balancer and an orchestrator find out
by themselves: their probe times out. What they cannot find out is why, and outside an orchestrator nothing acts. So
a thread looks at the loop's beat:

    after STUCK_SECONDS     one ERROR line with the stack of what blocks it
    after HOPELESS_SECONDS  the process ends with exit code 70; its conversations were taken over long before
                            (their leases end after 15 s), and its supervisor starts it again
    after FROZEN_SECONDS    the process ends with exit code 1 and the stacks of all threads on stderr

The thread counts its own ticks instead of comparing clocks: a process that was suspended is not a stuck one.

The third limit is for code in C that keeps the interpreter to itself, such as a regular expression that backtracks: the
thread cannot run then. `faulthandler` waits outside the interpreter, and each beat sets its alarm anew. It compares
clocks, so it also ends a process that was suspended for longer.

What runs out of time while the loop stands still, because the process was stopped or something blocked it, says nothing
about a peer: `stalled_since` tells circuits how much of a call that was.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from prometheus_client import Histogram

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
TICK_SECONDS = 1.0
STUCK_SECONDS = 5.0
HOPELESS_SECONDS = 60.0
FROZEN_SECONDS = 75.0
"""Later than the thread, which says more."""
EXIT_CODE = 70
STDERR = 2
"""Its descriptor: what stands in `sys.stderr` may have none."""
STALL_SECONDS = 0.5
"""A busy loop is late by less than this; a longer delay is a stall."""
MAX_STALLS = 64

LAG = Histogram(
    "chorus_event_loop_lag_seconds",
    "How late the event loop wakes a sleeper, looked at four times a second",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class Stalls:
    """The latest times for which the loop stood still. Empty while no `LoopWatch` runs."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float]] = deque(maxlen=MAX_STALLS)
        self._beat_due: float | None = None

    def beat_due(self, at: float | None) -> None:
        """The next beat is due at `at` (monotonic); `None`: the watch has ended, forget everything."""
        self._beat_due = at
        if at is None:
            self._ended.clear()

    def beat(self, now: float, late_seconds: float) -> None:
        if late_seconds >= STALL_SECONDS:
            self._ended.append((now, late_seconds))
            self._beat_due = None  # told; not again as one under way

    def since(self, since: float, now: float) -> float:
        seconds = sum(min(stall, ended - since) for ended, stall in self._ended if ended > since)
        late = now - self._beat_due if self._beat_due is not None else 0.0
        return seconds + (min(late, now - since) if late >= STALL_SECONDS else 0.0)


_STALLS = Stalls()


def stalled_since(since: float) -> float:
    """Seconds for which this process' event loop has stood still since `since` (monotonic), the present stall included:
    what wakes up after it asks before the watch itself has had its turn."""
    return _STALLS.since(since, time.monotonic())


class LoopWatch:
    """`run()` beats on the loop it is awaited on; the thread and the alarm live as long as `run()` does. `give_up` ends
    the process. One at a time in a process: `faulthandler` has one alarm."""

    def __init__(
        self,
        *,
        tick_seconds: float = TICK_SECONDS,
        stuck_seconds: float = STUCK_SECONDS,
        hopeless_seconds: float = HOPELESS_SECONDS,
        frozen_seconds: float = FROZEN_SECONDS,
        give_up: Callable[[], None] = lambda: os._exit(EXIT_CODE),
    ) -> None:
        self.lag_seconds = 0.0
        """The last measurement."""
        self._tick_seconds = tick_seconds
        self._stuck_ticks = max(1, round(stuck_seconds / tick_seconds))
        self._hopeless_ticks = max(1, round(hopeless_seconds / tick_seconds))
        self._frozen_seconds = frozen_seconds
        self._give_up = give_up
        self._beats = 0

    async def run(self, beat: Callable[[], None] = lambda: None) -> None:
        """Until cancelled. `beat` is called with every beat: the supervisor's."""
        done = threading.Event()
        watched = threading.get_ident()
        thread = threading.Thread(target=self._watch, args=(done, watched), name="loop-watch", daemon=True)
        thread.start()
        try:
            while True:
                faulthandler.dump_traceback_later(self._frozen_seconds, exit=True, file=STDERR)
                asleep = time.monotonic()
                _STALLS.beat_due(asleep + BEAT_SECONDS)
                await asyncio.sleep(BEAT_SECONDS)
                now = time.monotonic()
                self.lag_seconds = max(0.0, now - asleep - BEAT_SECONDS)
                _STALLS.beat(now, self.lag_seconds)
                LAG.observe(self.lag_seconds)
                self._beats += 1
                beat()
        finally:
            faulthandler.cancel_dump_traceback_later()
            _STALLS.beat_due(None)
            done.set()

    def _watch(self, done: threading.Event, watched: int) -> None:
        seen, silent_ticks = -1, 0
        while not done.wait(self._tick_seconds):
            silent_ticks = silent_ticks + 1 if self._beats == seen else 0
            seen = self._beats
            if silent_ticks == self._stuck_ticks:
                frame = sys._current_frames().get(watched)
                stack = "".join(traceback.format_stack(frame)) if frame else "unknown"
                logger.error(
                    "event loop is stuck", extra={"seconds": silent_ticks * self._tick_seconds, "stack": stack}
                )
            elif silent_ticks == self._hopeless_ticks:
                logger.critical("event loop is stuck for good, ending the process", extra={"exit_code": EXIT_CODE})
                self._give_up()
