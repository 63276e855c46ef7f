"""What is broken when: two seeded tracks side by side, one for processes, one for the APIs outside."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .recovery import LeaseWatch, TakeOver
from .world import ChaosWorld

FREEZE_SECONDS = 5.0
AWAY_SECONDS = 0.5
BETWEEN_SECONDS = 0.5
HANG_SECONDS = 5.0
"""Longer than a run's lease: only renewal keeps the conversation."""

SHORT_PROCESSES = ("kill_replica", "kill_valkey", "stop_replica", "freeze_valkey", "rolling_restart", "kill_replica")
LONG_PROCESSES = (*SHORT_PROCESSES, "restart_postgres", "kill_replica", "kill_valkey")

Rule = dict[str, Any]
SLOW_GEMINI: Rule = {"latency_ms": 300, "jitter_ms": 900, "rate": 0.5}
"""The background of a run, so that a replica holds many conversations whenever it dies. The other half of the requests
is left to the faults below: the first rule that fires wins."""
# Few at a time: five failures in a row open Gemini's circuit for a minute, three WhatsApp's for half a minute.
SHORT_RULES: Sequence[tuple[str, Rule]] = (
    ("gemini 503", {"target": "gemini", "gemini": "unavailable", "count": 2}),
    ("gemini 429", {"target": "gemini", "gemini": "quota_per_minute", "retry_delay": "2s", "count": 1}),
    ("gemini hang", {"target": "gemini", "action": "hang_before", "hang_seconds": HANG_SECONDS, "count": 3}),
    ("whatsapp 131000", {"target": "whatsapp", "error": "131000", "count": 1}),
    ("whatsapp 502", {"target": "whatsapp", "http_status": 502, "count": 1}),
    ("whatsapp drop_after", {"target": "whatsapp", "action": "drop_after", "rate": 0.3, "count": 3}),
    ("whatsapp drop_before", {"target": "whatsapp", "action": "drop_before", "count": 1}),
    ("whatsapp 131056", {"target": "whatsapp", "error": "131056", "count": 1}),
    ("status drop_after", {"target": "webhook", "action": "drop_after", "rate": 0.2, "count": 10}),
)
LONG_RULES: Sequence[tuple[str, Rule]] = (
    *SHORT_RULES,
    ("gemini 503", {"target": "gemini", "gemini": "unavailable", "rate": 0.4, "count": 40}),
    ("gemini 429", {"target": "gemini", "gemini": "quota_per_minute", "retry_delay": "3s", "count": 10}),
    ("gemini hang", {"target": "gemini", "action": "hang_before", "hang_seconds": HANG_SECONDS, "count": 30}),
    ("whatsapp 131000", {"target": "whatsapp", "error": "131000", "rate": 0.3, "count": 20}),
    ("whatsapp 502", {"target": "whatsapp", "http_status": 502, "rate": 0.1, "count": 5}),
    ("whatsapp drop_after", {"target": "whatsapp", "action": "drop_after", "rate": 0.2, "count": 25}),
    ("whatsapp drop_before", {"target": "whatsapp", "action": "drop_before", "rate": 0.1, "count": 5}),
    ("whatsapp 131056", {"target": "whatsapp", "error": "131056", "rate": 0.1, "count": 10}),
)


@dataclass(frozen=True, slots=True)
class Outage:
    """From when to when (Unix seconds) something was away."""

    what: str
    began: float
    ended: float
    replica: int | None = None
    """Which one, if it was a replica."""


@dataclass
class Schedule:
    """Breaks `world` for about `seconds`; afterwards everything runs again and no rule is left."""

    world: ChaosWorld
    seed: int
    seconds: float
    processes: Sequence[str]
    rules: Sequence[tuple[str, Rule]]
    injected: Counter[str] = field(default_factory=Counter)
    recoveries: list[TakeOver] = field(default_factory=list)
    resumptions: list[float] = field(default_factory=list)
    """Seconds from the return of Valkey until the next claim."""

    outages: list[Outage] = field(default_factory=list)
    frozen: list[tuple[float, float]] = field(default_factory=list)
    """From when to when (Unix seconds) a replica was stopped, to wake again."""

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed}-processes")
        slots = self.world.concurrency * (len(self.world.fleet.replicas) - 1)
        self._watch = LeaseWatch(self.world.redis, lease_seconds=self.world.lease_seconds, slots=slots)
        self._rule_ids: list[tuple[str, int]] = []

    async def run(self) -> None:
        upstream = asyncio.create_task(self._break_upstream())
        try:
            await self._break_processes()
            await upstream
        finally:
            upstream.cancel()
        await self.heal()

    async def _break_processes(self) -> None:
        """The whole list in random order, again and again until the time is over: every fault at least once."""
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "kill_replica": self._kill_replica, "stop_replica": self._stop_replica, "kill_valkey": self._kill_valkey,
            "freeze_valkey": self._freeze_valkey, "restart_postgres": self._restart_postgres,
            "rolling_restart": self._rolling_restart,
        }  # fmt: skip
        deadline = time.monotonic() + self.seconds
        await asyncio.sleep(BETWEEN_SECONDS)
        first = True
        while first or time.monotonic() < deadline:
            for name in self._random.sample(self.processes, len(self.processes)):
                if not first and time.monotonic() >= deadline:
                    break
                await steps[name]()
                self.injected[name] += 1
                await asyncio.sleep(BETWEEN_SECONDS)
            first = False

    async def _break_upstream(self) -> None:
        rng = random.Random(f"{self.seed}-upstream")
        order = rng.sample(self.rules, len(self.rules))
        await self.world.sandbox.add_fault("gemini", seed=self.seed, **SLOW_GEMINI)
        for name, rule in order:
            match: Rule = {"match": {"operation": "send"}} if rule["target"] == "whatsapp" else {}
            fault = await self.world.sandbox.add_fault(**rule, **match, seed=self.seed)
            self._rule_ids.append((name, fault))
            await asyncio.sleep(self.seconds / len(order))

    async def heal(self) -> None:
        for name, fault in self._rule_ids:
            self.injected[name] += (await self.world.sandbox.get_fault(fault))["fired"]
        self._rule_ids.clear()
        await self.world.sandbox.clear_faults()

    @contextmanager
    def _away(self, what: str, replica: int | None = None) -> Iterator[None]:
        began = time.time()
        try:
            yield
        finally:
            self.outages.append(Outage(what, began, time.time(), replica))

    def _victim(self) -> int:
        return self._random.randrange(len(self.world.fleet.replicas))

    async def _kill_replica(self) -> None:
        victim = self._victim()
        died_at = time.time()
        await asyncio.to_thread(self.world.fleet.replicas[victim].kill)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._restart(victim))
            within = 2 * self.world.lease_seconds + 5
            taken = tasks.create_task(self._watch.orphans_taken_over(died_at, within_seconds=within))
        self.recoveries += taken.result()

    async def _stop_replica(self) -> None:
        """Longer than its lease: others take its conversations, and it wakes in the middle of what it was doing."""
        victim = self._victim()
        replica = self.world.fleet.replicas[victim]
        with self._away("replica", victim):
            replica.pause()
            began = time.time()
            await asyncio.sleep(self.world.lease_seconds + 1.5)
            self.frozen.append((began, time.time()))
            replica.resume()

    async def _kill_valkey(self) -> None:
        valkey = self.world.servers.valkey
        with self._away("valkey"):
            await asyncio.to_thread(valkey.kill)
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(valkey.start)
        await self._work_resumes()

    async def _freeze_valkey(self) -> None:
        valkey = self.world.servers.valkey
        with self._away("valkey"):
            await asyncio.to_thread(valkey.pause)
            await asyncio.sleep(FREEZE_SECONDS)
            await asyncio.to_thread(valkey.resume)
        await self._work_resumes()

    async def _work_resumes(self) -> None:
        resumed = await self._watch.until_work_resumes(within_seconds=5)
        if resumed is not None:
            self.resumptions.append(resumed)

    async def _restart_postgres(self) -> None:
        with self._away("postgres"):
            await asyncio.to_thread(self.world.servers.postgres.restart)

    async def _rolling_restart(self) -> None:
        for number, replica in enumerate(self.world.fleet.replicas):
            await asyncio.to_thread(replica.stop, grace_seconds=20)
            if replica.exit_code != 0:
                raise AssertionError(f"{replica.name} ended with {replica.exit_code} on SIGTERM:\n{replica.log_tail()}")
            await self._restart(number)

    async def _restart(self, number: int) -> None:
        with self._away("replica", number):
            await self.world.restart(number)
