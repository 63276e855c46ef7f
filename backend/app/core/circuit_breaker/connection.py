"""What the circuits of a replica share of their way to the fleet: Redis, time limits, and the tasks under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge

from app.core.circuit_breaker.states import State
from app.core.circuit_breaker.wire import SCRIPTS, Keys
from app.core.errors import Unavailable
from app.core.redis.door import Door, ScriptCall
from app.core.redis.script import Script

logger = logging.getLogger("app.core.circuit_breaker")

T = TypeVar("T")

ROUND_TRIPS = Counter("chorus_circuit_breaker_round_trips", "Redis round trips for the fleet's circuits")
LINK_UP = Gauge("chorus_circuit_breaker_fleet_up", "1 if this replica follows the fleet, 0 if it is on its own")


@dataclass(frozen=True, slots=True)
class FleetTimings:
    """Seconds."""

    answer_seconds: float = 0.1
    """Most that a probe may wait for Redis. Closed and open circuits never wait for it."""
    join_seconds: float = 1.0
    """For the first exchange, which connects and sends the scripts; on a Cluster, to every primary."""
    resync_seconds: float = 1.0
    first_resync_seconds: float = 0.1
    """After a start, and after a circuit has closed; doubled each time up to `resync_seconds`."""
    resync_spread: float = 0.2
    """Share by which a pause is longer or shorter, at random."""
    denied_seconds: tuple[float, float] = (0.025, 0.075)
    """A replica that was refused a permit does not ask again for this long, at random in between."""
    quiet_seconds: float = 5.0
    """A subscription that says nothing for this long is asked whether it still lives."""
    reconnect_seconds: float = 0.2


DEFAULT_TIMINGS = FleetTimings()


@dataclass(eq=False)
class FleetConnection:
    """Used by every `FleetLink` of one `BreakerFleet`."""

    door: Door
    keys: Keys
    replica_id: str
    timings: FleetTimings
    now: Callable[[], float]
    """Monotonic seconds."""
    living: Callable[[str], int]
    """How many living replicas may call what is behind the circuit of this name."""
    recovered: Callable[[str, State], None]
    """To be called when this replica has made the circuit of this name half open, or closed it, for the fleet."""
    hurry: Callable[[], None]
    """Resync soon: a circuit has closed."""
    is_up: bool = False
    replicas: int = 1
    """How many share the probes while Redis is away: the last count made while it was there."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    # -- asking

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The script's answer in time, or `None`: this replica is on its own until the next resync."""
        return await self._answer(self.door.run(script, keys, args, within_seconds=self.timings.answer_seconds))

    async def run_together(self, calls: Sequence[ScriptCall], *, is_first: bool) -> list[Any] | None:
        """The answers in order, in time, or `None` as above. `is_first`: Redis may not know the scripts."""
        seconds = self.timings.join_seconds if is_first else self.timings.answer_seconds
        load = SCRIPTS if is_first else ()
        return await self._answer(self.door.run_together(calls, load=load, within_seconds=seconds))

    async def _answer(self, asked: Awaitable[T]) -> T | None:
        ROUND_TRIPS.inc()
        try:
            return await asked
        except Unavailable as exc:
            if self.is_up:
                logger.warning("circuit breakers: Redis is away, deciding locally", extra={"reason": str(exc)})
            self.lost()
            return None

    def found(self) -> None:
        """Redis has answered with everything that a replica must know to follow the fleet."""
        self.is_up = True
        LINK_UP.set(1)
        logger.info("circuit breakers: following the fleet", extra={"replica": self.replica_id})

    def lost(self) -> None:
        """Redis is away, or this replica leaves: it decides by itself."""
        self.is_up = False
        LINK_UP.set(0)

    # -- tasks

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """It goes on when its caller is cancelled; `finish` waits for it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def spawn_if_running(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """As `spawn`, from where there may be no event loop any more: a coroutine that is being destroyed."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self.spawn(work())

    async def finish(self) -> None:
        """Wait for what is under way."""
        if self.tasks:
            await asyncio.wait(self.tasks)
