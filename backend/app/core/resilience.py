"""The one way an adapter calls the outside, outside in:

    total deadline → retry (with a budget) → bulkhead → circuit breaker → attempt timeout → the call

1. With no time left nothing is tried.
2. Every attempt is admitted and recorded by the breaker; an open circuit is not retried.
3. The bulkhead keeps one slow dependency from holding every worker: when its places are taken a call waits its turn,
   `patience_seconds` at most. A full bulkhead is our own doing and says nothing about the dependency: it is outside the
   breaker, which sees neither the wait nor its end. While the circuit is open, no call waits for a place.
4. An attempt gets `attempt_timeout_seconds` or what is left of the deadline. Running out of it is the dependency's
   failure, unless it was given less than half: then it had no fair chance, and the breaker ignores it.
5. Delays between attempts fit the deadline and stay under `MAX_DELAY_SECONDS`: a longer wait belongs to the queue,
   not to a worker that others are waiting for.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from app.core.circuit_breaker import CircuitBreaker, Classify, default_classify
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Overloaded, Unavailable
from app.core.retry import RetryBudget, RetryIf, build_retrying, is_unavailable
from app.core.slots import CALLER, Caller, Rank, Slots

T = TypeVar("T")

MAX_DELAY_SECONDS = 5.0


class BulkheadFull(Overloaded):
    """This process already makes as many calls to `dependency` as it may; nothing was sent."""


@dataclass(slots=True)
class Pulse:
    """The attempts under way, by when they began, and when the last one succeeded."""

    under_way: dict[object, float] = field(default_factory=dict)
    ok_at: float = -math.inf

    def silent_seconds(self, now: float) -> float:
        oldest = next(iter(self.under_way.values()), now)
        return max(0.0, now - max(oldest, self.ok_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResiliencePolicy:
    """How one adapter calls one dependency; shared by all its calls."""

    dependency: str = field(kw_only=False)
    breaker: CircuitBreaker | None
    attempt_timeout_seconds: float
    max_attempts: int
    slots: Slots
    """The bulkhead."""
    patience_seconds: float = 1.0
    """Most that a call waits there for its turn."""
    rank: Rank | None = None
    """Of all calls in the bulkhead; `None`: each caller's own."""
    classify: Classify = default_classify
    """Which errors the breaker counts."""
    retry_if: RetryIf = is_unavailable
    """Which errors are repeated."""
    timed_out: Callable[[float], Exception] | None = None
    """The error for an attempt that ran out of these seconds, for those who may not call that "unavailable" because it
    may have had an effect."""
    clock: Clock = SYSTEM_CLOCK
    uniform: Callable[[], float] = random.random
    budget: RetryBudget = field(default_factory=RetryBudget)
    pulse: Pulse = field(default_factory=Pulse)

    def behind(self, breaker: CircuitBreaker) -> ResiliencePolicy:
        """The same policy, its places and its retry budget shared, with another circuit."""
        return replace(self, breaker=breaker)

    def urgent(self) -> ResiliencePolicy:
        """The same policy, first in the bulkhead. For few calls that must not wait for all the others."""
        return replace(self, rank=Rank.URGENT)

    def insistent(self) -> ResiliencePolicy:
        """`urgent`, past every circuit, and tried once: for what must be written, by a caller who repeats it."""
        return replace(self, rank=Rank.URGENT, breaker=None, max_attempts=1)

    async def call(
        self, fn: Callable[..., Awaitable[T]], /, *args: Any, deadline: Deadline, max_attempts: int | None = None
    ) -> T:
        """`await fn(*args)` under the whole policy. Raises what `fn` raises, `CircuitBreakerOpenError`,
        `BulkheadFull`, `DeadlineExceeded`, or what `timed_out` makes of a timeout."""
        deadline.check(self.dependency)
        try:
            result = await self._in_turn(fn, args, deadline)
        except Exception as exc:
            if not self._may_repeat(exc):
                raise
            result = await self._repeat(exc, fn, args, deadline, max_attempts or self.max_attempts)
        self.budget.earn()
        return result

    def silent_seconds(self) -> float:
        """For how long attempts have been under way without one that succeeded; 0 if none is waited for. Long before
        they run out of time this is a reason to look whether the dependency can be reached."""
        return self.pulse.silent_seconds(self.clock.monotonic())

    async def look(self, fn: Callable[..., Awaitable[T]], /, *args: object) -> T:
        """`await fn(*args)` once, past circuit, bulkhead and retries, within `attempt_timeout_seconds`: how one finds
        out whether the dependency is back. Raises what `fn` raises, or `Unavailable`."""
        try:
            async with asyncio.timeout(self.attempt_timeout_seconds) as timeout:
                return await fn(*args)
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise self._no_answer(self.attempt_timeout_seconds) from exc

    async def _repeat(
        self,
        first: Exception,
        fn: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
        deadline: Deadline,
        max_attempts: int,
    ) -> T:
        """As if `fn` had not been called yet: the first attempt raises `first`. So only failures pay for tenacity."""
        failures = [first]

        @functools.wraps(fn)
        async def attempt() -> T:
            if failures:
                raise failures.pop()
            return await self._in_turn(fn, args, deadline)

        retrying = build_retrying(
            retry_if=self._may_repeat,
            max_attempts=max_attempts,
            deadline=deadline,
            budget=self.budget,
            max_delay_seconds=MAX_DELAY_SECONDS,
            clock=self.clock,
            uniform=self.uniform,
        )
        return cast(T, await retrying(attempt))

    async def _in_turn(self, fn: Callable[..., Awaitable[T]], args: tuple[object, ...], deadline: Deadline) -> T:
        caller = CALLER.get()
        if self.rank is not None:
            caller = caller._replace(rank=self.rank)
        if not self.slots.try_enter(caller):
            if self.breaker is not None:
                self.breaker.check()
            await self._wait(caller, deadline)
        try:
            if self.breaker is None:
                return await self._attempt(fn, args, deadline)
            return await self.breaker.run(self.classify, self._attempt, fn, args, deadline)
        finally:
            self.slots.leave(caller)

    async def _wait(self, caller: Caller, deadline: Deadline) -> None:
        try:
            await self.slots.enter(caller, deadline.cap(self.patience_seconds))
        except TimeoutError as exc:
            raise BulkheadFull(self.dependency, f"{self.dependency}: too many calls at once") from exc

    async def _attempt(self, fn: Callable[..., Awaitable[T]], args: tuple[object, ...], deadline: Deadline) -> T:
        limit = deadline.cap(self.attempt_timeout_seconds)
        pulse, attempt = self.pulse, object()
        pulse.under_way[attempt] = self.clock.monotonic()
        try:
            async with asyncio.timeout(limit) as timeout:
                result = await fn(*args)
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise (self.timed_out or self._no_answer)(limit) from exc
        finally:
            del pulse.under_way[attempt]
        pulse.ok_at = self.clock.monotonic()
        return result

    def _no_answer(self, seconds: float) -> Exception:
        if seconds < self.attempt_timeout_seconds / 2:
            return DeadlineExceeded(self.dependency, f"{self.dependency}: only {seconds:.1f} s were left")
        return Unavailable(self.dependency, f"{self.dependency}: no answer within {seconds:.1f} s")

    def _may_repeat(self, exc: BaseException) -> bool:
        return not isinstance(exc, BulkheadFull) and self.retry_if(exc)
