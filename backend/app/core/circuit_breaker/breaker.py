"""One dependency's circuit: who is let through, what an outcome does, and every change of its state.

`view` is what admission looks at, `fleet_view` the last known state of the fleet. They differ while this replica
alone has reason to stay away, and while Redis is away.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from prometheus_client import Histogram

from app.core.circuit_breaker import rules, transition_log
from app.core.circuit_breaker.local import Delta, Observations, Permits, Rejoining, Tally
from app.core.circuit_breaker.outcomes import IGNORED, OK, CircuitBreakerOpenError, Classify, Verdict, default_classify
from app.core.circuit_breaker.rules import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    UNKNOWN,
    BreakerPolicy,
    Counts,
    Rule,
    Snapshot,
    Trip,
    View,
)
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import in_words
from app.core.loop_watch import stalled_since
from app.core.metrics import SLOW_SECONDS

T = TypeVar("T")

PROBE_SHARE = 0.9
"""Of the lease, which a probe may use: its result must arrive before the lease runs out."""
STALL_SHARE = 0.25
"""Of the time of a call: if the own event loop stood still for so much of it, its failure tells nothing."""
UNTIL_TOLERANCE_SECONDS = 0.05
"""The fleet's remaining time is read a little differently each time, by the time the answer travelled."""
PROBE_SECONDS = Histogram("chorus_circuit_breaker_probe_seconds", "Duration of probes", ["name"], buckets=SLOW_SECONDS)


class FleetLease(NamedTuple):
    """A probe's permit from the fleet, and the epoch it belongs to."""

    id: str
    life: int
    epoch: int


class Fleet(Protocol):
    """What a circuit asks of `fleet.BreakerFleet`, which says what each of these does."""

    up: bool

    @property
    def share(self) -> float: ...

    def report(self, breaker: CircuitBreaker) -> None: ...

    async def acquire(self, breaker: CircuitBreaker) -> FleetLease | None: ...

    def settle(self, breaker: CircuitBreaker, lease: FleetLease, verdict: Verdict) -> asyncio.Future[bool | None]: ...

    async def prove(self, breaker: CircuitBreaker) -> None: ...


class CircuitBreaker:
    """One dependency's circuit. `uniform` returns the jitter, in [0, 1]."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        *,
        dependency: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
        tally: Tally | None = None,
        metric_name: str | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.dependency = dependency or name
        self.tally = tally or Tally()
        self.fleet: Fleet | None = None
        self.metric_name = metric_name or name
        self._monotonic = time.monotonic if clock is SYSTEM_CLOCK else clock.monotonic
        self._uniform = uniform
        self._slow_after = policy.slow_call_seconds or 0.0
        self.view = self.fleet_view = UNKNOWN
        self.seen = Observations(policy, self._monotonic())
        self._permits = Permits(policy)
        self._next_probe_at = 0.0
        self._rejoining = Rejoining(policy)
        self._unannounced: Counts | None = None

    # -- calls

    async def call_async(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`await fn(*args, **kwargs)` and learn from its outcome. Raises `CircuitBreakerOpenError` instead if open."""
        view = self.view
        if view.state is OPEN and self._monotonic() < view.until:
            raise self._rejection()  # as in `run`, without the price of another coroutine
        return await self.run(default_classify, fn, *args, **kwargs)

    def call(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """`call_async` for a function that is none: for scripts, since it blocks the event loop it is called on. A
        probe needs the fleet's permission, which only a coroutine can wait for: until one has closed the fleet's
        circuit, this raises `CircuitBreakerOpenError`."""
        if self.view.state is not CLOSED and self._joined():
            raise self._rejection()

        async def at_once() -> T:
            return fn(*args, **kwargs)

        calling = self.run(default_classify, at_once)
        try:
            calling.send(None)
        except StopIteration as returned:
            return cast(T, returned.value)
        finally:
            calling.close()
        raise AssertionError("nothing here waits")

    async def run(self, classify: Classify, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`call_async` with the caller's own reading of exceptions. Cancellation is always ignored."""
        view = self.view
        if view.state is not CLOSED:
            if view.state is OPEN and self._monotonic() < view.until:
                raise self._rejection()
            return await self._run_probe(classify, fn, args, kwargs)
        started = self._monotonic() if self._slow_after else 0.0
        try:
            result = await fn(*args, **kwargs)
        except BaseException as exc:
            verdict = IGNORED
            try:
                if isinstance(exc, Exception):
                    verdict = self._read(classify, exc, started)
            finally:
                self._record_error(view, verdict, started)
            raise
        if view is not self.view:
            self.tally.late += 1
            return result
        self.tally.ok += 1
        ended = self._monotonic()
        self.seen.add_success(ended, started)
        if started and ended - started > self._slow_after and not self._stood_still(started):
            self.seen.slow += 1
            self.tally.slow += 1
            if not view.forced:
                self._judge(0.0)
        return result

    def check(self) -> None:
        """Raise `CircuitBreakerOpenError` if a call would certainly be refused now."""
        if self.blocked_seconds():
            raise self._rejection()

    def _rejection(self) -> CircuitBreakerOpenError:
        self.tally.rejected += 1
        return CircuitBreakerOpenError(self.dependency, self.retry_after(), self.view.why)

    # -- outcomes while closed

    def _read(self, classify: Classify, exc: Exception, started: float) -> Verdict:
        """The classifier's verdict; a failure is remembered in words, because people will ask what it was. One that our
        own stall may have caused is ignored, unless the upstream named a delay: that is its own word."""
        verdict = classify(exc)
        if verdict.failed and not verdict.hold_seconds and started and self._stood_still(started):
            return IGNORED
        if verdict.failed:
            cause = in_words(exc)
            if verdict.named_seconds > verdict.hold_seconds:
                cause = rules.with_return(cause, verdict.named_seconds)
            verdict = verdict._replace(cause=cause)
            self.seen.remember(cause, self._monotonic())
        return verdict

    def _stood_still(self, started: float) -> bool:
        stalled = stalled_since(started)
        return stalled > 0 and stalled >= STALL_SHARE * (self._monotonic() - started)

    def _record_error(self, view: View, verdict: Verdict, started: float) -> None:
        if view is not self.view:
            self.tally.late += 1
            if verdict.hold_seconds > 0:
                self._extend(verdict.hold_seconds)
        elif not verdict.failed:
            self.tally.ignored += 1
        else:
            self.tally.failed += 1
            self.seen.add_failure(self._monotonic(), started)
            if not view.forced:
                self._judge(verdict.hold_seconds)

    def _judge(self, hold_seconds: float) -> None:
        """After trouble in a closed circuit: open it if a rule says so, and tell the fleet."""
        counts = self.seen.counts(self._monotonic())
        trip = rules.judge(self.policy, counts, in_a_row=self.seen.in_a_row, hold_seconds=hold_seconds)
        if trip is not None:
            self._trip(trip, counts)
        self._report(hold_seconds)

    def _report(self, hold_seconds: float) -> None:
        self.seen.hold(hold_seconds)
        if self.fleet is not None:
            self.fleet.report(self)

    # -- probes

    async def _run_probe(
        self, classify: Classify, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        lease = await self._admit()
        if lease is None:
            return await self.run(classify, fn, *args, **kwargs)
        view, started = self.view, self._monotonic()
        seconds = self.policy.probe_lease_seconds * PROBE_SHARE
        try:
            async with asyncio.timeout(seconds) if isinstance(lease, FleetLease) else nullcontext():
                result = await fn(*args, **kwargs)
        except Exception as exc:
            verdict = IGNORED
            try:
                verdict = self._read(classify, exc, started)
            finally:
                await self._settle(view, lease, verdict)
            raise
        except BaseException:  # cancelled, or closed halfway: nothing may be awaited any more
            self._abandon(view, lease)
            raise
        finally:
            PROBE_SECONDS.labels(self.metric_name).observe(self._monotonic() - started)
        await self._settle(view, lease, OK)
        return result

    async def _admit(self) -> object | None:
        """A probe's lease; `None`: the circuit has closed meanwhile. Raises `CircuitBreakerOpenError`."""
        if fleet := self._joined():
            if self.view.local and self.fleet_view.state is not CLOSED:
                self._set(self.fleet_view)
            if not self.view.local:
                self._refuse_until_due()
                lease = await fleet.acquire(self)
                if lease is not None or self.view.state is CLOSED:
                    return lease
                if self._joined():
                    raise self._rejection()
        return self._acquire()

    def _acquire(self) -> object:
        """A lease of this process's own. Raises `CircuitBreakerOpenError` if there is none."""
        self._refuse_until_due()
        if self.fleet is not None and not self.fleet.up and self._uniform() >= self.fleet.share:
            # Redis hands out no permits: each replica takes its share of the probes, so that all make about one.
            self.put_off(self.policy.probe_wait_seconds)
            raise self._rejection()
        if self.view.state is OPEN:
            self._start_probing()
        lease = self._permits.acquire(self._monotonic())
        if lease is None:
            raise self._rejection()
        return lease

    def _refuse_until_due(self) -> None:
        if self._monotonic() < max(self.view.until, self._next_probe_at):
            raise self._rejection()

    def put_off(self, seconds: float) -> None:
        """No probe for so long, unless the state changes; 0: now, if it is due."""
        self._next_probe_at = self._monotonic() + seconds

    async def _settle(self, view: View, lease: object, verdict: Verdict) -> None:
        counted = None
        if isinstance(lease, FleetLease) and self.fleet is not None:
            counted = await asyncio.shield(self.fleet.settle(self, lease, verdict))
        self._finish(view, lease, verdict, counted=counted)

    def _abandon(self, view: View, lease: object) -> None:
        if isinstance(lease, FleetLease) and self.fleet is not None:
            with suppress(RuntimeError):
                self.fleet.settle(self, lease, IGNORED)
        self._finish(view, lease, IGNORED, counted=isinstance(lease, FleetLease) or None)

    def _finish(self, view: View, lease: object, verdict: Verdict, *, counted: bool | None) -> None:
        """`counted`: did the fleet take the outcome? `None`: it was not reached, so this process decides."""
        is_ours = counted is None and view is self.view
        if is_ours and not isinstance(lease, FleetLease):
            is_ours = self._permits.give_back(lease, self._monotonic())
        self.tally.add(verdict.outcome if counted or is_ours else "late")
        if is_ours and verdict.failed:
            self.seen.in_a_row += 1
            self._reopen(verdict)
        elif is_ours and verdict.ok:
            self._permits.good += 1
            if self._permits.good >= self.policy.success_threshold:
                self._close()

    # -- transitions: closed -> open -> half open -> closed | open

    def _trip(self, trip: Trip, counts: Counts) -> None:
        """Closed -> open."""
        self._rejoining.tripped(self._monotonic())
        why = rules.because(trip.rule, "" if trip.rule is Rule.SLOW_CALLS else self.seen.cause)
        self._open(trip.seconds, why=why, failures=self.seen.in_a_row)
        self._unannounced = counts
        if not self._joined():
            self.announce()

    def _extend(self, hold_seconds: float) -> None:
        """Open -> open for longer: a late answer still tells how long the upstream wants to be left alone."""
        seconds = min(hold_seconds, self.policy.max_open_seconds)
        until = self._monotonic() + seconds
        if self.view.state is OPEN and until > self.view.until:
            self.view = self.view._replace(until=until, left_seconds=seconds)
            self._report(hold_seconds)

    def _start_probing(self) -> None:
        """Open -> half open."""
        self._enter(View(HALF_OPEN, failures=self.view.failures, rounds=self.view.rounds))
        transition_log.half_opened(self.name, self.view)

    def _reopen(self, verdict: Verdict) -> None:
        """Half open -> open, for longer each time. Where the fleet's circuit is closed, always for one base period:
        this replica alone is in trouble."""
        rounds, growth, jitter = self.view.rounds, 0, 0.0
        if not (verdict.hold_seconds or self._joined()):
            growth = rounds = rounds + 1
            jitter = self.policy.jitter * self._uniform()
        seconds = rules.reopen_seconds(self.policy, growth, hold_seconds=verdict.hold_seconds, jitter=jitter)
        why = rules.because("probe failed", verdict.cause)
        self._open(seconds, why=why, failures=self._failure_count, rounds=rounds)
        transition_log.reopened(self.name, self.view)

    def _close(self) -> None:
        """Half open -> closed."""
        self._enter(View(CLOSED))
        transition_log.closed(self.name, self.view)

    def _rejoin(self) -> None:
        """Open or half open, as the only one of the fleet -> what the fleet's circuit is, closed."""
        self._set(self.fleet_view)
        self.seen.forget()
        transition_log.closed(self.name, self.view, scope="replica")

    def force_open(self, *, who: str, why: str) -> None:
        """Refuse every call until `reset()`. This process only; `BreakerFleet.force` is for all."""
        self._enter(View(OPEN, until=math.inf, forced=True, why=why, who=who))
        transition_log.forced(self.name, self.view)

    def force_closed(self, *, who: str, why: str) -> None:
        """Let every call through, whatever fails, until `reset()`. This process only, as above."""
        self._enter(View(CLOSED, forced=True, why=why, who=who))
        transition_log.forced(self.name, self.view)

    def reset(self) -> None:
        """Closed, nothing counted, nothing forced. Calls under way become late. This process only, as above."""
        self._enter(View(CLOSED))

    def _open(self, seconds: float, *, why: str, failures: int, rounds: int = 0) -> None:
        until = self._monotonic() + seconds
        self._enter(View(OPEN, until=until, left_seconds=seconds, why=why, failures=failures, rounds=rounds))

    def _enter(self, view: View) -> None:
        """A state of this process's own making."""
        if view.state is CLOSED:
            self.fleet_view = self.fleet_view._replace(failures=0)
        self._set(view._replace(epoch=self.view.epoch + 1, life=self.fleet_view.life, local=True))

    def _set(self, view: View) -> None:
        """Every change of state ends here. What was granted or counted in the old one is void."""
        if view.state is not self.view.state:
            self.tally.transitions[view.state] += 1
        self.view = view
        self._next_probe_at = 0.0
        self._unannounced = None
        self._permits.restart()
        if view.state is CLOSED:
            self.seen.restart(self._monotonic())

    # -- what is seen past the circuit

    async def seen_well(self) -> None:
        """A look past this circuit found the dependency well. An open circuit waits no longer: it is half open, for the
        whole fleet. Where this replica alone stayed away it is closed, as it is for the others."""
        if self.view.state is CLOSED or self.view.forced:
            return
        if self.is_cut_off:
            if self._rejoining.believes(self._monotonic()):
                self._rejoin()
        elif self.view.state is HALF_OPEN:
            return
        elif fleet := self._joined():
            if self.view.local:
                self._set(self.fleet_view)
            await fleet.prove(self)
        else:
            self._start_probing()

    def seen_ill(self, cause: str, started: float) -> None:
        """A look past this circuit that began at `started` found the dependency out of reach, and earlier ones did too,
        or calls hang meanwhile: that says as much as a row of failures."""
        view = self.view
        if view.state is not CLOSED or view.forced or self._stood_still(started):
            return
        now = self._monotonic()
        self.seen.remember(cause, now)
        while self.seen.in_a_row < self.policy.failure_threshold:
            self.tally.failed += 1
            self.seen.add_failure(now, now)
        self._judge(0.0)

    # -- the fleet

    def _joined(self) -> Fleet | None:
        """The fleet, while this circuit follows it."""
        return self.fleet if self.fleet is not None and self.fleet.up else None

    @property
    def is_cut_off(self) -> bool:
        """Does this replica alone stay away, from something that is well for the fleet?"""
        view = self.view
        is_away = view.local and view.state is not CLOSED and not view.forced
        return is_away and self._joined() is not None and self.fleet_view.state is CLOSED

    def attach(self, fleet: Fleet | None) -> None:
        """Join the fleet, or with `None` leave it: the state stays, as this process's own."""
        self.fleet = fleet
        self.fleet_view = UNKNOWN
        if fleet is None and not self.view.local:
            self.view = self.view._replace(local=True)
        self.seen.forget()

    def learn(self, told: View, *, asked: tuple[int, int] | None) -> bool:
        """The fleet's state: a message (`asked` is `None`), or the answer to a question put when the known version was
        `asked`. Returns whether this circuit has changed with it."""
        mine, known = self.view, self.fleet_view
        if rules.is_outdated(told, known, asked):
            return False
        self.fleet_view = told
        news = told.version != known.version
        if not news and not mine.local:
            if told.state is OPEN and told.until > mine.until + UNTIL_TOLERANCE_SECONDS:
                self.view = told  # open -> open for longer: another replica was told so
            return False
        if not rules.takes_over(told, mine, known):
            return False
        self._set(self.fleet_view)
        self.seen.forget()
        return news

    def delta(self, *, successes: bool) -> Delta | None:
        """Take what the fleet does not know yet; `None` if there is nothing to tell. Trouble always is; successes
        alone only if asked for. A fleet whose circuit is not closed is told of delays only."""
        fleet = self.fleet_view
        if fleet.state is OPEN:
            self.seen.forget_calls()
        elif fleet.state is HALF_OPEN or fleet.forced:
            self.seen.forget()
        return self.seen.delta(self._monotonic(), successes=successes)

    def announce(self) -> None:
        """Log the trip that was this process's own doing, once, if it still stands."""
        counts, self._unannounced = self._unannounced, None
        if counts is not None:
            transition_log.tripped(self.name, self.view, counts, threshold=self.policy.failure_threshold)

    # -- for people and for callers

    def blocked_seconds(self) -> float:
        """Seconds for which a call would certainly be refused; 0 once a call must try."""
        return self.retry_after() if self.view.state is OPEN else 0.0

    def blocked_reason(self) -> str:
        """Why `blocked_seconds` is not 0: "circuit open (failures: HTTP 503)"."""
        why = self.view.why
        return f"circuit open ({why})" if why else "circuit open"

    def named_seconds(self) -> float:
        """After how many seconds the upstream said that it is back, when that opened the circuit; else 0. The circuit
        asks again much sooner."""
        return rules.named_return(self.view.why) if self.view.state is OPEN else 0.0

    def retry_after(self) -> float:
        """Seconds until it is worth asking again, 0 if now."""
        view = self.view
        if view.state is CLOSED:
            return 0.0
        if view.forced:
            return self.policy.open_seconds
        left = max(view.until, self._next_probe_at) - self._monotonic()
        return max(0.0, left) if view.state is OPEN else max(left, self.policy.probe_wait_seconds)

    def snapshot(self) -> Snapshot:
        view, seen = self.view, self.seen
        return Snapshot(
            name=self.name,
            state=view.state,
            failure_count=self._failure_count,
            retry_after=round(self.retry_after(), 3),
            forced=view.forced,
            why=view.why,
            last_failure=seen.cause,
            last_failure_seconds=round(self._monotonic() - seen.cause_at, 1) if seen.cause else None,
        )

    def get_status(self) -> dict[str, Any]:
        """The snapshot by its fields' names, as JSON has it."""
        return self.snapshot()._asdict() | {"state": str(self.view.state)}

    @property
    def _failure_count(self) -> int:
        return max(self.seen.in_a_row, self.fleet_view.failures)
