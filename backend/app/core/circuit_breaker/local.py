"""What one process keeps of a circuit: what it has seen of its calls, the permits it grants while it is alone, and how
soon it is believed. All times are monotonic seconds."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from app.core.circuit_breaker.rules import BreakerPolicy, Counts, State


class Tally:
    """Totals since the process started, for metrics; plain integers, because the closed path pays for each of them."""

    __slots__ = ("failed", "ignored", "late", "ok", "rejected", "slow", "transitions")

    def __init__(self) -> None:
        self.ok = self.failed = self.ignored = self.late = self.rejected = self.slow = 0
        self.transitions: Counter[State] = Counter()

    def add(self, outcome: str) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)


class Delta(NamedTuple):
    """What this replica has seen since its last report. `after`: failures after the last success; how long ago that
    was, and how long ago its present row of failures began, tell whose success came in between whose failures."""

    calls: int
    failed: int
    slow: int
    after: int
    hold_seconds: float
    ok_age_seconds: float
    row_age_seconds: float
    cause: str


NOTHING = Delta(0, 0, 0, 0, 0.0, 0.0, 0.0, "")


class Observations:
    """Of the calls of one circuit while it was closed."""

    def __init__(self, policy: BreakerPolicy, now: float) -> None:
        self.ok = self.failed = self.slow = 0
        """Since the process started."""
        self.in_a_row = 0
        """Failures since the last success."""
        self.cause, self.cause_at = "", 0.0
        """The last failure in words, and when it was."""
        self._ok_at = self._row_at = now
        self._served_at = 0.0
        """When the youngest call that succeeded began, if calls are timed."""
        self._hold_seconds = 0.0
        """The longest delay named by the upstream that the fleet was not told."""
        self._reported = (0, 0, 0)
        self._window_seconds = policy.window_seconds
        self._marks = deque([(now, 0, 0, 0)])
        """The totals at the beginning and after trouble: one before the window, and the last of each tenth of it."""

    def restart(self, now: float) -> None:
        """The circuit has closed: what came before counts no longer."""
        self.in_a_row, self._served_at = 0, 0.0
        self._ok_at = self._row_at = now
        self._marks = deque([(now, *self._totals())])

    def add_success(self, now: float, began_at: float) -> None:
        """`began_at` is 0 if calls are not timed."""
        self.in_a_row = 0
        self.ok += 1
        self._ok_at = now
        if began_at > self._served_at:
            self._served_at = began_at

    def add_failure(self, now: float, began_at: float) -> None:
        """It is not in a row if a call that began later has succeeded meanwhile: the dependency is there, whatever held
        this one up. Else one account whose calls hang would, when they all time out together, open the circuit for
        all."""
        self.failed += 1
        if began_at >= self._served_at:
            if not self.in_a_row:
                self._row_at = now
            self.in_a_row += 1

    def remember(self, cause: str, now: float) -> None:
        self.cause, self.cause_at = cause, now

    def hold(self, seconds: float) -> None:
        """The upstream has named a delay."""
        self._hold_seconds = max(self._hold_seconds, seconds)

    def counts(self, now: float) -> Counts:
        """What the rules look at, to be asked after each trouble: the calls within the window. Calls without trouble
        between two marks are taken as evenly spread."""
        marks, begins, slot_seconds = self._marks, now - self._window_seconds, self._window_seconds / 10
        if len(marks) > 1 and marks[-1][0] // slot_seconds == now // slot_seconds:
            marks.pop()
        marks.append((now, *self._totals()))
        while marks[1][0] <= begins:
            marks.popleft()
        (at, ok, failed, slow), (next_at, next_ok, _, next_slow) = marks[0], marks[1]
        if begins > at:
            ok += math.ceil((next_ok - ok - (next_slow - slow)) * (begins - at) / (next_at - at))
        return Counts(self.ok - ok + self.failed - failed, self.failed - failed, self.slow - slow)

    # -- what the fleet does not know yet

    def delta(self, now: float, *, successes: bool) -> Delta | None:
        """Take it; `None` if there is nothing to tell. Trouble always is; successes alone only if asked for."""
        ok, failed, slow = (total - told for total, told in zip(self._totals(), self._reported, strict=True))
        hold, self._hold_seconds = self._hold_seconds, 0.0
        if not (failed or slow or hold or (successes and ok)):
            return None
        self.forget_calls()
        after, cause = min(self.in_a_row, failed), self.cause if failed else ""
        return Delta(ok + failed, failed, slow, after, hold, now - self._ok_at, now - self._row_at, cause)

    def forget_successes(self) -> None:
        """Unless there is trouble to tell as well."""
        if self._reported[1:] == (self.failed, self.slow):
            self.forget_calls()

    def forget_calls(self) -> None:
        """Do not tell the fleet of the calls so far. A delay that the upstream named is still told."""
        self._reported = self._totals()

    def forget(self) -> None:
        self.forget_calls()
        self._hold_seconds = 0.0

    def _totals(self) -> tuple[int, int, int]:
        return self.ok, self.failed, self.slow


@dataclass(slots=True)
class Permits:
    """Leases of one half-open state: at most `max_probes` at a time, and no more than it takes to close."""

    policy: BreakerPolicy
    good: int = 0
    """Probes that succeeded."""
    _leases: dict[object, float] = field(default_factory=dict)
    """With the time at which each runs out."""

    def restart(self) -> None:
        """Another state has begun: what was granted before is void."""
        self.good = 0
        self._leases.clear()

    def acquire(self, now: float) -> object | None:
        """A lease, `None` if there is none to be had."""
        self._leases = {lease: expiry for lease, expiry in self._leases.items() if expiry > now}
        live = len(self._leases)
        if live >= self.policy.max_probes or live + self.good >= self.policy.success_threshold:
            return None
        lease = object()
        self._leases[lease] = now + self.policy.probe_lease_seconds
        return lease

    def give_back(self, lease: object, now: float) -> bool:
        """False if it had run out: the result of that probe counts no longer."""
        return self._leases.pop(lease, 0.0) > now


@dataclass(slots=True)
class Rejoining:
    """How soon a replica that alone stayed away is believed when it sees the dependency well: at once the first time;
    when it failed again soon after, only after 1 s, then 2 s, 4 s … up to the base period."""

    policy: BreakerPolicy
    _rounds: int = 0
    _waits_until: float = 0.0
    _believed_at: float = -math.inf

    def tripped(self, now: float) -> None:
        soon = now - self._believed_at < self.policy.open_seconds
        self._rounds = self._rounds + 1 if soon else 0
        wait = self.policy.rejoin_seconds * 2.0 ** min(self._rounds - 1, 40) if self._rounds else 0.0
        self._waits_until = now + min(self.policy.open_seconds, wait)

    def believes(self, now: float) -> bool:
        """Is what is seen well now believed? Asked only when it was seen well."""
        if now < self._waits_until:
            return False
        self._believed_at = now
        return True
