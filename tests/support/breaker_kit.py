"""Several replicas in one process, each with circuits and Redis clients of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from app.core.circuit_breaker import BreakerFleet, BreakerPolicy, CircuitBreaker, FleetTimings, KeyedCircuitBreakers
from app.core.http_client import ConnectFailed
from app.core.redis.door import Door

POLICY = BreakerPolicy(failure_threshold=5, open_seconds=0.4, max_open_seconds=4.0, probe_lease_seconds=1.0)
PATIENT = FleetTimings(answer_seconds=5.0)
"""For tests of what circuits do with Redis' answers, not of how long they wait for one: on a busy machine some are
late, and then a replica rightly decides alone."""
SOON = FleetTimings(answer_seconds=0.5)
"""It finds out soon that Redis is away, and takes an answer that is only late on a busy machine."""


class BreakerReplica:
    """One replica: a circuit `api`, a family `keyed`, a fleet; and an upstream that answers as told."""

    def __init__(
        self,
        url: str,
        name: str,
        policy: BreakerPolicy = POLICY,
        *,
        replicas: int = 1,
        timings: FleetTimings = PATIENT,
    ) -> None:
        self.name = name
        self.door = Door.to(url)
        self.breaker = CircuitBreaker("some_api", policy, dependency="some")
        self.keyed = KeyedCircuitBreakers("keyed_api", replace(policy, quorum=1), dependency="keyed")
        self.replicas = replicas
        """That live, as far as this one knows."""
        self.fleet = BreakerFleet(
            self.door, namespace="test", replica_id=name, replicas=lambda: self.replicas, timings=timings
        )
        self._patience_seconds = 10.0 if timings is PATIENT else None
        self.fleet.join(self.breaker, self.keyed)
        self.outcome: Exception | None = None
        self.called = 0
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Knows what the fleet knows, unless Redis is away."""
        await self.sync()
        self._loop = asyncio.create_task(self.fleet.run())

    async def sync(self) -> None:
        """Once; a patient one until Redis has answered, whom a busy machine may keep waiting."""
        async with asyncio.timeout(self._patience_seconds):
            while not await self.fleet.sync() and self._patience_seconds:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
            self._loop = None
        await self.fleet.leave()
        await self.door.aclose()

    async def upstream(self) -> str:
        self.called += 1
        if self.outcome is not None:
            raise self.outcome
        return "ok"

    async def call(self, breaker: CircuitBreaker | None = None) -> str:
        """`ok`, or the name of the error."""
        try:
            return await (breaker or self.breaker).call_async(self.upstream)
        except Exception as exc:  # noqa: BLE001  whatever it was, by name
            return type(exc).__name__

    def fails(self, outcome: Exception | None = None) -> None:
        self.outcome = outcome or ConnectFailed("ConnectError")

    def recovers(self) -> None:
        self.outcome = None

    @property
    def state(self) -> str:
        return self.breaker.snapshot().state.value


async def until(happened: Callable[[], object], *, timeout_seconds: float = 15.0) -> None:
    async with asyncio.timeout(timeout_seconds):
        while not happened():
            await asyncio.sleep(0.002)
