"""The fleet's circuit as a driver of `breaker_child`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from app.core.circuit_breaker import (
    BreakerFleet,
    BreakerPolicy,
    CircuitBreaker,
    CircuitBreakerOpenError,
)
from app.core.circuit_breaker.fleet import ROUND_TRIPS
from app.core.redis.door import Door


class Chorus:
    push = True

    async def start(self, name: str, redis_url: str, policy: dict[str, Any]) -> None:
        self.door = Door.to(redis_url)
        self.breaker = CircuitBreaker("upstream", BreakerPolicy(**policy))
        self.fleet = BreakerFleet(self.door, namespace="x", replica_id=name, replicas=lambda: 4)
        self.fleet.join(self.breaker)
        await self.fleet.sync()
        self.loop = asyncio.create_task(self.fleet.run() if self.push else self.fleet.keep_resyncing())

    async def call(self, fn: Any) -> Any:
        return await self.breaker.call_async(fn)

    def is_rejection(self, exc: Exception) -> bool:
        return isinstance(exc, CircuitBreakerOpenError)

    def state(self) -> str:
        return self.breaker.snapshot().state.value

    def round_trips(self) -> float:
        return float(ROUND_TRIPS._value.get())

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop
        await self.fleet.leave()
        await self.door.aclose()


class ChorusWithoutPush(Chorus):
    push = False
