"""One circuit: its states and the rules between them. The package's first page says what they are."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import DeadlineExceeded, Unavailable
from app.core.http_client import is_network_error, status_error

logger = logging.getLogger("app.core.circuit_breaker")

T = TypeVar("T")

PROBE_WAIT_SECONDS = 1.0
"""What a caller is told to wait while somebody else's probe is under way."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class CircuitBreakerOpenError(Unavailable):
    """The call was not made: `dependency` has been failing. Come back in `retry_after` seconds."""

    def __init__(self, dependency: str, retry_after: float) -> None:
        super().__init__(dependency, f"{dependency}: circuit open for {retry_after:.1f} s", retry_after=retry_after)


class Verdict(NamedTuple):
    """What an exception says about the dependency. `hold_seconds`: the delay the upstream itself asked for."""

    failed: bool
    hold_seconds: float = 0.0


FAILED = Verdict(failed=True)
IGNORED = Verdict(failed=False)

Classify = Callable[[Exception], Verdict]


def default_classify(exc: Exception) -> Verdict:
    """`Unavailable`, network errors, timeouts and HTTP 5xx failed; anything else is this request's own trouble."""
    if isinstance(exc, (CircuitBreakerOpenError, DeadlineExceeded)):
        return IGNORED
    if isinstance(exc, Unavailable):
        return Verdict(failed=True, hold_seconds=exc.retry_after or 0.0)
    status = status_error(exc)
    if status is not None:
        return Verdict(failed=True, hold_seconds=status[1] or 0.0) if status[0] >= 500 else IGNORED
    return FAILED if is_network_error(exc) else IGNORED


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long; see the rules at the top."""

    failure_threshold: int
    open_seconds: float
    max_open_seconds: float = 600.0
    success_threshold: int = 2
    max_probes: int = 1
    probe_lease_seconds: float = 60.0
    jitter: float = 0.2


class View(NamedTuple):
    """One state and its epoch. `until` is on the monotonic clock: when an open circuit lets a probe through."""

    state: State
    epoch: int
    until: float = 0.0
    forced: bool = False


class Snapshot(NamedTuple):
    """For health and the operator. `retry_after` (seconds) is 0 when closed."""

    name: str
    state: State
    failure_count: int
    retry_after: float
    forced: bool


class Tally:
    """Counts since the process started; plain integers, because the closed path pays for each of them."""

    __slots__ = ("failed", "ignored", "late", "ok", "rejected", "transitions")

    def __init__(self) -> None:
        self.ok = self.failed = self.ignored = self.late = self.rejected = 0
        self.transitions: Counter[State] = Counter()


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
    ) -> None:
        self.name = name
        self.policy = policy
        self.dependency = dependency or name
        self.tally = tally or Tally()
        self._clock = clock
        self._uniform = uniform
        self._view = View(CLOSED, 0)
        self._failures = 0
        self._failed_rounds = 0
        self._probes_ok = 0
        self._leases: dict[object, float] = {}

    async def call_async(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`await fn(*args, **kwargs)` and learn from its outcome. Raises `CircuitBreakerOpenError` instead if open."""
        return await self.run(default_classify, fn, *args, **kwargs)

    async def run(self, classify: Classify, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """`call_async` with the caller's own reading of exceptions. Cancellation is always ignored."""
        lease = None if self._view.state is CLOSED else self._acquire()
        view = self._view
        try:
            result = await fn(*args, **kwargs)
        except BaseException as exc:
            verdict = IGNORED
            try:
                if isinstance(exc, Exception):
                    verdict = classify(exc)
            finally:
                self._record_error(view, lease, verdict)
            raise
        if view is not self._view:
            self.tally.late += 1
        elif lease is None:
            self._failures = 0
            self.tally.ok += 1
        else:
            self._probe_succeeded(lease)
        return result

    def snapshot(self) -> Snapshot:
        view = self._view
        return Snapshot(
            name=self.name,
            state=view.state,
            failure_count=self._failures,
            retry_after=round(self._retry_after(view), 3),
            forced=view.forced,
        )

    def force_open(self, *, who: str, why: str) -> None:
        """Refuse every call until `reset()`."""
        logger.warning("Circuit breaker '%s': forced open by %s: %s", self.name, who, why)
        self._enter(OPEN, until=float("inf"), forced=True)

    def force_closed(self, *, who: str, why: str) -> None:
        """Let every call through, whatever fails, until `reset()`."""
        logger.warning("Circuit breaker '%s': forced closed by %s: %s", self.name, who, why)
        self._enter(CLOSED, forced=True)

    def reset(self) -> None:
        """Closed, nothing counted, nothing forced. Calls under way become late."""
        self._failures = self._failed_rounds = 0
        self._enter(CLOSED)

    @property
    def is_forced(self) -> bool:
        return self._view.forced

    def _acquire(self) -> object:
        """A probe's lease. Raises `CircuitBreakerOpenError` if there is none."""
        view = self._view
        now = self._clock.monotonic()
        if view.state is OPEN:
            if now < view.until:
                raise self._rejection()
            self._enter(HALF_OPEN)
            self._log(logging.INFO, "tentative de récupération (HALF_OPEN)")
        for expired in [lease for lease, expiry in self._leases.items() if expiry <= now]:
            del self._leases[expired]
        live = len(self._leases)
        if live >= self.policy.max_probes or live + self._probes_ok >= self.policy.success_threshold:
            raise self._rejection()
        lease = object()
        self._leases[lease] = now + self.policy.probe_lease_seconds
        return lease

    def _return(self, lease: object) -> bool:
        """Give a probe's permit back; False if it had run out."""
        return self._leases.pop(lease, 0.0) > self._clock.monotonic()

    def _rejection(self) -> CircuitBreakerOpenError:
        self.tally.rejected += 1
        return CircuitBreakerOpenError(self.dependency, self._retry_after(self._view))

    def _retry_after(self, view: View) -> float:
        if view.state is CLOSED:
            return 0.0
        if view.state is HALF_OPEN:
            return PROBE_WAIT_SECONDS
        return self.policy.open_seconds if view.forced else max(0.0, view.until - self._clock.monotonic())

    def _record_error(self, view: View, lease: object | None, verdict: Verdict) -> None:
        if view is not self._view or (lease is not None and not self._return(lease)):
            self.tally.late += 1
        elif not verdict.failed:
            self.tally.ignored += 1
        else:
            self.tally.failed += 1
            self._failures += 1
            if lease is not None:
                self._probe_failed(verdict)
            elif not view.forced:
                self._trip_if_due(verdict)

    def _trip_if_due(self, verdict: Verdict) -> None:
        threshold = self.policy.failure_threshold
        if verdict.hold_seconds > 0:
            seconds = min(verdict.hold_seconds, self.policy.max_open_seconds)
            self._open(seconds)
            self._log(logging.WARNING, f"the upstream asks for {seconds:.1f} s, opening the circuit")
        elif self._failures >= threshold:
            self._open(self.policy.open_seconds)
            self._log(logging.ERROR, f"seuil d'échecs atteint ({self._failures}/{threshold}), ouverture du circuit")

    def _probe_failed(self, verdict: Verdict) -> None:
        policy = self.policy
        if verdict.hold_seconds > 0:
            seconds = min(verdict.hold_seconds, policy.max_open_seconds)
        else:
            self._failed_rounds += 1
            seconds = min(policy.max_open_seconds, policy.open_seconds * 2.0 ** min(self._failed_rounds, 60))
            seconds *= 1 + policy.jitter * self._uniform()
        self._open(seconds)
        self._log(logging.WARNING, f"probe failed (round {self._failed_rounds}), open for {seconds:.1f} s")

    def _probe_succeeded(self, lease: object) -> None:
        if not self._return(lease):
            self.tally.late += 1
            return
        self.tally.ok += 1
        self._probes_ok += 1
        if self._probes_ok >= self.policy.success_threshold:
            self._failures = self._failed_rounds = 0
            self._enter(CLOSED)
            self._log(logging.INFO, "récupération réussie (CLOSED)")

    def _open(self, seconds: float) -> None:
        self._enter(OPEN, until=self._clock.monotonic() + seconds)

    def _enter(self, state: State, *, until: float = 0.0, forced: bool = False) -> None:
        self._view = View(state, self._view.epoch + 1, until, forced)
        self._probes_ok = 0
        self._leases.clear()
        self.tally.transitions[state] += 1

    def _log(self, level: int, what: str) -> None:
        view = self._view
        numbers = {"epoch": view.epoch, "failures": self._failures, "open_seconds": round(self._retry_after(view), 1)}
        logger.log(level, "Circuit breaker '%s': %s", self.name, what, extra=numbers)
