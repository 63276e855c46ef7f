"""Background loops that must not die unnoticed.

    supervisor = Supervisor()
    supervisor.start("worker", worker.run)
    supervisor.beat("worker")               # by the loop itself, once a round; from the first beat on it must go on
    supervisor.stuck()                      # names of loops whose beat has stopped: liveness
    await supervisor.stop()

A loop that raises is logged with its traceback and started again, after a pause that doubles from 0.5 s to 30 s while
it keeps dying. A loop that returns is finished.

What it does not do: bound a round in time, or run a loop on one replica only.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter

from app.core.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""A loop that lived this long starts from the first pause again."""
BEAT_WITHIN_SECONDS = 60.0
"""Longer than the longest pause: a loop that keeps dying is visible, but no reason to kill the replica."""
STOP_SECONDS = 10.0

DEATHS = Counter("chorus_background_loop_deaths_total", "Background loops that raised and were restarted", ["loop"])


@dataclass(slots=True)
class _Loop:
    run: Callable[[], Awaitable[None]]
    beat_within_seconds: float
    last_beat: float | None = None
    deaths: int = 0
    task: asyncio.Task[None] = field(init=False)

    def is_stuck(self, now: float) -> bool:
        if self.task.done():
            return self.task.cancelled() or self.task.exception() is not None
        return self.last_beat is not None and now - self.last_beat > self.beat_within_seconds


class Supervisor:
    """A replica's background loops, for one event loop. `uniform` returns the jitter of pauses, in [0, 1]."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, uniform: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._uniform = uniform
        self._loops: dict[str, _Loop] = {}
        self._stopping = False

    def start(
        self, name: str, run: Callable[[], Awaitable[None]], *, beat_within_seconds: float = BEAT_WITHIN_SECONDS
    ) -> None:
        """Run `run()` until it returns or `stop()`. Names are unique. After `stop()` it raises `RuntimeError`."""
        if self._stopping:
            raise RuntimeError("the supervisor has stopped")
        if name in self._loops:
            raise ValueError(f"there is a loop {name!r} already")
        loop = _Loop(run, beat_within_seconds)
        loop.task = asyncio.create_task(self._keep_running(name, loop), name=name)
        self._loops[name] = loop

    def beat(self, name: str) -> None:
        """The loop `name` is alive."""
        self._loops[name].last_beat = self._clock.monotonic()

    def stuck(self) -> tuple[str, ...]:
        """Loops whose last beat is longer ago than it may be, and loops that were cancelled from outside."""
        if self._stopping:
            return ()
        now = self._clock.monotonic()
        return tuple(name for name, loop in self._loops.items() if loop.is_stuck(now))

    def view(self) -> dict[str, dict[str, Any]]:
        """Each loop for the operator: is it running, how often has it died, how long ago did it beat."""
        now = self._clock.monotonic()
        return {
            name: {
                "running": not loop.task.done(),
                "deaths": loop.deaths,
                "silent_seconds": None if loop.last_beat is None else round(now - loop.last_beat, 1),
            }
            for name, loop in self._loops.items()
        }

    async def stop(self) -> None:
        """Cancel every loop, the last started first, and wait until they have ended. May be called again.

        A loop that resists cancellation for 10 s is logged and left behind.
        """
        self._stopping = True
        for loop in reversed(self._loops.values()):
            loop.task.cancel()
        tasks = [loop.task for loop in self._loops.values()]
        if not tasks:
            return
        _, resisting = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in resisting:
            logger.error("background loop resists cancellation", extra={"loop": task.get_name()})

    async def _keep_running(self, name: str, loop: _Loop) -> None:
        in_a_row = 0
        while True:
            started = self._clock.monotonic()
            try:
                await loop.run()
            except Exception:
                loop.deaths += 1
                DEATHS.labels(name).inc()
                in_a_row = 1 if self._clock.monotonic() - started >= HEALTHY_SECONDS else in_a_row + 1
                pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(in_a_row - 1, 10))
                pause *= 1 - self._uniform() / 2
                numbers = {"loop": name, "deaths": loop.deaths, "pause_seconds": round(pause, 2)}
                logger.exception("background loop died", extra=numbers)
                await self._clock.sleep(pause)
            else:
                return
