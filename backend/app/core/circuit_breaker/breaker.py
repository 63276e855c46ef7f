"""One circuit at work: who is let through, and what the outcome of a call does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from prometheus_client import Histogram

from app.core.circuit_breaker.circuit import Circuit, FleetLease, logger
from app.core.circuit_breaker.rules import (
    CLOSED,
    HALF_OPEN,
    IGNORED,
    OPEN,
    PROBE_WAIT_SECONDS,
    CircuitBreakerOpenError,
    Classify,
    Verdict,
    View,
    because,
    default_classify,
    with_return,
)
from app.core.failure_words import in_words
from app.core.loop_watch import stalled_since
from app.core.metrics import SLOW_SECONDS

T = TypeVar("T")

PROBE_SHARE = 0.9
"""Of the lease, which a probe may use: its result must arrive before the lease runs out."""
STALL_SHARE = 0.25
"""Of the time of a call: if the own event loop stood still for so much of it, its failure tells nothing."""
PROBE_SECONDS = Histogram("chorus_circuit_breaker_probe_seconds", "Duration of probes", ["name"], buckets=SLOW_SECONDS)


class CircuitBreaker(Circuit):
    """One dependency's circuit. `uniform` returns the jitter, in [0, 1]."""

    # -- calls

    async def call_async(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`await fn(*args, **kwargs)` and learn from its outcome. Raises `CircuitBreakerOpenError` instead if open."""
        view = self._view
        if view.state is OPEN and self._monotonic() < view.until:
            raise self._rejection()  # as in `run`, without the price of another coroutine
        return await self.run(default_classify, fn, *args, **kwargs)

    async def run(self, classify: Classify, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`call_async` with the caller's own reading of exceptions. Cancellation is always ignored."""
        view = self._view
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
        if view is not self._view:
            self.tally.late += 1
            return result
        self._failures = 0
        self._ok += 1
        self.tally.ok += 1
        self._ok_at = ended = self._monotonic()
        if started > self._served:
            self._served = started
        if started and ended - started > self._slow_after and not self._stood_still(started):
            self._slow += 1
            self.tally.slow += 1
            if not view.forced:
                self._judge(0.0)
        return result

    def check(self) -> None:
        """Raise `CircuitBreakerOpenError` if a call would certainly be refused now."""
        if self.blocked_seconds():
            raise self._rejection()

    async def _run_probe(
        self, classify: Classify, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        lease = await self._admit()
        if lease is None:
            return await self.run(classify, fn, *args, **kwargs)
        view, started = self._view, self._monotonic()
        try:
            if isinstance(lease, FleetLease):
                async with asyncio.timeout(self.policy.probe_lease_seconds * PROBE_SHARE):
                    result = await fn(*args, **kwargs)
            else:
                result = await fn(*args, **kwargs)
        except Exception as exc:
            verdict = IGNORED
            try:
                verdict = self._read(classify, exc, started)
            finally:
                await self._settle(view, lease, "fail" if verdict.failed else "release", verdict)
            raise
        except BaseException:  # cancelled, or closed halfway: nothing may be awaited any more
            self._abandon(view, lease)
            raise
        finally:
            PROBE_SECONDS.labels(self._metric_name).observe(self._monotonic() - started)
        await self._settle(view, lease, "ok", IGNORED)
        return result

    # -- admission when not closed

    async def _admit(self) -> object | None:
        """A probe's lease; `None`: the circuit has closed meanwhile. Raises `CircuitBreakerOpenError`."""
        if not self._follows_fleet():
            return self._acquire()
        if self._view.local and self._fleet_view.state is not CLOSED:
            self._set(self._fleet_view)  # what this replica alone was afraid of is over
            if self._view.forced or self._monotonic() < self._view.until:
                raise self._rejection()
        if self._view.local:
            return self._acquire()
        lease = await self.link.acquire() if self.link is not None else None
        if lease is not None:
            return lease
        if self._view.state is CLOSED:
            return None
        if not self._follows_fleet():
            return self._acquire()
        raise self._rejection()

    def _follows_fleet(self) -> bool:
        return self.link is not None and self.link.up

    def _acquire(self) -> object:
        """A lease of this process's own. Raises `CircuitBreakerOpenError` if there is none."""
        view = self._view
        now = self._monotonic()
        if view.forced or now < max(view.until, self._until):
            raise self._rejection()
        if self.link is not None and not self._follows_fleet() and self._uniform() >= self.link.share:
            # Nobody hands out permits: each replica takes its share of the probes, so that all make about one.
            self._until = now + PROBE_WAIT_SECONDS
            raise self._rejection()
        if view.state is OPEN:
            self._enter(HALF_OPEN)
            self.log(logging.INFO, "tentative de récupération (HALF_OPEN)")
        for expired in [lease for lease, expiry in self._leases.items() if expiry <= now]:
            del self._leases[expired]
        live = len(self._leases)
        if live >= self.policy.max_probes or live + self._probes_ok >= self.policy.success_threshold:
            raise self._rejection()
        lease = object()
        self._leases[lease] = now + self.policy.probe_lease_seconds
        return lease

    def _rejection(self) -> CircuitBreakerOpenError:
        self.tally.rejected += 1
        return CircuitBreakerOpenError(self.dependency, self.retry_after(), self._view.why)

    # -- outcomes

    def _read(self, classify: Classify, exc: Exception, started: float) -> Verdict:
        """The classifier's verdict; a failure is remembered in words, because people will ask what it was. One that our
        own stall may have caused is ignored, unless the upstream named a delay: that is its own word."""
        verdict = classify(exc)
        if verdict.failed and not verdict.hold_seconds and started and self._stood_still(started):
            return IGNORED
        if verdict.failed:
            cause = in_words(exc)
            if verdict.named_seconds > verdict.hold_seconds:
                cause = with_return(cause, verdict.named_seconds)
            verdict = verdict._replace(cause=cause)
            self._remember(verdict.cause)
        return verdict

    def _stood_still(self, started: float) -> bool:
        stalled = stalled_since(started)
        return stalled > 0 and stalled >= STALL_SHARE * (self._monotonic() - started)

    def _record_error(self, view: View, verdict: Verdict, started: float) -> None:
        if view is not self._view:
            self.tally.late += 1
            if verdict.hold_seconds > 0:
                self._extend(verdict.hold_seconds)
        elif not verdict.failed:
            self.tally.ignored += 1
        else:
            self._count_failure(in_a_row=started >= self._served)
            if not view.forced:
                self._judge(verdict.hold_seconds)

    async def _settle(self, view: View, lease: object, outcome: str, verdict: Verdict) -> None:
        if isinstance(lease, FleetLease):
            counted = await self.link.settle(lease, outcome, verdict.hold_seconds, verdict.cause) if self.link else None
            if counted is None:
                counted = view is self._view
                if counted:
                    self._settle_here(outcome, verdict)
        else:
            counted = view is self._view and self._return(lease)
            if counted:
                self._settle_here(outcome, verdict)
        if not counted:
            self.tally.late += 1
        elif outcome == "ok":
            self.tally.ok += 1
        elif outcome == "fail":
            self.tally.failed += 1
        else:
            self.tally.ignored += 1

    def _settle_here(self, outcome: str, verdict: Verdict) -> None:
        if outcome == "fail":
            self._failures += 1
            self._probe_failed(verdict)
        elif outcome == "ok":
            self._probes_ok += 1
            if self._probes_ok >= self.policy.success_threshold:
                self._enter(CLOSED)
                self.log(logging.INFO, "récupération réussie (CLOSED)")

    def _abandon(self, view: View, lease: object) -> None:
        if isinstance(lease, FleetLease):
            if self.link is not None:
                self.link.release_soon(lease)
            self.tally.ignored += 1
        elif view is self._view and self._return(lease):
            self.tally.ignored += 1
        else:
            self.tally.late += 1

    def _return(self, lease: object) -> bool:
        """Give a probe's permit back; False if it had run out."""
        return self._leases.pop(lease, 0.0) > self._monotonic()

    def _probe_failed(self, verdict: Verdict) -> None:
        policy = self.policy
        if verdict.hold_seconds > 0:
            seconds = min(verdict.hold_seconds, policy.max_open_seconds)
        elif self.link is not None and self.link.up:
            seconds = policy.open_seconds  # the fleet's circuit is closed: one base period, whoever's fault it is
        else:
            self._failed_rounds += 1
            seconds = policy.reopen_seconds(self._failed_rounds, self._uniform())
        self._enter(OPEN, until=self._monotonic() + seconds, why=because("probe failed", verdict.cause))
        self.log(logging.WARNING, f"probe failed (round {self._failed_rounds}), open for {seconds:.1f} s")

    # -- states

    async def seen_well(self) -> None:
        """A look past this circuit found the dependency well. An open circuit waits no longer: it is half open, for the
        whole fleet. Where this replica alone stayed away it is closed, as it is for the others."""
        if self._view.state is CLOSED or self._view.forced:
            return
        if self.is_cut_off:
            now = self._monotonic()
            if now < self._alone_until:
                return
            self._rejoined_at = now
            self._set(self._fleet_view)
            self.forget_delta()
            self.log(logging.INFO, "récupération réussie (CLOSED)", scope="replica")
        elif self._view.state is HALF_OPEN:
            return
        elif self.link is not None and self.link.up:
            if self._view.local:
                self._set(self._fleet_view)  # both are open: from here on the fleet's word counts
            await self.link.prove()
        else:
            self._enter(HALF_OPEN)
            self.log(logging.INFO, "tentative de récupération (HALF_OPEN)")

    def seen_ill(self, cause: str, started: float) -> None:
        """Calls hang, and a look past this circuit that began at `started` found the dependency out of reach: that says
        as much as a row of failures, long before those calls run out of time."""
        view, threshold = self._view, self.policy.failure_threshold
        if view.state is not CLOSED or view.forced or self._stood_still(started):
            return
        self._remember(cause)
        while self._failures < threshold:
            self._count_failure(in_a_row=True)
        self._judge(0.0)

    def force_open(self, *, who: str, why: str) -> None:
        """Refuse every call until `reset()`. This process only; `BreakerFleet.force` is for all."""
        logger.warning("Circuit breaker '%s': forced open by %s: %s", self.name, who, why)
        self._enter(OPEN, until=float("inf"), forced=True, why=why, who=who)

    def force_closed(self, *, who: str, why: str) -> None:
        """Let every call through, whatever fails, until `reset()`. This process only, as above."""
        logger.warning("Circuit breaker '%s': forced closed by %s: %s", self.name, who, why)
        self._enter(CLOSED, forced=True, why=why, who=who)

    def reset(self) -> None:
        """Closed, nothing counted, nothing forced. Calls under way become late. This process only, as above."""
        self._enter(CLOSED)
