"""What is known of one circuit: its state, the counts behind it, and the fleet's word.

`_view` is what admission looks at, `_fleet_view` the fleet's last known verdict. They differ while this replica alone
has reason to stay away, and while Redis is away.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from app.core.circuit_breaker.rules import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    PROBE_WAIT_SECONDS,
    BreakerPolicy,
    Seen,
    Snapshot,
    State,
    Tally,
    View,
    Window,
    because,
    named_return,
    rule_of,
)
from app.core.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger("app.core.circuit_breaker")

UNTIL_TOLERANCE_SECONDS = 0.05
"""The fleet's remaining time is read a little differently each time, by the time the answer travelled."""
REJOIN_SECONDS = 1.0
"""Cut off again soon after it was seen well: the next look is believed after this, doubled each time."""
UNKNOWN = (-1, 0)
"""Version of a verdict that nobody has read yet."""
_SEVERITY = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


class FleetLease(NamedTuple):
    """A probe's permit from the fleet, and the epoch it belongs to."""

    id: str
    life: int
    epoch: int


class Delta(NamedTuple):
    """What this replica has seen since its last report. `after`: failures after the last success; how long ago that
    was, and how long ago its present row of failures began, tell whose success came in between whose failures."""

    calls: int
    failed: int
    slow: int
    after: int
    hold_seconds: float
    ok_age_seconds: float = 0.0
    row_age_seconds: float = 0.0
    cause: str = ""


class Link(Protocol):
    """The fleet, as one circuit sees it (`link.FleetLink`)."""

    @property
    def up(self) -> bool: ...

    @property
    def share(self) -> float:
        """This replica's share of the fleet, in (0, 1]."""
        ...

    def report(self) -> None:
        """Something went wrong: tell the fleet now, in the background."""
        ...

    async def acquire(self) -> FleetLease | None:
        """A permit, if there is one to be had. What the fleet said on the occasion is learned."""
        ...

    async def settle(self, lease: FleetLease, outcome: str, hold_seconds: float, cause: str) -> bool | None:
        """Did the outcome count? `None`: the fleet is out of reach. Goes on when the caller is cancelled."""
        ...

    def release_soon(self, lease: FleetLease) -> None:
        """Give the permit back without waiting for it."""
        ...

    async def prove(self) -> bool:
        """The dependency was seen well: did that make the fleet's circuit half open?"""
        ...


class Circuit:
    """State and rules, without the calls. `uniform` returns the jitter, in [0, 1]."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        *,
        dependency: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
        tally: Tally | None = None,
        family: str | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.dependency = dependency or name
        self.tally = tally or Tally()
        self.link: Link | None = None
        self._metric_name = family or name
        self._monotonic = time.monotonic if clock is SYSTEM_CLOCK else clock.monotonic
        self._uniform = uniform
        self._slow_after = policy.slow_call_seconds or 0.0
        self._window = Window(policy.window_seconds)
        self._view = self._fleet_view = View(CLOSED, 0, life=-1)
        self._until = 0.0
        self._failures = self._fleet_failures = 0
        self._failed_rounds = self._probes_ok = 0
        self._leases: dict[object, float] = {}
        self._ok = self._failed = self._slow = 0
        self._served = 0.0
        """When the youngest call that succeeded began, if calls are timed."""
        self._folded = self._reported = (0, 0, 0)
        self._folded_at = self._ok_at = self._row_at = self._monotonic()
        self._hold = 0.0
        self._unannounced: tuple[View, Seen] | None = None
        self._rejoins = 0
        self._alone_until, self._rejoined_at = 0.0, -math.inf
        """Cut off: what is seen well before is not believed yet; and when it was believed last."""
        self._cause, self._cause_at = "", 0.0
        """The last failure in words, and when it was."""

    # -- counting

    def _count_failure(self, *, in_a_row: bool) -> None:
        """A call that began later has succeeded meanwhile: the dependency is there, whatever held this one up. Else one
        account whose calls hang would, when they all time out together, open the circuit for everybody."""
        self.tally.failed += 1
        self._failed += 1
        if in_a_row:
            if not self._failures:
                self._row_at = self._monotonic()
            self._failures += 1

    def _remember(self, cause: str) -> None:
        self._cause, self._cause_at = cause, self._monotonic()

    def _judge(self, hold_seconds: float) -> None:
        """After trouble in a closed circuit: open it if a rule says so, and tell the fleet."""
        policy = self.policy
        self._hold = max(self._hold, hold_seconds)
        seen = self._fold() if policy.has_rates else Seen(self._failures, self._failures, 0)
        rates_apply = policy.has_rates and seen.calls >= policy.minimum_calls
        if hold_seconds > 0:
            self._trip(min(hold_seconds, policy.max_open_seconds), "delay", seen)
        elif self._failures >= policy.failure_threshold:
            self._trip(policy.open_seconds, "failures", seen)
        elif rates_apply and policy.failure_rate and seen.failed >= policy.failure_rate * seen.calls:
            self._trip(policy.open_seconds, "failure rate", seen)
        elif rates_apply and self._slow_after and seen.slow >= policy.slow_rate * seen.calls:
            self._trip(policy.open_seconds, "slow calls", seen)
        if self.link is not None:
            self.link.report()

    def _fold(self) -> Seen:
        """Put what was counted since the last time into the window; successes in between are taken as evenly spread."""
        now = self._monotonic()
        ok, failed, slow = (n - old for n, old in zip(self._counts(), self._folded, strict=True))
        within = min(1.0, self.policy.window_seconds / max(now - self._folded_at, 1e-9))
        self._folded, self._folded_at = self._counts(), now
        return self._window.add(now, math.floor(ok * within) + failed, failed, slow)

    def _counts(self) -> tuple[int, int, int]:
        return self._ok, self._failed, self._slow

    def _trip(self, seconds: float, rule: str, seen: Seen) -> None:
        why = because(rule, "" if rule == "slow calls" else self._cause)
        now = self._monotonic()
        self._rejoins = self._rejoins + 1 if now - self._rejoined_at < self.policy.open_seconds else 0
        wait = REJOIN_SECONDS * 2.0 ** min(self._rejoins - 1, 40) if self._rejoins else 0.0
        self._alone_until = now + min(self.policy.open_seconds, wait)
        self._enter(OPEN, until=now + seconds, why=why)
        self._unannounced = self._view, seen
        if self.link is None or not self.link.up:
            self.announce()

    def _extend(self, hold_seconds: float) -> None:
        """A late answer still tells how long the upstream wants to be left alone."""
        view = self._view
        until = self._monotonic() + min(hold_seconds, self.policy.max_open_seconds)
        if view.state is OPEN and not view.forced and until > view.until:
            self._view = view._replace(until=until)
            if self.link is not None:
                self._hold = max(self._hold, hold_seconds)
                self.link.report()

    # -- states

    def _enter(self, state: State, *, until: float = 0.0, forced: bool = False, why: str = "", who: str = "") -> None:
        """A state of this process's own making."""
        life = self._fleet_view.life
        self._set(View(state, self._view.epoch + 1, until, forced=forced, life=life, why=why, who=who))

    def _set(self, view: View) -> None:
        if view.state is not self._view.state:
            self.tally.transitions[view.state] += 1
        self._view = view
        self._until = 0.0
        self._probes_ok = 0
        self._leases.clear()
        if view.state is CLOSED:
            self._failures = self._fleet_failures = self._failed_rounds = 0
            self._window.clear()
            self._folded, self._served = self._counts(), 0.0
            self._folded_at = self._ok_at = self._row_at = self._monotonic()

    def blocked_seconds(self) -> float:
        """Seconds for which a call would certainly be refused; 0 once somebody must try."""
        return self.retry_after() if self._view.state is OPEN else 0.0

    def named_seconds(self) -> float:
        """After how many seconds the upstream said that it is back, when that opened the circuit; else 0. The circuit
        asks again much sooner."""
        return named_return(self._view.why) if self._view.state is OPEN else 0.0

    def blocked_reason(self) -> str:
        """Why `blocked_seconds` is not 0: "circuit open (failures: HTTP 503)"."""
        why = self._view.why
        return f"circuit open ({why})" if why else "circuit open"

    def retry_after(self) -> float:
        """Seconds until it is worth asking again, 0 if now."""
        view = self._view
        if view.state is CLOSED:
            return 0.0
        if view.forced:
            return self.policy.open_seconds
        left = max(view.until, self._until) - self._monotonic()
        return max(0.0, left) if view.state is OPEN else max(left, PROBE_WAIT_SECONDS)

    # -- the fleet

    @property
    def version(self) -> tuple[int, int]:
        """Of the fleet's last known word: history and epoch. Greater is newer."""
        return self._fleet_view.life, self._fleet_view.epoch

    @property
    def fleet_state(self) -> State:
        return self._fleet_view.state

    @property
    def is_closed(self) -> bool:
        return self._view.state is CLOSED

    @property
    def is_cut_off(self) -> bool:
        """Does this replica alone stay away, from something that is well for the fleet?"""
        view = self._view
        return (
            view.local
            and view.state is not CLOSED
            and not view.forced
            and self.link is not None
            and self.link.up
            and self._fleet_view.state is CLOSED
        )

    @property
    def is_fleet_failing(self) -> bool:
        """Not closed for the fleet, or with failures counted: worth following closely."""
        return self._fleet_view.state is not CLOSED or self._fleet_view.forced or self._fleet_failures > 0

    def attach(self, link: Link | None) -> None:
        """Join the fleet, or with `None` leave it: the state stays, as this process's own."""
        self.link = link
        self._fleet_view = View(CLOSED, 0, life=-1)
        if link is None and not self._view.local:
            self._view = self._view._replace(local=True)
        self.forget_delta()

    def learn(self, fleet: View, failures: int, *, asked: tuple[int, int] | None) -> bool:
        """The fleet's word: news (`asked` is `None`), or the answer to a question put when `version` was `asked`.

        Returns whether it is a change. Older than what is known it is outdated; but as an answer to a question put with
        the newer version in hand it means that the server has lost its history, and that what it says now stands.
        """
        known, told = self.version, (fleet.life, fleet.epoch)
        if told < known and asked != known:
            return False
        mine = self._view
        news, first = told != known, known == UNKNOWN
        self._fleet_failures = failures
        if not news and not mine.local:
            if fleet.state is OPEN and fleet.until > mine.until + UNTIL_TOLERANCE_SECONDS:
                self._view = self._fleet_view = fleet
            return False
        self._fleet_view = fleet
        by_hand = news and fleet.manual
        if not by_hand and mine.local and (mine.forced or _SEVERITY[mine.state] > _SEVERITY[fleet.state]):
            return False  # what this replica has seen itself is worse
        if mine.state is CLOSED and fleet.state is CLOSED and not fleet.forced and (first or not news):
            return False
        self._set(fleet)
        self._fleet_failures = failures
        self.forget_delta()
        return news

    def delta(self, *, successes: bool) -> Delta | None:
        """Take what the fleet does not know yet; `None` if there is nothing to tell. Trouble always is; successes
        alone only if asked for."""
        ok, failed, slow = (n - old for n, old in zip(self._counts(), self._reported, strict=True))
        hold, self._hold = self._hold, 0.0
        if self._fleet_view.state is not CLOSED or self._fleet_view.forced:
            self._reported = self._counts()
            return Delta(0, 0, 0, 0, hold, cause=self._cause) if hold > 0 and self._fleet_view.state is OPEN else None
        if not (failed or slow or hold or (successes and ok)):
            return None
        self._reported = self._counts()
        now = self._monotonic()
        after, cause = min(self._failures, failed), self._cause if failed else ""
        return Delta(ok + failed, failed, slow, after, hold, now - self._ok_at, now - self._row_at, cause)

    def forget_successes(self) -> None:
        """Unless there is trouble to tell as well."""
        if self._reported[1:] == (self._failed, self._slow):
            self._reported = self._counts()

    def forget_delta(self) -> None:
        self._reported = self._counts()
        self._hold = 0.0

    # -- for people

    def snapshot(self) -> Snapshot:
        view = self._view
        return Snapshot(
            name=self.name,
            state=view.state,
            failure_count=max(self._failures, self._fleet_failures),
            retry_after=round(self.retry_after(), 3),
            forced=view.forced,
            why=view.why,
            last_failure=self._cause,
            last_failure_seconds=round(self._monotonic() - self._cause_at, 1) if self._cause else None,
        )

    @property
    def is_forced(self) -> bool:
        return self._view.forced

    def announce(self) -> None:
        """Log the trip that was this process's own doing, if it still stands and nobody has logged it yet."""
        pending, self._unannounced = self._unannounced, None
        if pending is None or pending[0] is not self._view:
            return
        view, seen = pending
        numbers = seen._asdict() | {"scope": "replica" if self.link is not None else "process", "why": view.why}
        self.log_trip(view.why, self._failures, numbers)

    def log_trip(self, why: str, failures: int, numbers: dict[str, Any]) -> None:
        threshold = self.policy.failure_threshold
        seconds = self.retry_after()
        rule = rule_of(why)
        if rule == "failures":
            what = f"seuil d'échecs atteint ({failures}/{threshold}), ouverture du circuit"
            self.log(logging.ERROR, what, **numbers)
        elif rule == "delay":
            self.log(logging.WARNING, f"the upstream asks for {seconds:.1f} s, opening the circuit", **numbers)
        else:
            shares = f"{numbers.get('failed')} failed and {numbers.get('slow')} slow of {numbers.get('calls')} calls"
            self.log(logging.ERROR, f"{rule}: {shares}, opening the circuit", **numbers)

    def log(self, level: int, what: str, **numbers: Any) -> None:
        extra = {
            "epoch": self._view.epoch,
            "failures": max(self._failures, self._fleet_failures),
            "open_seconds": round(self.retry_after(), 1),
            **numbers,
        }
        logger.log(level, "Circuit breaker '%s': %s", self.name, what, extra=extra)
