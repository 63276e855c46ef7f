"""One circuit's link with the fleet: reports, permits, and what is learned from the answers."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

from app.core.circuit_breaker import transition_log
from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.connection import FleetConnection
from app.core.circuit_breaker.observations import Delta
from app.core.circuit_breaker.outcomes import IGNORED, Verdict
from app.core.circuit_breaker.permits import FleetLease
from app.core.circuit_breaker.rules import Counts
from app.core.circuit_breaker.states import CLOSED, HALF_OPEN, UNKNOWN
from app.core.circuit_breaker.wire import (
    ACQUIRE,
    PROVE,
    REPORT,
    SETTLE,
    FleetState,
    micros,
    read_row,
    read_state,
    report_rules,
)
from app.core.redis.door import ScriptCall


class FleetLink:
    """Implements `breaker.Link`. At most one report and one question under way."""

    def __init__(self, connection: FleetConnection, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self._connection = connection
        self._keys = connection.keys.of(breaker.name)
        self._report_keys = connection.keys.of_report(breaker.name)
        self._names = (breaker.name, connection.keys.channel)
        self._rules = report_rules(breaker.policy)
        self._reporting = False
        self._asking = False
        self._denied_until = 0.0

    @property
    def up(self) -> bool:
        return self._connection.is_up

    @property
    def share(self) -> float:
        """This replica's share of the fleet, in (0, 1]."""
        return 1 / max(1, self._connection.replicas)

    # -- reports

    def report(self) -> None:
        """Something went wrong: tell the fleet now, in the background."""
        if not self._reporting and self.up:
            self._reporting = True
            self._connection.spawn(self._report())

    async def _report(self) -> None:
        """Until everything is told: what happens while a report is under way travels with the next one."""
        breaker = self.breaker
        try:
            if breaker.version == UNKNOWN:
                await self._read()
            while (delta := breaker.delta(successes=False)) is not None:
                asked = breaker.version
                answer = await self._connection.run(*self.report_call(delta))
                if answer is None:
                    return
                self.reported(answer, asked)
        finally:
            self._reporting = False
            breaker.announce()

    async def _read(self) -> None:
        """Learn what the fleet thinks of a circuit that has not heard of it yet."""
        asked = self.breaker.version
        rows = await self._connection.run(*self._connection.keys.read_call(self.breaker.name, [self.breaker.name]))
        for row in rows or ():
            name, told = read_row(row, self._connection.now())
            if name == self.breaker.name:
                self.heard(told, asked=asked)

    def report_call(self, delta: Delta) -> ScriptCall:
        args = [
            *self._names, *self.breaker.version, self._connection.replica_id,
            delta.calls, delta.failed, delta.slow, delta.after, micros(delta.hold_seconds), *self._rules,
            micros(delta.ok_age_seconds), micros(delta.row_age_seconds), delta.cause,
            self._connection.living(self.breaker.name),
        ]  # fmt: skip
        return REPORT, self._report_keys, args

    def reported(self, answer: list[Any], asked: tuple[int, int]) -> None:
        """What Redis says to a report that was sent when `breaker.version` was `asked`."""
        changed, counts = answer[0] == 1, Counts(*answer[1:6])
        told = self._learn(answer[6:], asked)
        if changed:
            self.breaker.log_trip(told.view.why, told.failures, self._numbers(told, **counts._asdict()))

    # -- probes

    async def acquire(self) -> FleetLease | None:
        """A permit, if there is one to be had. What the fleet says on the occasion is learned."""
        if self._asking or self._connection.now() < self._denied_until:
            return None
        self._asking = True
        asking = self._connection.spawn(self._acquire())
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The server may have granted it by now, and its caller is gone.
            asking.add_done_callback(self._give_back)
            raise

    async def _acquire(self) -> FleetLease | None:
        breaker, policy = self.breaker, self.breaker.policy
        lease, asked = secrets.token_hex(8), breaker.version
        ttl = micros(policy.probe_lease_seconds)
        args = [*self._names, self._connection.replica_id, lease, ttl, policy.max_probes, policy.success_threshold]
        try:
            answer = await self._connection.run(ACQUIRE, self._keys, args)
            if answer is None:
                return None  # granted or not, this is unknown: the lease runs out by itself
            told = self._learn(answer[2:], asked)
            if answer[1] == 1:
                transition_log.half_opened(breaker.name, self._numbers(told))
            if answer[0] == 1:
                return FleetLease(lease, *told.view.version)
            self._denied_until = self._connection.now() + random.uniform(*self._connection.timings.denied_seconds)
            return None
        finally:
            self._asking = False

    async def prove(self) -> None:
        """The dependency was seen well: make the fleet's circuit half open, if it is open."""
        breaker = self.breaker
        asked = breaker.version
        answer = await self._connection.run(PROVE, self._keys, [*self._names, self._connection.replica_id])
        if answer is None:
            return
        told = self._learn(answer[1:], asked)
        self._denied_until = 0.0
        if answer[0] == 1:
            transition_log.half_opened(breaker.name, self._numbers(told))
            self._connection.recovered(breaker.name, HALF_OPEN)

    def _give_back(self, asking: asyncio.Task[FleetLease | None]) -> None:
        if not asking.cancelled() and not asking.exception() and (lease := asking.result()) is not None:
            self.release_soon(lease)

    async def settle(self, lease: FleetLease, outcome: str, verdict: Verdict) -> bool | None:
        """Did the outcome count? `None`: the fleet is out of reach. Goes on when the caller is cancelled."""
        return await asyncio.shield(self._connection.spawn(self._settle(lease, outcome, verdict)))

    def release_soon(self, lease: FleetLease) -> None:
        """Give the permit back without waiting for it."""
        self._connection.spawn_if_running(lambda: self._settle(lease, "release", IGNORED))

    async def _settle(self, lease: FleetLease, outcome: str, verdict: Verdict) -> bool | None:
        breaker, policy = self.breaker, self.breaker.policy
        asked = breaker.version
        args = [
            *self._names, self._connection.replica_id, *lease, outcome, micros(verdict.hold_seconds),
            micros(policy.open_seconds), micros(policy.max_open_seconds), policy.jitter * random.random(),
            policy.success_threshold, verdict.cause,
        ]  # fmt: skip
        answer = await self._connection.run(SETTLE, self._keys, args)
        if answer is None:
            return None
        told = self._learn(answer[2:], asked)
        self._denied_until = 0.0
        if answer[1] == 1 and told.view.state is CLOSED:
            self._closed(told)
        elif answer[1] == 1:
            self._reopened(told)
        return bool(answer[0] == 1)

    def _closed(self, told: FleetState) -> None:
        self._connection.hurry()
        transition_log.closed(self.breaker.name, self._numbers(told))
        self._connection.recovered(self.breaker.name, CLOSED)

    def _reopened(self, told: FleetState) -> None:
        transition_log.reopened(
            self.breaker.name, rounds=told.rounds, seconds=told.view.until - self._connection.now(), why=told.view.why,
            numbers=self._numbers(told),
        )  # fmt: skip

    # -- what the fleet says

    def heard(self, told: FleetState, *, asked: tuple[int, int] | None) -> None:
        """A message (`asked` is `None`), or an answer to a question about several circuits."""
        view = told.view
        news = self.breaker.learn(view, told.failures, asked=asked)
        if news and view.state is CLOSED:
            self._connection.hurry()
        if news and view.who != self._connection.replica_id:
            transition_log.told(self.breaker.name, view, self._numbers(told))

    def _learn(self, fields: list[bytes], asked: tuple[int, int]) -> FleetState:
        told = read_state(fields, self._connection.now())
        self.breaker.learn(told.view, told.failures, asked=asked)
        return told

    def _numbers(self, told: FleetState, **more: Any) -> dict[str, Any]:
        view = told.view
        return self.breaker.numbers() | more | {
            "scope": "fleet", "state": view.state.value, "epoch": view.epoch, "failures": told.failures,
            "failed_rounds": told.rounds, "who": view.who, "why": view.why,
        }  # fmt: skip
