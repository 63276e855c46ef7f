"""What this replica depends on, looked at in the background: the stores by every replica for itself, an upstream by
one replica for the whole fleet.

A probe goes past the circuit, which learns from it that the dependency is back:

    circuit not closed   looked at every AGAIN_SECONDS (stores), or every URGENT_SECONDS by one replica (upstreams)
    a good look          the circuit is half open at once, if what was seen is a proof (`Proof`)
    calls that hang      looked at by the replica that makes them; out of reach: its circuit opens before they time out
    cut off              this replica alone stays away: it looks for itself, shows what it saw, and does not report it
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from prometheus_client import Counter, Gauge

from app.core.circuit_breaker import CircuitBreaker, State
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import in_words
from app.core.fleet.probe_board import ProbeBoard
from app.domain.models import Json

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
"""A lost dependency, or one in trouble, is looked at more often, so that the end is seen at once; and so is one that
was not seen yet."""
READ_SECONDS = 5.0
"""How often a replica reads what another one saw."""
SILENT_SECONDS = 1.5
"""Calls under way for so long, and none that succeeded meanwhile: this replica looks for itself."""
SILENT_LOOK_SECONDS = 2.0
"""What that look may take. It does something simple, which takes a fraction of a second where there is a way."""
LOST_SECONDS = 3.0
"""Looks of our own that fail for so long say as much as calls that fail."""
URGENT_SECONDS = 5.0
"""How often an upstream is looked at while its circuit is not closed."""

TROUBLE = "trouble"

DEPENDENCY_UP = Gauge("chorus_dependency_up", "1 if the last probe succeeded", ["dependency"])
DEPENDENCY_LATENCY = Gauge("chorus_dependency_latency_seconds", "Duration of the last successful probe", ["dependency"])

PROBES = Counter("chorus_dependency_probes_total", "Looks at a dependency made by this replica", ["dependency"])


class Proof(Enum):
    """What a good look says about the calls that opened the circuit."""

    ALWAYS = auto()
    """The look does what they do: they would succeed now."""
    AFTER_FAILURE = auto()
    """It does something simpler. It tells something if it failed before, or when the circuit would try anyway."""


@dataclass(slots=True)
class Dependency:
    """Something outside. `probe` does one cheap round trip and returns details for the operator; a text under `TROUBLE`
    says what is not as it must be although it answers. `is_shared`: one replica's look serves all; `circuit`: the one
    in front of its calls; `silent_seconds`: for how long those hang."""

    name: str
    probe: Callable[[], Awaitable[Json]]
    interval_seconds: float
    timeout_seconds: float
    is_shared: bool = False
    circuit: CircuitBreaker | None = None
    proof: Proof = Proof.ALWAYS
    silent_seconds: Callable[[], float] = lambda: 0.0
    status: str = "unknown"
    latency_ms: float | None = None
    error: str | None = None
    details: Json = field(default_factory=dict)
    failing_since: float | None = None
    probed_at: float | None = None

    @property
    def is_urgent(self) -> bool:
        return self.circuit is not None and self.circuit.view.state is not State.CLOSED and not self.circuit.view.forced

    @property
    def is_cut_off(self) -> bool:
        return self.circuit is not None and self.circuit.is_cut_off

    def public(self) -> dict[str, object]:
        return {"status": self.status} | ({} if self.latency_ms is None else {"latency_ms": self.latency_ms})

    def full(self) -> dict[str, object]:
        return self.public() | dict(self.details) | ({"error": self.error} if self.error else {})


class Prober:
    """Keeps one `Dependency` up to date. `board` is asked for shared ones; while Redis is away every replica looks for
    itself, no more often than it would for all."""

    def __init__(self, dependency: Dependency, board: ProbeBoard, clock: Clock = SYSTEM_CLOCK) -> None:
        self._dependency = dependency
        self._board = board
        self._clock = clock

    async def run(self, beat: Callable[[], None] = lambda: None) -> None:
        """Until cancelled; the first look is a pause away, because start-up has already had one."""
        while True:
            beat()
            await self._rest()
            await self.look()

    async def _rest(self) -> None:
        """Cut short when the circuit opens meanwhile."""
        since = self._clock.monotonic()
        step = AGAIN_SECONDS if self._dependency.circuit is not None else math.inf
        while (left := self._pause() - (self._clock.monotonic() - since)) > 0:
            await self._clock.sleep(min(left, step))
            if self._is_silent():
                await self.probe(min(SILENT_LOOK_SECONDS, self._dependency.timeout_seconds))

    def _is_silent(self) -> bool:
        dependency = self._dependency
        is_open = dependency.circuit is None or dependency.circuit.view.state is not State.CLOSED
        if is_open or dependency.silent_seconds() < SILENT_SECONDS:
            return False
        return not self._has_looked_within(URGENT_SECONDS if dependency.is_shared else AGAIN_SECONDS)

    def _pause(self) -> float:
        dependency = self._dependency
        if dependency.is_shared:
            return AGAIN_SECONDS if dependency.status == "unknown" else min(READ_SECONDS, dependency.interval_seconds)
        is_watched = dependency.status in {"error", "degraded"} or dependency.is_urgent
        return AGAIN_SECONDS if is_watched else dependency.interval_seconds

    def _interval_seconds(self) -> float:
        dependency = self._dependency
        return min(URGENT_SECONDS, dependency.interval_seconds) if dependency.is_urgent else dependency.interval_seconds

    async def look(self) -> None:
        """Probe, or read what another replica saw. Never raises for a dependency's sake."""
        dependency = self._dependency
        if not dependency.is_shared or dependency.is_cut_off:
            await self.probe()
            return
        interval_seconds = self._interval_seconds()
        try:
            turn = await self._board.turn(
                dependency.name,
                fresh_seconds=interval_seconds,
                looker_seconds=dependency.timeout_seconds + 1,
            )
        except Unavailable:
            now = self._clock.monotonic()
            if dependency.probed_at is None or now - dependency.probed_at >= interval_seconds:
                await self.probe()
            return
        if turn.is_mine:
            await self.probe()
            await self._tell()
        elif turn.finding is not None:
            if turn.finding["status"] == "error" and self._doubts():
                # Perhaps only the other replica's way is bad. One look of our own for each of its findings.
                if not self._has_looked_within(turn.age_seconds):
                    await self.probe()
                return
            self._believe(turn.finding, {"seen_by": turn.by, "seen_seconds_ago": round(turn.age_seconds, 1)})

    def _doubts(self) -> bool:
        circuit = self._dependency.circuit
        return circuit is not None and circuit.fleet_view.state is State.CLOSED

    def _has_looked_within(self, seconds: float) -> bool:
        probed_at = self._dependency.probed_at
        return probed_at is not None and self._clock.monotonic() - probed_at <= seconds

    async def probe(self, timeout_seconds: float | None = None) -> None:
        """Ask once and remember the answer."""
        dependency = self._dependency
        limit = timeout_seconds or dependency.timeout_seconds
        start = dependency.probed_at = self._clock.monotonic()
        PROBES.labels(dependency.name).inc()
        try:
            async with asyncio.timeout(limit):
                details = await dependency.probe()
        except (Unavailable, OSError) as exc:  # TimeoutError is an OSError
            self._settle("error", None, _words(exc, limit), {}, since=start)
            if dependency.circuit is not None and (self._calls_hang(start) or self._is_lost_here()):
                dependency.circuit.seen_ill(dependency.error or "", start)
            return
        latency_ms = round((self._clock.monotonic() - start) * 1000, 1)
        trouble = details.get(TROUBLE)
        failed_before = dependency.status == "error"
        self._settle("degraded" if trouble else "ok", latency_ms, None, details, since=start)
        circuit = dependency.circuit
        if circuit is not None and (dependency.proof is Proof.ALWAYS or failed_before or not circuit.retry_after()):
            await circuit.seen_well()

    def _calls_hang(self, looked_at: float) -> bool:
        """For longer than the look, without one that succeeded: else an answer came meanwhile."""
        return self._dependency.silent_seconds() >= max(SILENT_SECONDS, self._clock.monotonic() - looked_at)

    def _is_lost_here(self) -> bool:
        """This replica's own looks go on failing. It may have had no call to learn that from."""
        since = self._dependency.failing_since
        return not self._dependency.is_shared and since is not None and self._clock.monotonic() - since >= LOST_SECONDS

    async def _tell(self) -> None:
        dependency = self._dependency
        finding = {"status": dependency.status, "latency_ms": dependency.latency_ms, "error": dependency.error}
        try:
            await self._board.report(dependency.name, finding | {"details": dict(dependency.details)})
        except Unavailable as exc:
            logger.warning("finding not shared", extra={"dependency": dependency.name, "reason": str(exc)})

    def _believe(self, finding: Json, origin: Json) -> None:
        details = dict(finding["details"]) | dict(origin)
        self._settle(finding["status"], finding["latency_ms"], finding["error"], details, since=self._clock.monotonic())

    def _settle(
        self, status: str, latency_ms: float | None, error: str | None, details: Mapping[str, object], *, since: float
    ) -> None:
        dependency = self._dependency
        if status == "error" and dependency.failing_since is None:
            dependency.failing_since = since
            logger.warning("dependency lost", extra={"dependency": dependency.name, "reason": error})
        elif status in {"ok", "degraded"} and dependency.failing_since is not None:
            lost = round(self._clock.monotonic() - dependency.failing_since, 1)
            logger.warning("dependency back", extra={"dependency": dependency.name, "lost_seconds": lost})
            dependency.failing_since = None
        trouble = details.get(TROUBLE)
        if trouble and trouble != dependency.details.get(TROUBLE):
            logger.warning("dependency in trouble", extra={"dependency": dependency.name, "reason": trouble})
        dependency.status, dependency.latency_ms, dependency.error = status, latency_ms, error
        dependency.details = details
        DEPENDENCY_UP.labels(dependency.name).set(status != "error")
        if latency_ms is not None:
            DEPENDENCY_LATENCY.labels(dependency.name).set(latency_ms / 1000)


def _words(exc: Unavailable | OSError, limit: float) -> str:
    if isinstance(exc, Unavailable):
        return str(exc)
    return f"no answer within {limit:g} s" if isinstance(exc, TimeoutError) else in_words(exc)
