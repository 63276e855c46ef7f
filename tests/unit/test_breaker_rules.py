"""The decisions of a circuit: the rules themselves, and that the scripts decide the same for the fleet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.circuit_breaker.local import Observations
from app.core.circuit_breaker.rules import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    BreakerPolicy,
    Counts,
    Rule,
    State,
    Trip,
    View,
    is_outdated,
    judge,
    reopen_seconds,
    takes_over,
)
from app.core.circuit_breaker.wire import ACQUIRE, REPORT, SETTLE, Keys, micros, read_answer, report_rules

from .test_queue_model import MovedClock, server_time

POLICY = BreakerPolicy(
    5, 60.0, max_open_seconds=600.0, failure_rate=0.5, slow_call_seconds=1.0, slow_rate=0.8, minimum_calls=20, quorum=2
)
WELL = Counts(calls=100, failed=0, slow=0, callers=3, voters=0)


@pytest.mark.parametrize(
    ("counts", "in_a_row", "hold_seconds", "living", "trip"),
    [
        (WELL, 0, 0.0, 3, None),
        (WELL._replace(failed=4, voters=2), 4, 0.0, 3, None),
        (WELL._replace(failed=5, voters=2), 5, 0.0, 3, Trip(Rule.FAILURES, 60.0)),
        (WELL._replace(failed=50, voters=2), 1, 0.0, 3, Trip(Rule.FAILURE_RATE, 60.0)),
        (WELL._replace(failed=49, voters=2), 1, 0.0, 3, None),
        (WELL._replace(slow=80, voters=2), 0, 0.0, 3, Trip(Rule.SLOW_CALLS, 60.0)),
        (WELL._replace(slow=79, voters=2), 0, 0.0, 3, None),
        (Counts(19, 19, 19, callers=2, voters=2), 4, 0.0, 2, None),
        (Counts(20, 10, 16, callers=2, voters=2), 4, 0.0, 2, Trip(Rule.FAILURE_RATE, 60.0)),
        # The upstream's own word, whatever else is seen.
        (WELL, 0, 7.0, 3, Trip(Rule.DELAY, 7.0)),
        (WELL._replace(failed=5, voters=2), 5, 7.0, 3, Trip(Rule.DELAY, 7.0)),
        (WELL, 0, 6000.0, 3, Trip(Rule.DELAY, 600.0)),
        # The quorum: one alone decides only where it is alone.
        (Counts(9, 9, 0, callers=1, voters=1), 9, 0.0, 1, Trip(Rule.FAILURES, 60.0)),
        (Counts(9, 9, 0, callers=2, voters=1), 9, 0.0, 1, None),
        (Counts(9, 9, 0, callers=1, voters=1), 9, 0.0, 2, None),
        (Counts(9, 9, 0, callers=9, voters=2), 9, 0.0, 9, Trip(Rule.FAILURES, 60.0)),
    ],
)
def test_a_closed_circuit_opens_by_the_first_rule_that_says_so(
    counts: Counts, in_a_row: int, hold_seconds: float, living: int, trip: Trip | None
) -> None:
    assert judge(POLICY, counts, in_a_row=in_a_row, hold_seconds=hold_seconds, living=living) == trip


def test_a_rate_that_is_switched_off_opens_nothing() -> None:
    policy = replace(POLICY, failure_rate=None, slow_call_seconds=None)
    assert judge(policy, Counts(100, 100, 100, callers=2, voters=2), in_a_row=4) is None


def test_a_circuit_opens_for_longer_with_each_failed_probe_up_to_a_limit_or_for_what_the_upstream_asks() -> None:
    assert [reopen_seconds(POLICY, rounds) for rounds in (0, 1, 2, 3, 4, 99)] == [60, 120, 240, 480, 600, 600]
    assert reopen_seconds(POLICY, 99, jitter=0.2) == 720
    assert reopen_seconds(POLICY, 3, jitter=0.2, hold_seconds=7.0) == 7
    assert reopen_seconds(POLICY, 3, jitter=0.2, hold_seconds=7000.0) == 600


def fleet(state: State, epoch: int, *, life: int = 1, forced: bool = False, manual: bool = False) -> View:
    return View(state, epoch, life=life, local=False, forced=forced, manual=manual)


def own(state: State, epoch: int = 1, *, forced: bool = False) -> View:
    return View(state, epoch, life=1, forced=forced)


@pytest.mark.parametrize(
    ("told", "mine", "known", "taken"),
    [
        (fleet(OPEN, 2), fleet(CLOSED, 1), fleet(CLOSED, 1), True),
        (fleet(CLOSED, 2), fleet(OPEN, 1), fleet(OPEN, 1), True),
        (fleet(CLOSED, 2), fleet(CLOSED, 1), fleet(CLOSED, 1), True),  # what was counted before the change is void
        (fleet(CLOSED, 1), own(CLOSED), fleet(CLOSED, 1), False),
        (fleet(CLOSED, 1), own(CLOSED), View(CLOSED, 0, life=-1), False),
        (fleet(OPEN, 1), own(CLOSED), View(CLOSED, 0, life=-1), True),
        # What this replica has seen itself is worse.
        (fleet(CLOSED, 2), own(OPEN), fleet(CLOSED, 1), False),
        (fleet(HALF_OPEN, 2), own(OPEN), fleet(OPEN, 1), False),
        (fleet(OPEN, 2), own(HALF_OPEN), fleet(CLOSED, 1), True),
        (fleet(OPEN, 2), own(CLOSED, forced=True), fleet(CLOSED, 1), False),
        # But an operator's new decision counts everywhere.
        (fleet(CLOSED, 2, manual=True), own(OPEN), fleet(CLOSED, 1), True),
        (fleet(CLOSED, 2, manual=True), own(OPEN), fleet(CLOSED, 2, manual=True), False),
        (fleet(OPEN, 2, forced=True, manual=True), own(CLOSED, forced=True), fleet(CLOSED, 1), True),
    ],
)
def test_the_fleets_state_is_taken_over_unless_this_replica_knows_worse(
    told: View, mine: View, known: View, taken: bool
) -> None:
    assert takes_over(told, mine, known) is taken


def test_an_older_state_is_outdated_unless_it_answers_a_question_put_with_the_newest_in_hand() -> None:
    known = fleet(OPEN, 5)
    assert is_outdated(fleet(OPEN, 4), known, None)
    assert is_outdated(fleet(OPEN, 4), known, (1, 4))
    assert not is_outdated(fleet(CLOSED, 0, life=0), known, (1, 5)), "the server has lost its history"
    assert not is_outdated(known, known, None)
    assert not is_outdated(fleet(CLOSED, 1, life=2), known, None)


# -- the scripts decide the same

KEYS = Keys("t")
OPENS_BY_NOTHING = BreakerPolicy(10**6, 60.0)


class Scripts:
    """On a server whose clock stands still."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.clock = MovedClock()
        self.redis: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="valkey"))
        self.version = (0, 0)

    def _read(self, answer: list[Any]) -> tuple[list[int], View]:
        numbers, state = read_answer(answer, 0.0)
        self.version = state.version
        return numbers, state

    async def report(
        self, replica: str, numbers: tuple[int, int, int, int], policy: BreakerPolicy, hold_seconds: float, living: int
    ) -> tuple[bool, Counts, View]:
        rules = report_rules(policy)
        args = ["api", "c", *self.version, replica, *numbers, micros(hold_seconds), *rules, 0, 0, "", living]
        (changed, *counts), state = self._read(await REPORT(self.redis, KEYS.of_report("api"), args))
        return changed == 1, Counts(*counts), state

    async def failed_probe(self, jitter: float, hold_seconds: float) -> View:
        """As soon as the circuit is due."""
        self.clock.seconds += 1000
        lease = micros(self.policy.probe_lease_seconds)
        self._read(await ACQUIRE(self.redis, KEYS.of("api"), ["api", "c", "a", "l", lease, 1, 1]))
        args = [
            "api", "c", "a", "l", *self.version, "fail", micros(hold_seconds), micros(self.policy.open_seconds),
            micros(self.policy.max_open_seconds), jitter, 1, "",
        ]  # fmt: skip
        return self._read(await SETTLE(self.redis, KEYS.of("api"), args))[1]


POLICIES = st.builds(
    BreakerPolicy,
    failure_threshold=st.sampled_from([1, 3, 99, 99]),
    open_seconds=st.sampled_from([5.0, 60.0]),
    max_open_seconds=st.sampled_from([60.0, 600.0]),
    failure_rate=st.sampled_from([None, 0.5, 1.0]),
    slow_call_seconds=st.sampled_from([None, 1.0, 1.0]),
    slow_rate=st.sampled_from([0.5, 1.0]),
    minimum_calls=st.sampled_from([1, 4, 10]),
    quorum=st.integers(1, 3),
)


@st.composite
def reports(draw: st.DrawFn) -> tuple[str, tuple[int, int, int, int]]:
    calls = draw(st.sampled_from([1, 2, 4, 10]))
    parts = st.sampled_from([0, 0, calls // 2, calls])  # so that sums meet the rates exactly, again and again
    failed, slow = draw(parts), draw(parts)
    return draw(st.sampled_from("abc")), (calls, failed, slow, draw(st.integers(0, failed)))


@given(
    policy=POLICIES,
    told=st.lists(reports(), min_size=1, max_size=6),
    hold_seconds=st.sampled_from([0.0] * 8 + [7.0, 6000.0]),
    living=st.integers(0, 4),
)
@settings(max_examples=500)
def test_breaker_report_opens_the_fleets_circuit_if_and_only_if_judge_says_so(
    policy: BreakerPolicy, told: list[tuple[str, tuple[int, int, int, int]]], hold_seconds: float, living: int
) -> None:
    async def decide() -> tuple[bool, Counts, View]:
        for replica, numbers in told[:-1]:
            await scripts.report(replica, numbers, OPENS_BY_NOTHING, 0.0, living)
        return await scripts.report(*told[-1], policy, hold_seconds, living)

    scripts = Scripts(policy)
    with server_time(scripts.clock):
        changed, counts, state = asyncio.run(decide())
    trip = judge(policy, counts, in_a_row=state.failures, hold_seconds=hold_seconds, living=living)
    if trip is None:
        assert (changed, state.state) == (False, CLOSED)
    else:
        assert (changed, state.state, state.why) == (True, OPEN, trip.rule)
        assert state.left_seconds == pytest.approx(trip.seconds, abs=1e-5)


@given(policy=POLICIES, rounds=st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([0.0, 0.0, 9.0]))))
@settings(max_examples=50)
def test_breaker_settle_opens_it_again_for_as_long_as_reopen_seconds_says(
    policy: BreakerPolicy, rounds: list[tuple[float, float]]
) -> None:
    async def probe() -> None:
        await scripts.report("a", (1, 1, 0, 1), policy, 1.0, 1)
        failed = 0
        for jitter, hold_seconds in rounds:
            state = await scripts.failed_probe(jitter, hold_seconds)
            failed += 0 if hold_seconds else 1
            expected = reopen_seconds(policy, failed, hold_seconds=hold_seconds, jitter=jitter)
            assert (state.state, state.rounds) == (OPEN, failed)
            assert state.left_seconds == pytest.approx(expected, abs=1e-5)

    scripts = Scripts(policy)
    with server_time(scripts.clock):
        asyncio.run(probe())


# -- what one process counts for the rules


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 7.0, 40.0, 70.0]), st.sampled_from(["ok", "failed", "slow"]))))
@settings(max_examples=200)
def test_the_window_has_all_trouble_of_its_time_and_none_older_than_a_tenth_more(
    steps: list[tuple[float, str]],
) -> None:
    now, window = 1000.0, POLICY.window_seconds
    seen = Observations(POLICY, now)
    times: dict[str, list[float]] = {"ok": [], "failed": [], "slow": []}
    for gap, kind in steps:
        now += gap
        times[kind].append(now)
        if kind == "failed":
            seen.add_failure(now, now)
        else:
            seen.add_success(now, now)
            seen.slow += kind == "slow"
        if kind == "ok":
            continue
        counts = seen.counts(now)
        least, most = (
            {kind: sum(at > now - age for at in found) for kind, found in times.items()}
            for age in (window, 1.1 * window)
        )
        assert least["failed"] <= counts.failed <= most["failed"]
        assert least["slow"] <= counts.slow <= most["slow"]
        assert counts.failed + counts.slow <= counts.calls <= sum(map(len, times.values()))


def test_successes_before_trouble_are_taken_as_evenly_spread_over_the_time_without() -> None:
    seen = Observations(POLICY, 0.0)
    for _ in range(100):
        seen.add_success(50.0, 50.0)
    seen.add_failure(80.0, 80.0)
    assert seen.counts(80.0) == Counts(calls=76, failed=1, slow=0), "a quarter of these 80 s is out of the window"
    seen.add_failure(200.0, 200.0)
    assert seen.counts(200.0) == Counts(calls=1, failed=1, slow=0)
