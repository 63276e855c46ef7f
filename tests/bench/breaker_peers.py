"""The peers of the breaker's benchmark: process-local ones by name, all as drivers of `breaker_child`.

Packages: interlock-cb, purgatory, pybreaker, aiobreaker, circuitbreaker, hyx. Each is imported when it is asked for.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
OPEN_SECONDS = 600.0
NOT_COUNTED = float("nan")
"""Round trips of a peer: the commands that the server counts must do."""


class Local(NamedTuple):
    """A breaker of one process: what is called, what it raises instead, and its state."""

    call: Call
    rejection: type[Exception]
    state: Callable[[], str]


def _circuitbreaker(open_seconds: float) -> Local:
    from circuitbreaker import CircuitBreaker, CircuitBreakerError

    breaker = CircuitBreaker(failure_threshold=5, recovery_timeout=open_seconds)

    @breaker  # call_async alone does not look whether the circuit is open
    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        return await fn()

    return Local(call, CircuitBreakerError, lambda: breaker.state)


def _hyx(open_seconds: float) -> Local:
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.circuitbreaker.exceptions import BreakerFailing

    breaker = consecutive_breaker(failure_threshold=5, recovery_time_secs=open_seconds)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        async with breaker:
            return await fn()

    return Local(call, BreakerFailing, lambda: _state(breaker.state.name))


def _purgatory(open_seconds: float) -> Local:
    from purgatory import AsyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState

    factory = AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=open_seconds)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        async with await factory.get_breaker("x"):
            return await fn()

    return Local(call, OpenedState, lambda: "unknown")


def _aiobreaker(open_seconds: float, storage: Any = None) -> Local:
    from aiobreaker import CircuitBreaker, CircuitBreakerError

    timeout = timedelta(seconds=open_seconds)
    breaker = CircuitBreaker(fail_max=5, timeout_duration=timeout, state_storage=storage)
    return Local(breaker.call_async, CircuitBreakerError, lambda: _state(breaker.state.state.name.lower()))


def _pybreaker(open_seconds: float, storage: Any = None) -> Local:
    from pybreaker import CircuitBreaker, CircuitBreakerError

    breaker = CircuitBreaker(fail_max=5, reset_timeout=open_seconds, state_storage=storage)

    async def call(fn: Callable[[], Awaitable[Any]]) -> Any:
        with breaker.calling():
            return await fn()

    return Local(call, CircuitBreakerError, lambda: _state(breaker.state.name))


def _interlock(open_seconds: float) -> Local:
    from interlock import CircuitBreaker, CircuitOpenError, Config

    breaker = CircuitBreaker(
        name="x", config=Config(minimum_number_of_calls=5, window_size=5, wait_duration_in_open=open_seconds)
    )
    return Local(breaker.call_async, CircuitOpenError, lambda: str(breaker.state.value).lower())


def _state(name: str) -> str:
    """In our words."""
    return {
        "working": "closed", "failing": "open", "recovering": "half_open", "half-open": "half_open", "opened": "open",
        "half-opened": "half_open",
    }.get(name, name)  # fmt: skip


LOCAL: Mapping[str, Callable[[float], Local]] = {
    "circuitbreaker": _circuitbreaker, "hyx": _hyx, "purgatory": _purgatory, "aiobreaker": _aiobreaker,
    "pybreaker (calling)": _pybreaker, "interlock-cb": _interlock,
}  # fmt: skip


class InProcess(ABC):
    """A breaker of one process as a driver: the replicas know nothing of each other."""

    @abstractmethod
    def make(self, redis_url: str, open_seconds: float) -> Local: ...

    async def start(self, name: str, redis_url: str, policy: dict[str, Any]) -> None:
        self.local = self.make(redis_url, policy["open_seconds"])

    async def call(self, fn: Any) -> Any:
        return await self.local.call(fn)

    def is_rejection(self, exc: Exception) -> bool:
        return isinstance(exc, self.local.rejection)

    def state(self) -> str:
        return self.local.state()

    def round_trips(self) -> float:
        return NOT_COUNTED

    async def stop(self) -> None:
        return


class Circuitbreaker(InProcess):
    def make(self, redis_url: str, open_seconds: float) -> Local:
        return _circuitbreaker(open_seconds)


class Hyx(InProcess):
    def make(self, redis_url: str, open_seconds: float) -> Local:
        return _hyx(open_seconds)


class Aiobreaker(InProcess):
    def make(self, redis_url: str, open_seconds: float) -> Local:
        return _aiobreaker(open_seconds)


class Pybreaker(InProcess):
    def make(self, redis_url: str, open_seconds: float) -> Local:
        return _pybreaker(open_seconds)


class AiobreakerRedis(InProcess):
    """Its storage takes a client that blocks, and is asked for every look at the state: nobody watches it."""

    def make(self, redis_url: str, open_seconds: float) -> Local:
        from aiobreaker.state import CircuitBreakerState
        from aiobreaker.storage.redis import CircuitRedisStorage
        from redis import Redis

        storage = CircuitRedisStorage(CircuitBreakerState.CLOSED, Redis.from_url(redis_url), namespace="peer")
        return _aiobreaker(open_seconds, storage)._replace(state=lambda: "unknown")


class PybreakerRedis(InProcess):
    """As above."""

    def make(self, redis_url: str, open_seconds: float) -> Local:
        from pybreaker import STATE_CLOSED, CircuitRedisStorage
        from redis import Redis

        storage = CircuitRedisStorage(STATE_CLOSED, Redis.from_url(redis_url), namespace="peer")
        return _pybreaker(open_seconds, storage)._replace(state=lambda: "unknown")


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
        return NOT_COUNTED

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
        self.seen = _state(breaker.context.state)
        async with breaker:
            return await fn()

    def is_rejection(self, exc: Exception) -> bool:
        return isinstance(exc, self.rejection)

    def state(self) -> str:
        return self.seen

    def round_trips(self) -> float:
        return NOT_COUNTED

    async def stop(self) -> None:
        await self.factory.uow.contexts.redis.aclose()


class Peer(NamedTuple):
    """A driver of the incident: how it is called in the table, and what must be installed."""

    label: str
    driver: str
    package: str

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


PEERS = tuple(
    Peer(label, f"{__name__}:{driver}", package)
    for label, driver, package in (
        ("interlock-cb, Redis", "Interlock", "interlock"),
        ("purgatory, Redis", "Purgatory", "purgatory"),
        ("aiobreaker, Redis", "AiobreakerRedis", "aiobreaker"),
        ("pybreaker, Redis", "PybreakerRedis", "pybreaker"),
        ("aiobreaker, each process alone", "Aiobreaker", "aiobreaker"),
        ("pybreaker, each process alone", "Pybreaker", "pybreaker"),
        ("circuitbreaker, each process alone", "Circuitbreaker", "circuitbreaker"),
        ("hyx, each process alone", "Hyx", "hyx"),
    )
)
