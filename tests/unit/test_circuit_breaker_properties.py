"""Any sequence of calls, outcomes, cancellations and passing time keeps the breaker's promises.

Calls are coroutines driven by hand, so that every interleaving is possible and nothing depends on an event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitBreakerOpenError, State
from app.core.errors import Unavailable
from tests.support.fakes import FakeClock

BASE, CAP, LEASE = 30.0, 100.0, 150.0


class Pause:
    def __await__(self):
        return (yield)


@dataclass(eq=False)
class Call:
    coroutine: Any
    epoch: int
    probe: bool
    began: float


class Breaker(RuleBasedStateMachine):
    @initialize(threshold=st.integers(1, 4), successes=st.integers(1, 3), probes=st.integers(1, 2))
    def build(self, threshold, successes, probes):
        self.policy = BreakerPolicy(
            failure_threshold=threshold, open_seconds=BASE, max_open_seconds=CAP, success_threshold=successes,
            max_probes=probes, probe_lease_seconds=LEASE,
        )  # fmt: skip
        self.clock = FakeClock()
        self.jitter = 0.0
        self.breaker = CircuitBreaker("x", self.policy, clock=self.clock, uniform=lambda: self.jitter)
        self.calls: list[Call] = []
        self.in_a_row = self.good_probes = 0
        self.seen = self.view

    @property
    def view(self):
        return self.breaker.view

    def live_probes(self):
        now = self.clock.monotonic()
        return [c for c in self.calls if c.probe and c.epoch == self.view.epoch and now < c.began + LEASE]

    @rule()
    def call(self):
        before, now = self.view, self.clock.monotonic()
        due = before.state is State.OPEN and now >= before.until
        good = 0 if due else self.good_probes
        live = 0 if due else len(self.live_probes())
        room = live < self.policy.max_probes and live + good < self.policy.success_threshold
        admitted = before.state is State.CLOSED or (due and room) or (before.state is State.HALF_OPEN and room)

        async def work():
            outcome = await Pause()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        coroutine = self.breaker.call_async(work)
        if not admitted:
            with pytest.raises(CircuitBreakerOpenError):
                coroutine.send(None)
            return
        coroutine.send(None)
        if due:
            assert self.view.state is State.HALF_OPEN
            self.good_probes = 0
        self.calls.append(Call(coroutine, self.view.epoch, self.view.state is State.HALF_OPEN, now))

    def settle(self, data, outcome):
        """End one call, and tell whether its outcome still means something."""
        call = data.draw(st.sampled_from(self.calls))
        timely = call.epoch == self.view.epoch and (not call.probe or call in self.live_probes())
        self.calls.remove(call)
        with pytest.raises(type(outcome) if isinstance(outcome, Exception) else StopIteration) as caught:
            call.coroutine.send(outcome)
        assert outcome in (caught.value, getattr(caught.value, "value", None))
        return call, timely

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def succeed(self, data):
        before = self.view
        call, timely = self.settle(data, "ok")
        if not timely:
            assert self.view is before
        elif call.probe:
            self.good_probes += 1
            closed = self.good_probes >= self.policy.success_threshold
            assert self.view.state is (State.CLOSED if closed else State.HALF_OPEN)
            self.in_a_row = 0 if closed else self.in_a_row
        else:
            self.in_a_row = 0
            assert self.view is before

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), hold=st.none() | st.floats(0.5, 500), jitter=st.floats(0, 1))
    def fail(self, data, hold, jitter):
        before, self.jitter = self.view, jitter
        call, timely = self.settle(data, Unavailable("x", retry_after=hold))
        if not timely:
            # It still tells how long the upstream wants to be left alone.
            longer = bool(hold) and before.state is State.OPEN and not before.forced
            assert self.view is before or (longer and self.view.until > before.until)
            return
        self.in_a_row += 1
        trips = call.probe or bool(hold) or self.in_a_row >= self.policy.failure_threshold
        if before.forced or not trips:
            assert self.view is before
            return
        assert self.view.state is State.OPEN
        lasts = self.view.until - self.clock.monotonic()
        if hold:
            assert abs(lasts - min(hold, CAP)) < 1e-6
        elif call.probe:
            assert BASE - 1e-6 <= lasts <= CAP * 1.2 + 1e-6
        else:
            assert abs(lasts - BASE) < 1e-6

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def bad_request(self, data):
        before = self.view
        self.settle(data, ValueError())
        assert self.view is before

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data):
        before, failures = self.view, self.breaker.snapshot().failure_count
        call = data.draw(st.sampled_from(self.calls))
        self.calls.remove(call)
        call.coroutine.close()
        assert self.view is before
        assert self.breaker.snapshot().failure_count == failures

    @rule(seconds=st.floats(0.1, 40) | st.sampled_from([BASE, 2 * BASE * 1.2, CAP * 1.2, LEASE]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(way=st.sampled_from(["open", "closed", "reset"]))
    def force(self, way):
        if way == "reset":
            self.breaker.reset()
            self.in_a_row = 0
        else:
            getattr(self.breaker, f"force_{way}")(who="operator", why="test")

    @invariant()
    def epochs_only_grow_and_every_change_is_one_of_the_allowed(self):
        if not hasattr(self, "seen"):
            return
        before, after = self.seen, self.view
        assert after.epoch >= before.epoch
        if after.epoch == before.epoch:
            assert after._replace(until=before.until) == before
            assert after.until >= before.until
        elif after.epoch == before.epoch + 1 and not (after.forced or before.forced):
            assert (before.state, after.state) != (State.CLOSED, State.HALF_OPEN)
        if after.epoch != before.epoch:
            self.good_probes = 0
        self.seen = after

    @invariant()
    def leases_stay_within_bounds(self):
        if hasattr(self, "breaker"):
            assert len(self.live_probes()) <= self.policy.max_probes

    def teardown(self):
        """However it ended, after all limits have passed one more call is let through."""
        if not hasattr(self, "breaker"):
            return
        self.clock.advance(CAP * 1.2 + LEASE + 1)
        if not self.view.forced:
            before = len(self.calls)
            self.call()
            assert len(self.calls) == before + 1
        for call in self.calls:
            call.coroutine.close()


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=50)
