"""The peers of the breaker's benchmark: process-local ones by name, shared ones as drivers of `breaker_child`.

Packages: interlock-cb, purgatory, pybreaker, aiobreaker, circuitbreaker, hyx. Each is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
OPEN_SECONDS = 600


def _circuitbreaker() -> Call:
    from circuitbreaker import CircuitBreaker

    breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=OPEN_SECONDS)

    @breaker  # call_async alone does not look whether the circuit is open
    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        return await fn()

    return call


def _hyx() -> Call:
    from hyx.circuitbreaker import consecutive_breaker

    breaker = consecutive_breaker(failure_threshold=5, recovery_time_secs=OPEN_SECONDS)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        async with breaker:
            return await fn()

    return call


def _purgatory() -> Call:
    from purgatory import AsyncCircuitBreakerFactory

    factory = AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=OPEN_SECONDS)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        async with await factory.get_breaker("x"):
            return await fn()

    return call


def _aiobreaker() -> Call:
    from aiobreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=OPEN_SECONDS))
    return breaker.call_async


def _pybreaker() -> Call:
    from pybreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=5, reset_timeout=OPEN_SECONDS)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        with breaker.calling():
            return await fn()

    return call


def _interlock() -> Call:
    from interlock import CircuitBreaker, Config

    breaker = CircuitBreaker(
        name="x", config=Config(minimum_number_of_calls=5, window_size=5, wait_duration_in_open=OPEN_SECONDS)
    )
    return breaker.call_async


LOCAL: Mapping[str, Callable[[], Call]] = {
    "circuitbreaker": _circuitbreaker, "hyx": _hyx, "purgatory": _purgatory, "aiobreaker": _aiobreaker,
    "pybreaker (calling)": _pybreaker, "interlock-cb": _interlock,
}  # fmt: skip


class Interlock:
    async def start(self, name: str, redis_url: str, policy: dict[str, Any]) -> None:
        from interlock import CircuitBreaker, CircuitOpenError, Config
        from interlock.integrations.redis import AsyncRedisStorage
        from redis.asyncio import Redis

        self.rejection = CircuitOpenError
        self.redis = Redis.from_url(redis_url)
        config = Config(
            failure_rate_threshold=0.5, minimum_number_of_calls=5, window_size=10, permitted_calls_in_half_open=2,
            wait_duration_in_open=policy["open_seconds"],
        )  # fmt: skip
        self.breaker = CircuitBreaker(name="upstream", config=config, storage=AsyncRedisStorage(self.redis))

    async def call(self, fn: Any) -> Any:
        return await self.breaker.call_async(fn)

    def is_rejection(self, exc: Exception) -> bool:
        return isinstance(exc, self.rejection)

    def state(self) -> str:
        return str(self.breaker.state.value).lower()

    def round_trips(self) -> float:
        return 0.0

    async def stop(self) -> None:
        await self.redis.aclose()


class Purgatory:
    async def start(self, name: str, redis_url: str, policy: dict[str, Any]) -> None:
        from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork
        from purgatory.domain.model import OpenedState

        self.rejection = OpenedState
        self.factory = AsyncCircuitBreakerFactory(
            default_threshold=5, default_ttl=policy["open_seconds"], uow=AsyncRedisUnitOfWork(redis_url)
        )
        await self.factory.initialize()
        self.seen = "closed"

    async def call(self, fn: Any) -> Any:
        breaker = await self.factory.get_breaker("upstream")
        self.seen = {"opened": "open", "half-opened": "half_open"}.get(breaker.context.state, breaker.context.state)
        async with breaker:
            return await fn()

    def is_rejection(self, exc: Exception) -> bool:
        return isinstance(exc, self.rejection)

    def state(self) -> str:
        return self.seen

    def round_trips(self) -> float:
        return 0.0

    async def stop(self) -> None:
        await self.factory.uow.contexts.redis.aclose()


SHARED = ("tests.bench.breaker_peers:Interlock", "tests.bench.breaker_peers:Purgatory")
