"""One circuit's connection with the fleet: reports, permits, and what is logged when the fleet's verdict changes."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import TYPE_CHECKING, Any

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.circuit import UNKNOWN, Delta, FleetLease
from app.core.circuit_breaker.rules import CLOSED, HALF_OPEN, OPEN, View
from app.core.circuit_breaker.wire import (
    ACQUIRE,
    PROVE,
    REPORT,
    SETTLE,
    FleetWord,
    micros,
    read_seen,
    read_word,
    report_rules,
)

if TYPE_CHECKING:
    from app.core.circuit_breaker.fleet import BreakerFleet

DENIED_SECONDS = (0.025, 0.075)
"""A replica that was refused a permit does not ask again for this long, at random in between."""


class FleetLink:
    """Implements `circuit.Link`. At most one report and one question under way."""

    def __init__(self, fleet: BreakerFleet, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self._fleet = fleet
        self._keys = fleet.keys.of(breaker.name)
        self.report_keys = fleet.keys.of_report(breaker.name)
        self._names = (breaker.name, fleet.keys.channel)
        self._rules = report_rules(breaker.policy)
        self._reporting = False
        self._asking = False
        self._denied_until = 0.0

    @property
    def up(self) -> bool:
        return self._fleet.up

    @property
    def share(self) -> float:
        return 1 / max(1, self._fleet.replicas)

    # -- reports

    def report(self) -> None:
        if not self._reporting and self._fleet.up:
            self._reporting = True
            self._fleet.spawn(self._report())

    async def _report(self) -> None:
        """Until everything is told: what happens while a report is under way travels with the next one."""
        breaker = self.breaker
        try:
            if breaker.version == UNKNOWN:
                await self._fleet.read(breaker)
            while (delta := breaker.delta(successes=False)) is not None:
                asked = breaker.version
                answer = await self._fleet.run_script(REPORT, self.report_keys, self.report_args(delta))
                if answer is None:
                    return
                self.reported(answer, asked)
        finally:
            self._reporting = False
            breaker.announce()

    def report_args(self, delta: Delta) -> list[Any]:
        return [
            *self._names, *self.breaker.version, self._fleet.replica_id,
            delta.calls, delta.failed, delta.slow, delta.after, micros(delta.hold_seconds), *self._rules,
            micros(delta.ok_age_seconds), micros(delta.row_age_seconds), delta.cause,
            self._fleet.living(self.breaker.name),
        ]  # fmt: skip

    def reported(self, answer: list[Any], asked: tuple[int, int]) -> None:
        changed, seen = answer[0] == 1, read_seen(answer[1:6])
        word = read_word(answer[6:], self._fleet.now())
        self.breaker.learn(word.view, word.failures, asked=asked)
        if changed:
            numbers = seen._asdict() | self._numbers(word)
            self.breaker.log_trip(word.view.why, word.failures, numbers)

    # -- probes

    async def acquire(self) -> FleetLease | None:
        if self._asking or self._fleet.now() < self._denied_until:
            return None
        self._asking = True
        asking = self._fleet.spawn(self._acquire())
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The server may have granted it by now: nobody is left to use it.
            asking.add_done_callback(self._give_back)
            raise

    async def _acquire(self) -> FleetLease | None:
        breaker, policy = self.breaker, self.breaker.policy
        lease, asked = secrets.token_hex(8), breaker.version
        ttl = micros(policy.probe_lease_seconds)
        args = [*self._names, self._fleet.replica_id, lease, ttl, policy.max_probes, policy.success_threshold]
        try:
            answer = await self._fleet.run_script(ACQUIRE, self._keys, args)
            if answer is None:
                return None  # granted or not, nobody knows: the lease runs out by itself
            word = read_word(answer[2:], self._fleet.now())
            breaker.learn(word.view, word.failures, asked=asked)
            if answer[1] == 1:
                breaker.log(logging.INFO, "tentative de récupération (HALF_OPEN)", **self._numbers(word))
            if answer[0] == 1:
                return FleetLease(lease, word.view.life, word.view.epoch)
            self._denied_until = self._fleet.now() + random.uniform(*DENIED_SECONDS)
            return None
        finally:
            self._asking = False

    async def prove(self) -> bool:
        breaker = self.breaker
        asked = breaker.version
        answer = await self._fleet.run_script(PROVE, self._keys, [*self._names, self._fleet.replica_id])
        if answer is None:
            return False
        word = read_word(answer[1:], self._fleet.now())
        breaker.learn(word.view, word.failures, asked=asked)
        self._denied_until = 0.0
        if answer[0] == 1:
            breaker.log(logging.INFO, "tentative de récupération (HALF_OPEN)", **self._numbers(word))
            self._fleet.on_recovery(breaker.name, HALF_OPEN)
        return bool(answer[0] == 1)

    def _give_back(self, asking: asyncio.Task[FleetLease | None]) -> None:
        if not asking.cancelled() and not asking.exception() and (lease := asking.result()) is not None:
            self.release_soon(lease)

    async def settle(self, lease: FleetLease, outcome: str, hold_seconds: float, cause: str) -> bool | None:
        return await asyncio.shield(self._fleet.spawn(self._settle(lease, outcome, hold_seconds, cause)))

    def release_soon(self, lease: FleetLease) -> None:
        self._fleet.spawn_if_running(lambda: self._settle(lease, "release", 0.0, ""))

    async def _settle(self, lease: FleetLease, outcome: str, hold_seconds: float, cause: str) -> bool | None:
        breaker, policy = self.breaker, self.breaker.policy
        asked = breaker.version
        args = [
            *self._names, self._fleet.replica_id, *lease, outcome, micros(hold_seconds), micros(policy.open_seconds),
            micros(policy.max_open_seconds), policy.jitter * random.random(), policy.success_threshold,
            cause,
        ]  # fmt: skip
        answer = await self._fleet.run_script(SETTLE, self._keys, args)
        if answer is None:
            return None
        word = read_word(answer[2:], self._fleet.now())
        breaker.learn(word.view, word.failures, asked=asked)
        self._denied_until = 0.0
        if answer[1] == 1:
            self._log_settled(word)
        return bool(answer[0] == 1)

    def _log_settled(self, word: FleetWord) -> None:
        numbers = self._numbers(word)
        if word.view.state is CLOSED:
            self._fleet.hurry()
            self.breaker.log(logging.INFO, "récupération réussie (CLOSED)", **numbers)
            self._fleet.on_recovery(self.breaker.name, CLOSED)
        else:
            seconds = word.view.until - self._fleet.now()
            what = f"probe failed (round {word.rounds}, {word.view.why}), open for {seconds:.1f} s"
            self.breaker.log(logging.WARNING, what, **numbers)

    # -- what others did

    def heard(self, word: FleetWord, *, asked: tuple[int, int] | None) -> None:
        """A message, or an answer to a question about several breakers."""
        news = self.breaker.learn(word.view, word.failures, asked=asked)
        if news and word.view.state is CLOSED:
            self._fleet.hurry()
        if news and word.view.who != self._fleet.replica_id:
            view = word.view
            level = logging.WARNING if view.manual or view.state is OPEN else logging.INFO
            what = f"{_describe(view)} for the fleet by {view.who or 'nobody'} ({view.why or 'no history'})"
            self.breaker.log(level, what, **self._numbers(word))

    def _numbers(self, word: FleetWord) -> dict[str, Any]:
        view = word.view
        return {
            "scope": "fleet", "state": view.state.value, "epoch": view.epoch, "failures": word.failures,
            "failed_rounds": word.rounds, "who": view.who, "why": view.why,
        }  # fmt: skip


def _describe(view: View) -> str:
    if view.forced:
        return "forced open" if view.state is OPEN else "forced closed"
    return {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half open"}[view.state]
