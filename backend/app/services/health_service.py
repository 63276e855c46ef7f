"""The truth about this replica and what it depends on, always at hand: a request to /health never calls anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import orjson
from prometheus_client import Gauge

from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.fleet.probe_board import ProbeBoard
from app.core.lifecycle import Supervisor
from app.domain.models import Account
from app.services.account_watch import AccountWatch
from app.services.cut_off import CutOff
from app.services.probes import Dependency, Prober

READY_GRACE_SECONDS = 1.0
"""Neither Redis nor the database for longer than this: this replica cannot do useful work. Longer than one lost packet,
short enough to be out of rotation within two check intervals."""
INTERNALS_SECONDS = 2.0
PAGE_SECONDS = 0.25
"""How old the rendered /health may be. What changes readiness or liveness is never that late."""

QUEUE_FULL = "the queue is full: webhooks are refused"

Page = tuple[int, bytes]

READY = Gauge("chorus_ready", "1: /health/ready says 200")
FLEET = Gauge("chorus_fleet_replicas", "Replicas with a heartbeat, as this one sees it")


class Fleet(Protocol):
    replica_id: str

    @property
    def count(self) -> int: ...


class HealthService:
    def __init__(
        self,
        *,
        dependencies: Mapping[str, Dependency],
        board: ProbeBoard,
        breakers: Mapping[str, CircuitBreaker],
        fleet: Fleet,
        supervisor: Supervisor,
        accounts: AccountWatch,
        internals: Callable[[], Awaitable[Mapping[str, object]]],
        requires: frozenset[str],
        build: Mapping[str, str],
        cut_off: CutOff,
        unfit: Callable[[], str | None] = lambda: None,
        refusing: Callable[[], str | None] = lambda: None,
        strained: Callable[[], str | None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Each says why, in words, or `None`. `unfit`: this replica must not work · `refusing`: webhooks are refused ·
        `strained`: what works, and should not be left so."""
        self._dependencies = dependencies
        self._probers = {name: Prober(dependency, board, clock) for name, dependency in dependencies.items()}
        self._breakers = breakers
        self._fleet = fleet
        self._supervisor = supervisor
        self._accounts = accounts
        self._internals = internals
        self._requires = requires
        self._build = build
        self._cut_off = cut_off
        self._unfit = unfit
        self._refusing = refusing
        self._strained = strained
        self._clock = clock
        self._phase = "starting"
        """`starting`, `ready` or `draining`."""
        self._internal_view: Mapping[str, object] = {}
        self._pages: dict[bool, tuple[float, Page]] = {}

    def started(self) -> None:
        if self._phase == "starting":
            self._phase = "ready"
        self._pages.clear()

    def draining(self) -> None:
        self._phase = "draining"
        self._pages.clear()

    async def probe_all(self) -> None:
        """Every dependency once, in parallel; part of start-up."""
        await asyncio.gather(*(prober.look() for prober in self._probers.values()))

    def loops(self) -> Mapping[str, Callable[[Callable[[], None]], Awaitable[None]]]:
        """One background loop per dependency, so that a slow one delays no other. Each is given its beat."""
        return {f"probe_{name}": prober.run for name, prober in self._probers.items()} | {
            "health_internals": self._refresh_internals
        }

    async def _refresh_internals(self, beat: Callable[[], None]) -> None:
        while True:
            beat()
            try:
                self._internal_view = await self._internals()
            except Unavailable as exc:
                self._internal_view = dict(self._internal_view) | {"queue": {"error": str(exc)}}
            READY.set(self.readiness()[0] == 200)
            FLEET.set(self._fleet.count)
            await self._clock.sleep(INTERNALS_SECONDS)

    def liveness(self) -> tuple[int, dict[str, object]]:
        """Stuck means: a background loop stopped beating. A stuck event loop cannot answer at all (core/loop_watch)."""
        stuck = self._supervisor.stuck()
        if stuck:
            return 503, {"status": "stuck", "loops": stuck}
        return 200, {"status": "alive"}

    def readiness(self) -> tuple[int, dict[str, object]]:
        """Can this replica do useful work? A shared dependency that is down is reported; it is no reason to empty the
        load balancer, unless READINESS_REQUIRES says so or both stores are gone."""
        stores = {"redis": self._dependencies["redis"], "database": self._dependencies["supabase"]}
        body = {name: dependency.status for name, dependency in stores.items()}
        if self._phase != "ready":
            return 503, {"status": self._phase, **body}
        if reason := self._unfit():
            return 503, {"status": "not_ready", **body, "reason": reason}
        if self._cut_off.leaves_requests_to_others("supabase"):
            return 503, {"status": "not_ready", **body, "reason": "only this replica does not reach the database"}
        lacking = any(stores[name].status not in {"ok", "degraded"} for name in self._requires)
        if lacking or all(map(self._long_gone, stores.values())):
            return 503, {"status": "not_ready", **body}
        return 200, {"status": "ready", **body}

    def _long_gone(self, dependency: Dependency) -> bool:
        since = dependency.failing_since
        return since is not None and self._clock.monotonic() - since > READY_GRACE_SECONDS

    def page(self, *, full: bool) -> Page:
        """Status and body of /health, rendered at most four times a second, however often it is asked for."""
        now = self._clock.monotonic()
        rendered, page = self._pages.get(full, (0.0, (503, b"")))
        if not page[1] or now - rendered > PAGE_SECONDS:
            status, body = self.picture(full=full)
            page = (status, orjson.dumps(body))
            self._pages[full] = (now, page)
        return page

    def picture(self, *, full: bool) -> tuple[int, dict[str, object]]:
        """The whole picture; details only for the operator."""
        status = self._status()
        breakers = {name: breaker.snapshot()._asdict() for name, breaker in self._breakers.items()}
        body: dict[str, object] = {"status": status, "timestamp": self._clock.now().isoformat()}
        refused = QUEUE_FULL if self._queue_refuses else None
        if reason := self._unfit() or self._refusing() or refused or self._strained():
            body["reason"] = reason
        if full:
            body |= {"replica": self._fleet.replica_id, **self._build, "phase": self._phase}
            body["fleet"] = {"replicas": self._fleet.count}
        body["dependencies"] = {
            name: dependency.full() if full else dependency.public() for name, dependency in self._dependencies.items()
        }
        body["circuit_breakers"] = {
            name: snapshot if full else {key: snapshot[key] for key in ("state", "failure_count")}
            for name, snapshot in breakers.items()
        }
        if cut_off := self._cut_off.dependencies():
            body["cut_off"] = cut_off
        blocked = self._accounts.view
        if full:
            body["accounts"] = {"blocked": blocked.count, "named": [_blocked(account) for account in blocked.accounts]}
            body |= self._internal_view
            body["background"] = self._supervisor.view()
        elif blocked.count:
            body["accounts"] = {"blocked": blocked.count}
        return (503 if status == "error" else 200), body

    def load(self) -> dict[str, object]:
        """This replica in a few words, for the list of the fleet."""
        return {
            **self._build,
            "phase": self._phase,
            "status": self._status(),
            "cut_off": self._cut_off.dependencies(),
            "breakers": {name: breaker.snapshot().state for name, breaker in self._breakers.items()},
        }

    @property
    def _queue_refuses(self) -> bool:
        queue = self._internal_view.get("queue")
        return isinstance(queue, Mapping) and bool(queue.get("refuses"))

    def _status(self) -> str:
        """`error`: no useful work possible, or messages are refused · `degraded`: something soft fails, is not as it
        must be, a breaker is not closed, or WhatsApp takes nothing from an account."""
        code, _ = self.readiness()
        live, _ = self.liveness()
        if live != 200 or (code != 200 and self._phase == "ready") or self._queue_refuses:
            return "error"
        if self._phase == "ready" and self._refusing():
            return "error"
        down = any(dependency.status in {"error", "degraded"} for dependency in self._dependencies.values())
        tripped = any(breaker.snapshot().state != "closed" for breaker in self._breakers.values())
        blocked = self._accounts.view.count > 0
        strained = bool(self._strained())
        return "degraded" if down or tripped or blocked or strained or self._phase != "ready" else "ok"


def _blocked(account: Account) -> dict[str, object]:
    since = account.blocked_since
    return {
        "id": account.id,
        "slug": account.slug,
        "name": account.name,
        "reason": account.blocked_reason,
        "since": since.isoformat() if since else None,
    }
