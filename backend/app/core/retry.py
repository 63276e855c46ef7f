"""Repeating a call that failed for a passing reason, on tenacity.

    @retry_on_network_error(max_attempts=3)          # no connection, connection lost, timeout
    async def call_external_api(): ...

    @retry_on_server_error(max_attempts=3)           # HTTP 5xx and 429
    async def fetch_report(): ...

    result = await execute_with_retry(my_api_call, param1="value", max_attempts=3)      # either kind

    @retry_on_network_error(max_attempts=5, min_wait=2, max_wait=20)     # seconds between two attempts

All three also repeat on `Unavailable`, and never on an open circuit, a passed deadline, another status (400, 401,
403, 404, …) or a bug. A failure that may have happened after the peer did the work (a lost POST) is not repeated
unless the function is declared `idempotent=True`. Between attempts they wait `max(what the upstream asked for,
full-jitter exponential between min_wait and max_wait)`; a delay of more than `MAX_DELAY_SECONDS`, or `max_wait` if that
is longer, is not waited for: the error is raised at once, with its `retry_after`. The last error is raised as it is,
never wrapped. Each repetition is told by the logger of the function's module.

A decorated function is a tenacity one: `.retry_with(...)` and `.statistics` are there, and
`call_external_api.retry.sleep = fake` switches the back-off off in a test. `build_retrying()` returns the tenacity
object itself. No attempt is bounded in time here; `core/resilience.py` does that.
"""

from __future__ import annotations

import functools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from tenacity import AsyncRetrying, Future, RetryCallState, retry_if_exception

from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Unavailable
from app.core.failure_words import named
from app.core.http_client import is_ambiguous, is_network_error, status_error

P = ParamSpec("P")
T = TypeVar("T")
RetryIf = Callable[[BaseException], bool]
AsyncFunction = Callable[P, Coroutine[Any, Any, T]]
Decorator = Callable[[Callable[P, Awaitable[T]]], AsyncFunction[P, T]]

FIRST_DELAY_SECONDS = 1.0
"""The first delay is anything up to this, the next up to twice as much, and so on."""
MAX_BACKOFF_SECONDS = 10.0
MAX_DELAY_SECONDS = 30.0


class RetryBudget:
    """Retries in proportion to successes, so that a struggling dependency is not hit three times as hard.

    Starts with `tokens`; a retry spends one, a success earns `per_success`, up to `tokens` again.
    """

    def __init__(self, tokens: float = 10.0, per_success: float = 0.1) -> None:
        self._limit = self._tokens = tokens
        self._per_success = per_success

    def spend(self) -> bool:
        """Take a token; False if there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def earn(self) -> None:
        self._tokens = min(self._limit, self._tokens + self._per_success)


def is_unavailable(exc: BaseException) -> bool:
    """`Unavailable`, except the kinds that say "not now" to every caller."""
    return isinstance(exc, Unavailable) and not isinstance(exc, (CircuitBreakerOpenError, DeadlineExceeded))


def retry_on_network_error(
    max_attempts: int = 3,
    *,
    min_wait: float = 0.0,
    max_wait: float = MAX_BACKOFF_SECONDS,
    idempotent: bool = False,
) -> Decorator[P, T]:
    """Decorate a coroutine function: repeat it when the network failed. `idempotent`: also when a POST was lost."""
    retry_if = functools.partial(is_retryable, server=False, idempotent=idempotent)
    return _decorator(retry_if, max_attempts, min_wait, max_wait)


def retry_on_server_error(
    max_attempts: int = 3, *, min_wait: float = 0.0, max_wait: float = MAX_BACKOFF_SECONDS
) -> Decorator[P, T]:
    """Decorate a coroutine function: repeat it when the server answered 5xx or 429."""
    return _decorator(functools.partial(is_retryable, network=False), max_attempts, min_wait, max_wait)


async def execute_with_retry(
    fn: Callable[..., Awaitable[T]], /, *args: object, max_attempts: int = 3, **kwargs: object
) -> T:
    """Call `fn(*args, **kwargs)`, repeating it on network and server errors, `max_attempts` calls in all."""
    retrying = build_retrying(retry_if=is_retryable, max_attempts=max_attempts)
    return cast(T, await retrying(_plain(functools.partial(fn, *args, **kwargs))))


def is_retryable(exc: BaseException, *, network: bool = True, server: bool = True, idempotent: bool = False) -> bool:
    """Is it `Unavailable`, HTTP 5xx or 429 (`server`), or an error of the `network`, an ambiguous one only of a call
    that is `idempotent`?"""
    if is_unavailable(exc):
        return True
    if network and is_network_error(exc):
        return idempotent or not is_ambiguous(exc)
    status = status_error(exc) if server else None
    return status is not None and (status[0] >= 500 or status[0] == 429)


def build_retrying(
    *,
    retry_if: RetryIf,
    max_attempts: int,
    deadline: Deadline | None = None,
    budget: RetryBudget | None = None,
    min_wait: float = 0.0,
    max_wait: float = MAX_BACKOFF_SECONDS,
    max_delay_seconds: float = MAX_DELAY_SECONDS,
    clock: Clock = SYSTEM_CLOCK,
    uniform: Callable[[], float] = random.random,
) -> AsyncRetrying:
    """The tenacity object behind everything here. A delay that does not fit the deadline is not begun.

    `uniform` returns the jitter, in [0, 1]. Raises `ValueError` for less than one attempt, and for impossible waits.
    """
    if max_attempts < 1:
        raise ValueError("max_attempts must be at least 1")
    if not 0 <= min_wait <= max_wait < math.inf:
        raise ValueError("0 <= min_wait <= max_wait, in seconds")

    def wait(state: RetryCallState) -> float:
        backoff = min(max_wait, FIRST_DELAY_SECONDS * 2 ** (state.attempt_number - 1)) * uniform()
        return float(max(backoff, min_wait, _asked_delay(_error_of(state))))

    def stop(state: RetryCallState) -> bool:
        if state.attempt_number >= max_attempts or state.upcoming_sleep > max_delay_seconds:
            return True
        if deadline is not None and deadline.remaining() <= state.upcoming_sleep:
            return True
        return budget is not None and not budget.spend()

    return AsyncRetrying(
        retry=retry_if_exception(retry_if),
        wait=wait,
        stop=stop,
        sleep=clock.sleep,
        before_sleep=_tell,
        reraise=True,
    )


def _tell(state: RetryCallState) -> None:
    """tenacity's own line, with the error in words that may be logged: `before_sleep_log` writes its whole text."""
    logger = logging.getLogger(getattr(state.fn, "__module__", None) or __name__)
    name, seconds, words = state.get_fn_name(), state.upcoming_sleep, named(_error_of(state))
    logger.warning("Retrying %s in %.1f seconds as it raised %s.", name, seconds, words)


def _error_of(state: RetryCallState) -> BaseException:
    """Of the last attempt, which failed: nothing else is repeated."""
    return cast(BaseException, cast(Future, state.outcome).exception())


def _asked_delay(exc: BaseException) -> float:
    """Seconds the upstream asked for, 0 if it did not."""
    if isinstance(exc, Unavailable):
        return exc.retry_after or 0.0
    status = status_error(exc)
    return (status[1] if status else None) or 0.0


def _decorator(retry_if: RetryIf, max_attempts: int, min_wait: float, max_wait: float) -> Decorator[P, T]:
    retrying = build_retrying(
        retry_if=retry_if, max_attempts=max_attempts, min_wait=min_wait, max_wait=max_wait,
        max_delay_seconds=max(MAX_DELAY_SECONDS, max_wait),
    )  # fmt: skip

    def decorate(fn: Callable[P, Awaitable[T]]) -> AsyncFunction[P, T]:
        return cast(AsyncFunction[P, T], retrying.wraps(_plain(fn)))

    return decorate


def _plain(fn: Callable[P, Awaitable[T]]) -> AsyncFunction[P, T]:
    """`fn` as a coroutine function with a name: tenacity does not await what a lambda returns, and logs a partial
    with its arguments."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(*args, **kwargs)

    named: object = fn
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    functools.update_wrapper(call, fn, updated=())
    call.__module__, call.__qualname__ = named.__module__, named.__qualname__
    return call
