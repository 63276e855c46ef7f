"""The one composition every adapter uses: deadline, retry, breaker, bulkhead, attempt timeout, in this order."""

from __future__ import annotations

import asyncio

import pytest

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitBreakerOpenError, State
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Unavailable
from app.core.resilience import BulkheadFull, ResiliencePolicy
from app.core.slots import Slots
from tests.support.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock) -> CircuitBreaker:
    return CircuitBreaker("x", BreakerPolicy(3, 30.0), clock=clock)


@pytest.fixture
def make(clock, breaker):
    def make(**options):
        defaults = {"breaker": breaker, "attempt_timeout_seconds": 5.0, "max_attempts": 3, "slots": Slots(2)}
        return ResiliencePolicy("x", clock=clock, uniform=lambda: 1.0, **(defaults | options))

    return make


async def test_passing_trouble_is_retried_and_each_attempt_is_seen_by_the_breaker(make, breaker, clock):
    calls = []

    async def call(a, b):
        calls.append((a, b))
        if len(calls) < 3:
            raise Unavailable("x")
        return "done"

    assert await make().call(call, 1, 2, deadline=Deadline.after(60)) == "done"
    assert calls == [(1, 2)] * 3
    assert (breaker.tally.failed, breaker.tally.ok) == (2, 1)
    assert clock.slept == [1.0, 2.0]


async def test_with_no_time_left_nothing_is_tried(make):
    async def call():
        raise AssertionError

    with pytest.raises(DeadlineExceeded):
        await make().call(call, deadline=Deadline.after(0))


async def test_an_open_circuit_is_not_retried(make, breaker, clock):
    breaker.force_open(who="test", why="test")

    async def call():
        raise AssertionError

    with pytest.raises(CircuitBreakerOpenError):
        await make().call(call, deadline=Deadline.after(60))
    assert clock.slept == []


async def test_opening_during_a_call_ends_its_retries(make, breaker):
    calls = 0

    async def call():
        nonlocal calls
        calls += 1
        raise Unavailable("x")

    with pytest.raises(CircuitBreakerOpenError):
        await make(max_attempts=5).call(call, deadline=Deadline.after(60))
    assert calls == 3
    assert breaker.snapshot().state is State.OPEN


async def forever():
    await asyncio.get_running_loop().create_future()


async def test_an_attempt_that_hangs_is_cut_and_counts_as_a_failure(make, breaker):
    with pytest.raises(Unavailable, match=r"no answer within 0\.0 s"):
        await make(attempt_timeout_seconds=0.02, max_attempts=1).call(forever, deadline=Deadline.after(60))
    assert breaker.tally.failed == 1


async def test_too_little_time_left_is_not_the_dependencys_fault(make, breaker):
    with pytest.raises(DeadlineExceeded):
        await make().call(forever, deadline=Deadline.after(0.02))
    assert (breaker.tally.failed, breaker.tally.ignored) == (0, 1)


async def test_who_may_not_call_a_timeout_unavailable_says_what_it_is(make):
    class Ambiguous(Exception): ...

    policy = make(attempt_timeout_seconds=0.02, timed_out=Ambiguous)
    with pytest.raises(Ambiguous):
        await policy.call(forever, deadline=Deadline.after(60))


async def test_the_callers_own_timeout_error_is_not_mistaken_for_ours(make, breaker):
    async def call():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await make().call(call, deadline=Deadline.after(60))


async def test_calls_above_the_bulkhead_wait_their_turn_then_give_up_without_blame(make, breaker, clock):
    slots = Slots(1)
    policy = make(slots=slots, patience_seconds=0.02)
    release = asyncio.Event()

    async def unexpected():
        raise AssertionError("called although the bulkhead was full")

    holder = asyncio.create_task(policy.call(release.wait, deadline=Deadline.after(60)))
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFull):
        await policy.call(unexpected, deadline=Deadline.after(60))
    assert clock.slept == [], "it has waited already"
    assert breaker.tally.failed == 0
    patient = make(slots=slots, patience_seconds=60)

    async def quick():
        return "done"

    waiting = asyncio.create_task(patient.call(quick, deadline=Deadline.after(60)))
    await asyncio.sleep(0)
    release.set()
    assert await waiting == "done"
    await holder


async def test_cancelling_frees_the_slot_and_blames_nobody(make, breaker):
    policy = make(slots=Slots(1))
    for _ in range(3):
        task = asyncio.create_task(policy.call(forever, deadline=Deadline.after(60)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (breaker.tally.failed, breaker.tally.ignored) == (0, 3)

    async def quick():
        return "done"

    assert await policy.call(quick, deadline=Deadline.after(60)) == "done"


async def test_the_retry_budget_ends_retries_when_nothing_succeeds(make, clock):
    calls = 0

    async def call():
        nonlocal calls
        calls += 1
        raise Unavailable("x")

    policy = make(breaker=CircuitBreaker("x", BreakerPolicy(1000, 30.0), clock=clock))
    for _ in range(20):
        with pytest.raises(Unavailable):
            await policy.call(call, deadline=Deadline.after(60))
    assert calls == 20 + 10


async def test_a_success_earns_a_little_of_the_budget_back(make, clock):
    failing = True
    calls = 0

    async def call():
        nonlocal calls
        calls += 1
        if failing:
            raise Unavailable("x")

    policy = make(breaker=CircuitBreaker("x", BreakerPolicy(1000, 30.0), clock=clock))
    for _ in range(10):
        with pytest.raises(Unavailable):
            await policy.call(call, deadline=Deadline.after(60))
    failing = False
    for _ in range(11):
        await policy.call(call, deadline=Deadline.after(60))
    failing, calls = True, 0
    with pytest.raises(Unavailable):
        await policy.call(call, deadline=Deadline.after(60))
    assert calls == 2


async def test_a_retry_that_does_not_fit_the_deadline_is_not_begun(make, clock):
    async def call():
        raise Unavailable("x")

    with pytest.raises(Unavailable):
        await make().call(call, deadline=Deadline.after(1.5, clock))
    assert clock.slept == [1.0]


async def test_a_long_wait_belongs_to_the_queue(make, clock):
    async def call():
        raise Unavailable("x", retry_after=6)

    with pytest.raises(Unavailable) as caught:
        await make().call(call, deadline=Deadline.after(600))
    assert caught.value.retry_after == 6
    assert clock.slept == []


async def test_calls_under_way_are_silent_since_the_oldest_began_or_the_last_one_succeeded(make, clock):
    policy = make()
    assert policy.silent_seconds() == 0
    answer = asyncio.get_running_loop().create_future()

    async def waits():
        return await answer

    async def at_once():
        return "ok"

    waiting = asyncio.create_task(policy.call(waits, deadline=Deadline.after(60)))
    await asyncio.sleep(0)
    clock.advance(2)
    assert policy.silent_seconds() == 2
    await policy.call(at_once, deadline=Deadline.after(60))
    assert policy.silent_seconds() == 0
    clock.advance(1)
    assert policy.silent_seconds() == 1
    answer.set_result("ok")
    await waiting
    clock.advance(1)
    assert policy.silent_seconds() == 0, "no call is waited for"


async def test_a_look_goes_past_the_circuit_and_the_bulkhead_once(make, breaker):
    breaker.force_open(who="test", why="test")
    policy = make(slots=Slots(1), attempt_timeout_seconds=0.01)
    looks = 0

    async def fails():
        nonlocal looks
        looks += 1
        raise Unavailable("x")

    with pytest.raises(Unavailable):
        await policy.look(fails)
    assert looks == 1
    with pytest.raises(Unavailable, match="no answer within"):
        await policy.look(forever)
    assert breaker.tally.failed == 0
