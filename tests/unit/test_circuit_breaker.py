"""The circuit breaker: when it opens, whom it lets through, how it closes, and what it ignores."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace

import httpx
import pytest

from app.core.circuit_breaker import (
    CIRCUIT_BREAKERS,
    IGNORED,
    BreakerPolicy,
    CircuitBreaker,
    CircuitBreakerOpenError,
    State,
    Verdict,
    default_classify,
    whatsapp_account_breakers,
)
from app.core.errors import DeadlineExceeded, Unavailable
from app.core.http_client import ConnectFailed
from tests.support.fakes import FakeClock

POLICY = BreakerPolicy(failure_threshold=3, open_seconds=30.0, max_open_seconds=200.0, probe_lease_seconds=60.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock) -> CircuitBreaker:
    return CircuitBreaker("some_api", POLICY, dependency="some", clock=clock, uniform=lambda: 1.0)


async def ok(value="ok"):
    return value


async def fail(error=None):
    raise error or ConnectFailed("ConnectError")


async def failing(breaker, times=1, error=None):
    for _ in range(times):
        with pytest.raises(type(error or ConnectFailed())):
            await breaker.call_async(fail, error)


async def half_opened(breaker, clock):
    await failing(breaker, 3)
    clock.advance(30)


class Held:
    """A call that stays under way until told how to end."""

    def __init__(self, breaker):
        self.end = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(breaker.call_async(self._wait))

    async def _wait(self):
        return await self.end

    async def started(self):
        for _ in range(3):
            await asyncio.sleep(0)
        return self

    async def ends_with(self, outcome):
        self.end.set_exception(outcome) if isinstance(outcome, Exception) else self.end.set_result(outcome)
        await asyncio.wait([self.task])
        return self.task.exception() or self.task.result()


async def test_a_closed_circuit_passes_arguments_results_and_errors_through(breaker):
    async def echo(*args, **kwargs):
        return args, kwargs

    assert await breaker.call_async(echo, 1, fn=2, self=3, classify=4) == ((1,), {"fn": 2, "self": 3, "classify": 4})
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await breaker.call_async(fail, error)
    assert caught.value is error


async def test_failures_in_a_row_open_it_and_nothing_is_called_any_more(breaker):
    await failing(breaker, 3)
    called = False

    async def call():
        nonlocal called
        called = True

    with pytest.raises(CircuitBreakerOpenError) as caught:
        await breaker.call_async(call)
    assert not called
    assert isinstance(caught.value, Unavailable)
    assert (caught.value.dependency, caught.value.retry_after) == ("some", 30.0)
    assert breaker.snapshot()[:5] == ("some_api", State.OPEN, 3, 30.0, False)


async def test_a_success_in_between_starts_the_count_again(breaker):
    for _ in range(5):
        await failing(breaker, 2)
        await breaker.call_async(ok)
    assert breaker.snapshot().state is State.CLOSED
    assert breaker.snapshot().failure_count == 0


async def test_errors_that_are_the_requests_own_are_no_failures(breaker):
    for error in (ValueError(), KeyError(), DeadlineExceeded("x"), CircuitBreakerOpenError("inner", 1.0)):
        await failing(breaker, 5, error)
    assert breaker.snapshot()[:5] == ("some_api", State.CLOSED, 0, 0.0, False)


def status_error(status, **headers):
    request = httpx.Request("GET", "http://example.test/")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status, headers=headers))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Unavailable("x"), Verdict(failed=True)),
        (Unavailable("x", retry_after=7), Verdict(failed=True, hold_seconds=7)),
        (TimeoutError(), Verdict(failed=True)),
        (ConnectionResetError(), Verdict(failed=True)),
        (httpx.ReadTimeout("x"), Verdict(failed=True)),
        (httpx.ConnectError("x"), Verdict(failed=True)),
        (status_error(503), Verdict(failed=True)),
        (status_error(503, **{"retry-after": "9"}), Verdict(failed=True, hold_seconds=9)),
        (status_error(404), IGNORED),
        (DeadlineExceeded("x"), IGNORED),
        (CircuitBreakerOpenError("x", 1), IGNORED),
        (ValueError(), IGNORED),
    ],
)
def test_the_cautious_reading_of_errors(error, verdict):
    assert default_classify(error) == verdict


async def test_a_caller_may_bring_its_own_reading(breaker):
    for _ in range(3):
        with pytest.raises(KeyError):
            await breaker.run(lambda exc: Verdict(failed=isinstance(exc, KeyError)), fail, KeyError())
    assert breaker.snapshot().state is State.OPEN


async def test_nobody_is_asked_what_a_cancellation_means(breaker):
    async def cancelled():
        raise asyncio.CancelledError

    for _ in range(5):
        with pytest.raises(asyncio.CancelledError):
            await breaker.run(lambda _exc: Verdict(failed=True), cancelled)
    assert breaker.snapshot().failure_count == 0


async def test_a_reading_that_crashes_leaks_no_probe(breaker, clock):
    await half_opened(breaker, clock)

    def classify(_exc):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        await breaker.run(classify, fail)
    assert await breaker.call_async(ok) == "ok"


async def test_two_good_probes_close_it(breaker, clock):
    await half_opened(breaker, clock)
    assert await breaker.call_async(ok) == "ok"
    assert breaker.snapshot().state is State.HALF_OPEN
    await breaker.call_async(ok)
    assert breaker.snapshot()[:5] == ("some_api", State.CLOSED, 0, 0.0, False)


async def test_it_stays_open_for_all_of_its_time(breaker, clock):
    await failing(breaker, 3)
    clock.advance(29.9)
    with pytest.raises(CircuitBreakerOpenError):
        await breaker.call_async(ok)
    clock.advance(0.1)
    assert await breaker.call_async(ok) == "ok"


async def test_only_one_probe_at_a_time(breaker, clock):
    await half_opened(breaker, clock)
    probe = await Held(breaker).started()
    for _ in range(10):
        with pytest.raises(CircuitBreakerOpenError) as caught:
            await breaker.call_async(ok)
        assert caught.value.retry_after == 1.0
    assert await probe.ends_with("ok") == "ok"
    assert await breaker.call_async(ok) == "ok"


async def test_a_failed_probe_opens_it_again_longer_each_time_up_to_a_cap(breaker, clock):
    await half_opened(breaker, clock)
    durations = []
    for _ in range(4):
        await failing(breaker)
        durations.append(breaker.snapshot().retry_after)
        clock.advance(durations[-1])
    assert durations == [pytest.approx(60 * 1.2), pytest.approx(120 * 1.2), pytest.approx(200 * 1.2), 240]


async def test_a_failed_probe_undoes_the_good_ones_before_it(breaker, clock):
    await half_opened(breaker, clock)
    await breaker.call_async(ok)
    await failing(breaker)
    clock.advance(72)
    await breaker.call_async(ok)
    assert breaker.snapshot().state is State.HALF_OPEN


async def test_a_probe_of_an_earlier_round_takes_no_place_in_the_next(clock):
    policy = BreakerPolicy(failure_threshold=1, open_seconds=30.0, max_probes=2, probe_lease_seconds=1000.0)
    breaker = CircuitBreaker("x", policy, clock=clock)
    await failing(breaker)
    clock.advance(30)
    earlier = await Held(breaker).started()
    await failing(breaker)
    clock.advance(100)
    for held in [await Held(breaker).started() for _ in range(2)]:
        assert await held.ends_with("ok") == "ok"
    assert breaker.snapshot().state is State.CLOSED
    assert await earlier.ends_with("ok") == "ok"
    assert breaker.snapshot().state is State.CLOSED


async def test_closing_forgets_the_failed_rounds(breaker, clock):
    await half_opened(breaker, clock)
    await failing(breaker)
    clock.advance(72)
    await breaker.call_async(ok)
    await breaker.call_async(ok)
    await failing(breaker, 3)
    assert breaker.snapshot().retry_after == 30.0


async def test_a_cancelled_probe_returns_its_permit_and_is_no_failure(breaker, clock):
    await half_opened(breaker, clock)
    probe = await Held(breaker).started()
    probe.task.cancel()
    await asyncio.wait([probe.task])
    assert probe.task.cancelled()
    assert breaker.snapshot().state is State.HALF_OPEN
    assert await breaker.call_async(ok) == "ok"


async def test_a_probe_that_only_shows_a_bad_request_settles_nothing(breaker, clock):
    await half_opened(breaker, clock)
    for _ in range(5):
        await failing(breaker, error=ValueError())
    assert breaker.snapshot().state is State.HALF_OPEN
    await breaker.call_async(ok)
    await breaker.call_async(ok)
    assert breaker.snapshot().state is State.CLOSED


async def test_a_probe_that_never_ends_loses_its_permit_and_its_voice(breaker, clock):
    await half_opened(breaker, clock)
    lost = await Held(breaker).started()
    clock.advance(60)
    assert await breaker.call_async(ok) == "ok"
    assert isinstance(await lost.ends_with(ConnectFailed()), ConnectFailed)
    assert breaker.snapshot().state is State.HALF_OPEN
    await breaker.call_async(ok)
    assert breaker.snapshot().state is State.CLOSED


async def test_results_of_an_earlier_epoch_change_nothing(breaker, clock):
    early = [await Held(breaker).started() for _ in range(6)]
    await half_opened(breaker, clock)
    assert await early[0].ends_with("ok") == "ok"
    await early[1].ends_with(ConnectFailed())
    assert breaker.snapshot().state is State.OPEN
    await breaker.call_async(ok)
    await early[2].ends_with("ok")
    await early[3].ends_with(ConnectFailed())
    assert breaker.snapshot().state is State.HALF_OPEN
    await breaker.call_async(ok)
    await early[4].ends_with(ConnectFailed())
    await early[5].ends_with(ConnectFailed())
    assert breaker.snapshot()[:5] == ("some_api", State.CLOSED, 0, 0.0, False)
    assert breaker.tally.late == 6


async def test_a_delay_named_by_the_upstream_opens_it_for_that_long(breaker, clock):
    await failing(breaker, error=Unavailable("x", retry_after=42))
    assert breaker.snapshot().retry_after == 42
    clock.advance(42)
    await failing(breaker, error=Unavailable("x", retry_after=17))
    assert breaker.snapshot().retry_after == 17
    clock.advance(17)
    await failing(breaker, error=Unavailable("x", retry_after=100_000))
    assert breaker.snapshot().retry_after == POLICY.max_open_seconds


async def test_transitions_are_logged_with_the_words_operators_watch_for(breaker, clock, caplog):
    caplog.set_level(logging.INFO)
    await half_opened(breaker, clock)
    await breaker.call_async(ok)
    await breaker.call_async(ok)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Circuit breaker 'some_api': seuil d'échecs atteint (3/3), ouverture du circuit"),
        ("INFO", "Circuit breaker 'some_api': tentative de récupération (HALF_OPEN)"),
        ("INFO", "Circuit breaker 'some_api': récupération réussie (CLOSED)"),
    ]
    assert (caplog.records[0].epoch, caplog.records[0].open_seconds) == (1, 30.0)


async def test_forced_states_hold_until_reset(breaker, clock):
    breaker.force_open(who="anna", why="maintenance")
    clock.advance(1e6)
    with pytest.raises(CircuitBreakerOpenError) as caught:
        await breaker.call_async(ok)
    assert caught.value.retry_after == 30.0
    assert breaker.snapshot().forced
    breaker.force_closed(who="anna", why="we know better")
    await failing(breaker, 20)
    assert breaker.snapshot().state is State.CLOSED
    breaker.reset()
    assert breaker.snapshot()[:5] == ("some_api", State.CLOSED, 0, 0.0, False)
    await failing(breaker, 3)
    assert breaker.snapshot().state is State.OPEN


async def test_every_rejection_is_a_new_exception(breaker):
    """One object raised again and again grows a traceback with every raise."""
    await failing(breaker, 3)
    caught = []
    for _ in range(2):
        with pytest.raises(CircuitBreakerOpenError) as info:
            await breaker.call_async(ok)
        caught.append(info.value)
    assert caught[0] is not caught[1]


async def test_a_call_that_is_closed_halfway_counts_for_nothing(breaker, clock):
    await half_opened(breaker, clock)

    async def forever():
        await asyncio.get_running_loop().create_future()

    call = breaker.call_async(forever)
    call.send(None)
    call.close()
    gc.collect()
    assert await breaker.call_async(ok) == "ok"


def test_the_services_own_circuits_have_the_documented_policies():
    found = {
        breaker.name: (breaker.policy.failure_threshold, breaker.policy.open_seconds, breaker.policy.success_threshold)
        for breaker in CIRCUIT_BREAKERS.values()
    }
    assert found == {"gemini_api": (5, 60, 2), "whatsapp_api": (3, 30, 2), "supabase": (5, 5, 1)}
    assert whatsapp_account_breakers.name == "whatsapp_api"


async def test_calls_that_hang_while_younger_ones_succeed_are_not_failures_in_a_row(clock):
    breaker = CircuitBreaker("some_api", replace(POLICY, slow_call_seconds=12.0), clock=clock)
    hung = [await Held(breaker).started() for _ in range(10)]
    clock.advance(14)
    await breaker.call_async(ok)
    clock.advance(1)
    for call in hung:
        await call.ends_with(ConnectFailed("ReadTimeout"))
    assert breaker.snapshot().state is State.CLOSED
    assert breaker.snapshot().failure_count == 0
    assert breaker.tally.failed == 10, "a rate counts them all the same"
    await failing(breaker, 3)
    assert breaker.snapshot().state is State.OPEN


async def test_why_names_the_rule_and_the_last_failure_in_words(breaker):
    await failing(breaker, 2, Unavailable("some", "some: HTTP 503 UNAVAILABLE"))
    assert (breaker.snapshot().why, breaker.snapshot().last_failure) == ("", "HTTP 503 UNAVAILABLE")
    await failing(breaker, 1, Unavailable("some", "some: HTTP 400 API_KEY_INVALID"))
    assert breaker.snapshot().why == "failures: HTTP 400 API_KEY_INVALID"
    assert breaker.snapshot().last_failure == "HTTP 400 API_KEY_INVALID"


async def test_why_names_the_failure_of_a_probe_and_of_a_delay_the_upstream_asked_for(breaker, clock):
    await failing(breaker, 1, Unavailable("some", "some: HTTP 429 RESOURCE_EXHAUSTED", retry_after=30.0))
    assert breaker.snapshot().why == "delay: HTTP 429 RESOURCE_EXHAUSTED"
    clock.advance(30)
    await failing(breaker, 1, Unavailable("some", "some: HTTP 403 SERVICE_DISABLED"))
    assert breaker.snapshot().why == "probe failed: HTTP 403 SERVICE_DISABLED"


async def test_a_request_that_was_bad_itself_is_no_last_failure(breaker):
    await failing(breaker, 3, ValueError("mine"))
    assert (breaker.snapshot().last_failure, breaker.snapshot().last_failure_seconds) == ("", None)


async def test_the_words_are_one_short_line_without_secrets_or_numbers(breaker):
    told = "Bearer abcdef for +4915112345678\n" + "x" * 1000
    await failing(breaker, 1, Unavailable("some", told))
    words = breaker.snapshot().last_failure
    assert words.startswith("Bearer [redacted] for [redacted] x")
    assert len(words) == 200


async def test_the_line_of_a_trip_carries_the_failure_behind_it(breaker, caplog):
    await failing(breaker, 3, Unavailable("some", "some: HTTP 400 API_KEY_INVALID"))
    (line,) = [line for line in caplog.records if "ouverture du circuit" in line.getMessage()]
    assert line.getMessage() == "Circuit breaker 'some_api': seuil d'échecs atteint (3/3), ouverture du circuit"
    assert line.why == "failures: HTTP 400 API_KEY_INVALID"


class ReportsLater:
    """A fleet that is reached, and has not answered a report yet."""

    up, share = True, 1.0

    def report(self, breaker: CircuitBreaker) -> None:
        """Under way."""


async def test_a_trip_that_a_late_delay_makes_longer_while_its_report_is_under_way_is_told_once(breaker, caplog):
    breaker.attach(ReportsLater())
    late = await Held(breaker).started()
    await failing(breaker, 3)
    await late.ends_with(Unavailable("some", retry_after=100))
    assert breaker.snapshot().retry_after == 100
    assert caplog.records == [], "the fleet may trip with it, and then has the line"
    for _ in range(2):
        breaker.announce()
    (line,) = caplog.records
    assert (line.scope, line.failures, line.getMessage()) == (
        "replica", 3, "Circuit breaker 'some_api': seuil d'échecs atteint (3/3), ouverture du circuit",
    )  # fmt: skip
    assert line.open_seconds == breaker.view.left_seconds == 100
