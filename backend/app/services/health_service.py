"""The truth about this replica and what it depends on, always at hand: a request to /health never calls anybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import Gauge

from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.lifecycle import Supervisor

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 3.0
READY_GRACE_SECONDS = 10.0
"""Neither Redis nor the database for this long: this replica cannot do useful work."""

DEPENDENCY_UP = Gauge("chorus_dependency_up", "1 if the last probe succeeded", ["dependency"])
DEPENDENCY_LATENCY = Gauge("chorus_dependency_latency_seconds", "Duration of the last successful probe", ["dependency"])


class Fleet(Protocol):
    replica_id: str
    count: int


@dataclass(slots=True)
class Dependency:
    """Something outside. `probe` does one cheap round trip and returns details for the operator."""

    name: str
    probe: Callable[[], Awaitable[Mapping[str, Any]]]
    interval_seconds: float
    status: str = "unknown"
    latency_ms: float | None = None
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    failing_since: float | None = None

    def public(self) -> dict[str, Any]:
        return {"status": self.status} | ({} if self.latency_ms is None else {"latency_ms": self.latency_ms})

    def full(self) -> dict[str, Any]:
        return self.public() | dict(self.details) | ({"error": self.error} if self.error else {})


class HealthService:
    def __init__(
        self,
        *,
        dependencies: Mapping[str, Dependency],
        breakers: Mapping[str, CircuitBreaker],
        fleet: Fleet,
        supervisor: Supervisor,
        internals: Callable[[], Awaitable[Mapping[str, Any]]],
        requires: frozenset[str],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._dependencies = dependencies
        self._breakers = breakers
        self._fleet = fleet
        self._supervisor = supervisor
        self._internals = internals
        self._requires = requires
        self._clock = clock
        self._phase = "starting"
        self._internal_view: Mapping[str, Any] = {}

    @property
    def phase(self) -> str:
        """`starting`, `ready` or `draining`."""
        return self._phase

    def started(self) -> None:
        if self._phase == "starting":
            self._phase = "ready"

    def draining(self) -> None:
        self._phase = "draining"

    async def probe_all(self) -> None:
        """Every dependency once, in parallel; part of start-up."""
        await asyncio.gather(*(self.probe(dependency) for dependency in self._dependencies.values()))

    def loops(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """One background loop per dependency, so that a slow one delays no other."""
        return {f"probe_{name}": self._loop(dependency) for name, dependency in self._dependencies.items()} | {
            "health_internals": self._refresh_internals
        }

    def _loop(self, dependency: Dependency) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            while True:
                await self._clock.sleep(dependency.interval_seconds)
                await self.probe(dependency)

        return run

    async def _refresh_internals(self) -> None:
        while True:
            try:
                self._internal_view = await self._internals()
            except Unavailable as exc:
                self._internal_view = {"queue": {"error": str(exc)}}
            await self._clock.sleep(1)

    async def probe(self, dependency: Dependency) -> None:
        """Ask once and remember the answer; never raises for a dependency's sake."""
        start = self._clock.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                dependency.details = await dependency.probe()
        except (Unavailable, OSError) as exc:  # TimeoutError is an OSError
            if dependency.failing_since is None:
                dependency.failing_since = start
                logger.warning("dependency lost", extra={"dependency": dependency.name, "reason": str(exc)})
            dependency.status, dependency.latency_ms = "error", None
            dependency.error = str(exc) or f"no answer within {PROBE_TIMEOUT_SECONDS:.0f} s"
            DEPENDENCY_UP.labels(dependency.name).set(0)
            return
        if dependency.failing_since is not None:
            lost = round(self._clock.monotonic() - dependency.failing_since, 1)
            logger.warning("dependency back", extra={"dependency": dependency.name, "lost_seconds": lost})
        seconds = self._clock.monotonic() - start
        dependency.status, dependency.error, dependency.failing_since = "ok", None, None
        dependency.latency_ms = round(seconds * 1000, 1)
        DEPENDENCY_UP.labels(dependency.name).set(1)
        DEPENDENCY_LATENCY.labels(dependency.name).set(seconds)

    def liveness(self) -> tuple[int, dict[str, Any]]:
        stuck = self._supervisor.stuck()
        if stuck:
            return 503, {"status": "stuck", "loops": stuck}
        return 200, {"status": "alive"}

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Can this replica do useful work? A shared dependency that is down is reported; it is no reason to empty the
        load balancer, unless READINESS_REQUIRES says so or both stores are gone."""
        stores = {"redis": self._dependencies["redis"], "database": self._dependencies["supabase"]}
        body = {name: dependency.status for name, dependency in stores.items()}
        if self._phase != "ready":
            return 503, {"status": self._phase, **body}
        if any(stores[name].status != "ok" for name in self._requires) or all(map(self._long_gone, stores.values())):
            return 503, {"status": "not_ready", **body}
        return 200, {"status": "ready", **body}

    def _long_gone(self, dependency: Dependency) -> bool:
        since = dependency.failing_since
        return since is not None and self._clock.monotonic() - since > READY_GRACE_SECONDS

    def picture(self, *, full: bool) -> tuple[int, dict[str, Any]]:
        """The whole picture; details only for the operator."""
        status = self._status()
        breakers = {name: breaker.snapshot()._asdict() for name, breaker in self._breakers.items()}
        body: dict[str, Any] = {"status": status, "timestamp": self._clock.now().isoformat()}
        if full:
            body |= {"replica": self._fleet.replica_id, "phase": self._phase, "fleet": {"replicas": self._fleet.count}}
        body["dependencies"] = {
            name: dependency.full() if full else dependency.public() for name, dependency in self._dependencies.items()
        }
        body["circuit_breakers"] = {
            name: snapshot if full else {key: snapshot[key] for key in ("state", "failure_count")}
            for name, snapshot in breakers.items()
        }
        if full:
            body |= self._internal_view
        return (503 if status == "error" else 200), body

    def _status(self) -> str:
        """`error`: no useful work possible · `degraded`: something soft fails or a breaker is not closed."""
        code, _ = self.readiness()
        live, _ = self.liveness()
        if live != 200 or (code != 200 and self._phase == "ready"):
            return "error"
        down = any(dependency.status == "error" for dependency in self._dependencies.values())
        tripped = any(breaker.snapshot().state != "closed" for breaker in self._breakers.values())
        return "degraded" if down or tripped or self._phase != "ready" else "ok"
