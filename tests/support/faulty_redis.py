"""A replica's own clock, and its connection to a server whose answers get lost: for state machines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Seconds(Protocol):
    seconds: float


@dataclass
class OwnClock:
    """A replica's monotonic clock: the server's, from another start."""

    server: Seconds
    offset: float

    def monotonic(self) -> float:
        return self.server.seconds + self.offset


class Line:
    """A replica's connection: `fault` spoils the next operation, on its way there or on its way back."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.fault = ""
        self.cut = False
        self.operations = 0

    async def _through(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        self.operations += 1
        fault, self.fault = self.fault, ""
        if self.cut or fault == "request":
            raise RedisConnectionError("cut")
        answer = await operation()
        if fault == "reply":
            raise RedisTimeoutError("lost")
        return answer

    async def execute_command(self, *args: Any) -> Any:
        return await self._through(lambda: self.redis.execute_command(*args))

    async def eval(self, *args: Any) -> Any:
        return await self._through(lambda: self.redis.eval(*args))
