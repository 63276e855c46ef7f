"""Retries: which failures are repeated, how long is waited, and what stops it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math

import httpx
import pytest
import tenacity

from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Unavailable
from app.core.http_client import AmbiguousFailure, ConnectFailed
from app.core.retry import (
    RetryBudget,
    build_retrying,
    execute_with_retry,
    is_retryable,
    retry_on_network_error,
    retry_on_server_error,
)
from tests.support.fakes import FakeClock


def status_error(status: int, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://example.test/")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status, headers=headers))


def lost_post() -> httpx.ReadError:
    return httpx.ReadError("x", request=httpx.Request("POST", "http://example.test/"))


class Flaky:
    """Fails with each of `errors` in turn, then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, *_args, **_kwargs):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    """The decorators' clock, held still."""
    clock = FakeClock()
    monkeypatch.setattr("app.core.clock.SystemClock.sleep", lambda _self, seconds: clock.sleep(seconds))
    return clock


NETWORK = [ConnectFailed(), httpx.ConnectError("x"), httpx.ReadTimeout("x"), ConnectionResetError(), TimeoutError()]
SERVER = [status_error(500), status_error(502), status_error(503), status_error(504), status_error(429)]
BOTH = [Unavailable("x")]
NEVER = [
    status_error(400), status_error(401), status_error(403), status_error(404), AmbiguousFailure(), lost_post(),
    CircuitBreakerOpenError("x", 1.0), DeadlineExceeded("x"), ValueError(), KeyError(),
]  # fmt: skip


@pytest.mark.parametrize(
    ("decorator", "repeated", "not_repeated"),
    [
        (retry_on_network_error, NETWORK + BOTH, SERVER + NEVER),
        (retry_on_server_error, SERVER + BOTH, NETWORK + NEVER),
    ],
    ids=["network", "server"],
)
async def test_each_decorator_repeats_its_own_kind_of_failure(clock, decorator, repeated, not_repeated):
    for error in repeated:
        flaky = Flaky(error, error)
        assert await decorator(max_attempts=3)(flaky)() == "done"
        assert flaky.calls == 3
    for error in not_repeated:
        flaky = Flaky(error)
        with pytest.raises(type(error)):
            await decorator(max_attempts=3)(flaky)()
        assert flaky.calls == 1


async def test_execute_with_retry_repeats_both_kinds_and_passes_arguments_on(clock):
    seen = []

    async def call(*args, **kwargs):
        seen.append((args, kwargs))
        if len(seen) < 3:
            raise [ConnectFailed(), status_error(503)][len(seen) - 1]
        return "done"

    assert await execute_with_retry(call, 1, param1="value", fn="also", max_attempts=3) == "done"
    assert seen == [((1,), {"param1": "value", "fn": "also"})] * 3
    assert not any(is_retryable(error) for error in NEVER)


async def test_the_last_error_is_raised_as_it_is(clock):
    errors = [ConnectFailed(str(n)) for n in range(3)]
    with pytest.raises(ConnectFailed) as caught:
        await execute_with_retry(Flaky(*errors), max_attempts=3)
    assert caught.value is errors[-1]


async def test_a_lost_post_is_repeated_only_if_declared_harmless(clock):
    flaky = Flaky(lost_post(), AmbiguousFailure())
    assert await retry_on_network_error(max_attempts=3, idempotent=True)(flaky)() == "done"


async def test_cancellation_is_neither_repeated_nor_swallowed(clock):
    flaky = Flaky(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await execute_with_retry(flaky)
    assert flaky.calls == 1


async def test_any_kind_of_callable_works_and_is_logged_by_its_plain_name(clock, caplog):
    """Among them a lambda, which tenacity alone would not await, and a partial, which it would log with arguments."""

    class Service:
        attempts = 0

        async def method(self, secret="s3cret"):
            self.attempts += 1
            if self.attempts % 2:
                raise Unavailable("x", "busy")
            return "done"

    service = Service()
    assert await execute_with_retry(service.method) == "done"
    assert await execute_with_retry(lambda: service.method("s3cret")) == "done"
    assert await execute_with_retry(functools.partial(service.method, "s3cret")) == "done"
    assert await execute_with_retry(Flaky(Unavailable("x"))) == "done"
    lines = [record.getMessage() for record in caplog.records]
    assert "Service.method in" in lines[0]
    assert "<lambda> in" in lines[1]
    assert "Service.method in" in lines[2]
    assert "Flaky in" in lines[3]
    assert "s3cret" not in caplog.text


async def test_a_decorated_function_keeps_its_name_and_tenacitys_handles(clock):
    @retry_on_network_error(max_attempts=3)
    async def fetch(x: int) -> int:
        """Doc."""
        raise ConnectFailed

    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Doc.")
    assert inspect.iscoroutinefunction(fetch)
    with pytest.raises(ConnectFailed):
        await fetch(1)
    assert fetch.statistics["attempt_number"] == 3
    with pytest.raises(ConnectFailed):
        await fetch.retry_with(stop=tenacity.stop_after_attempt(2))(1)


async def test_backoff_can_be_switched_off_in_a_test():
    @retry_on_network_error(max_attempts=3)
    async def fetch():
        raise ConnectFailed

    slept = []

    async def no_sleep(seconds):
        slept.append(seconds)

    fetch.retry.sleep = no_sleep
    with pytest.raises(ConnectFailed):
        await fetch()
    assert len(slept) == 2


def retrying(clock, **options):
    options = {"retry_if": is_retryable, "max_attempts": 10, "clock": clock, "uniform": lambda: 1.0} | options
    return build_retrying(**options)


async def test_delays_double_from_one_second_to_ten():
    clock = FakeClock()
    with pytest.raises(ConnectFailed):
        await retrying(clock, max_attempts=7)(Flaky(*[ConnectFailed()] * 9))
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


async def test_jitter_is_full():
    clock = FakeClock()
    with pytest.raises(ConnectFailed):
        await retrying(clock, max_attempts=3, uniform=lambda: 0.0)(Flaky(*[ConnectFailed()] * 3))
    assert clock.slept == [0.0, 0.0]


@pytest.mark.parametrize(("jitter", "slept"), [(0.0, [2.0] * 4), (1.0, [2.0, 2.0, 3.0, 3.0])])
async def test_waits_lie_between_what_the_caller_names(jitter, slept):
    clock = FakeClock()
    await retrying(clock, max_attempts=5, min_wait=2, max_wait=3, uniform=lambda: jitter)(Flaky(*[ConnectFailed()] * 4))
    assert clock.slept == slept


async def test_a_wait_the_caller_names_may_be_longer_than_an_upstreams():
    clock = FakeClock()
    retried = retry_on_network_error(max_attempts=2, min_wait=45, max_wait=60)(Flaky(ConnectFailed()))
    retried.retry.sleep = clock.sleep
    assert await retried() == "done"
    assert clock.slept == [45.0]


@pytest.mark.parametrize(("min_wait", "max_wait"), [(-1, 1), (2, 1), (0, math.inf), (math.nan, 1)])
async def test_waits_that_are_none_are_refused(min_wait, max_wait):
    with pytest.raises(ValueError, match="min_wait"):
        retry_on_network_error(min_wait=min_wait, max_wait=max_wait)


async def test_the_log_line_is_tenacitys(caplog):
    async def call_gemini():
        raise ConnectFailed("ConnectError")

    with pytest.raises(ConnectFailed):
        await retrying(FakeClock(), max_attempts=2)(call_gemini)
    record = caplog.records[0]
    assert record.levelno == logging.WARNING
    assert record.name == __name__, "the function's module tells it"
    assert record.getMessage().startswith("Retrying ")
    assert "call_gemini in 1.0 seconds as it raised ConnectFailed: ConnectError" in record.getMessage()


@pytest.mark.parametrize("error", [Unavailable("x", retry_after=7), status_error(503, {"retry-after": "7"})])
async def test_the_upstreams_own_delay_is_honoured(error):
    clock = FakeClock()
    assert await retrying(clock)(Flaky(error)) == "done"
    assert clock.slept == [7.0]


async def test_a_delay_too_long_to_wait_fails_at_once_with_the_real_delay():
    clock = FakeClock()
    with pytest.raises(Unavailable) as caught:
        await retrying(clock)(Flaky(Unavailable("x", retry_after=42)))
    assert caught.value.retry_after == 42
    assert clock.slept == []


async def test_a_delay_that_does_not_fit_the_deadline_is_not_begun():
    clock = FakeClock()
    deadline = Deadline.after(2.5, clock)
    flaky = Flaky(*[ConnectFailed()] * 5)
    with pytest.raises(ConnectFailed):
        await retrying(clock, deadline=deadline)(flaky)
    assert clock.slept == [1.0]
    assert flaky.calls == 2


async def test_the_budget_bounds_retries_in_proportion_to_successes():
    budget = RetryBudget(tokens=3, per_success=0.5)
    clock = FakeClock()
    flaky = Flaky(*[ConnectFailed()] * 20)
    with pytest.raises(ConnectFailed):
        await retrying(clock, budget=budget)(flaky)
    assert flaky.calls == 4
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_an_attempt_count_below_one_is_refused():
    with pytest.raises(ValueError, match="max_attempts"):
        retry_on_network_error(max_attempts=0)
