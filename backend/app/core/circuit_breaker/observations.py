"""What this process has seen of its calls: totals for metrics, counts for the rules, and what to tell the fleet."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import NamedTuple

from app.core.circuit_breaker.rules import BreakerPolicy, Counts
from app.core.circuit_breaker.states import State


class Tally:
    """Totals since the process started, for metrics; plain integers, because the closed path pays for each of them."""

    __slots__ = ("failed", "ignored", "late", "ok", "rejected", "slow", "transitions")

    def __init__(self) -> None:
        self.ok = self.failed = self.ignored = self.late = self.rejected = self.slow = 0
        self.transitions: Counter[State] = Counter()

    def add_probe(self, outcome: str) -> None:
        name = {"ok": "ok", "fail": "failed", "release": "ignored", "late": "late"}[outcome]
        setattr(self, name, getattr(self, name) + 1)


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


class Window:
    """Counts of the last `seconds` in ten slots; what left the window is forgotten a slot at a time."""

    __slots__ = ("_slot_seconds", "_slots")

    def __init__(self, seconds: float) -> None:
        self._slot_seconds = seconds / 10
        self._slots: deque[list[int]] = deque(maxlen=11)

    def add(self, now: float, calls: int, failed: int, slow: int) -> Counts:
        """Count, and return the sums."""
        slot = math.floor(now / self._slot_seconds)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0, 0])
        last = self._slots[-1]
        last[1] += calls
        last[2] += failed
        last[3] += slow
        while self._slots[0][0] <= slot - 10:
            self._slots.popleft()
        return Counts(*(sum(entry[i] for entry in self._slots) for i in (1, 2, 3)))

    def clear(self) -> None:
        self._slots.clear()


class Observations:
    """Of one circuit. All times are monotonic seconds."""

    def __init__(self, policy: BreakerPolicy, now: float) -> None:
        self.ok = self.failed = self.slow = 0
        """Since the process started."""
        self.in_a_row = 0
        """Failures since the last success."""
        self._ok_at = now
        self._served_at = 0.0
        """When the youngest call that succeeded began, if calls are timed."""
        self.cause, self.cause_at = "", 0.0
        """The last failure in words, and when it was."""
        self._row_at = now
        self._hold_seconds = 0.0
        """The longest delay named by the upstream that the fleet was not told."""
        self._has_rates = policy.has_rates
        self._window = Window(policy.window_seconds)
        self._window_seconds = policy.window_seconds
        self._folded = self._reported = (0, 0, 0)
        self._folded_at = now

    def restart(self, now: float) -> None:
        """The circuit has closed: what came before counts no longer."""
        self.in_a_row = 0
        self._window.clear()
        self._folded, self._served_at = self._totals(), 0.0
        self._folded_at = self._ok_at = self._row_at = now

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
        """What the rules look at. With rates, put what was counted since the last time into the window; successes in
        between are taken as evenly spread."""
        if not self._has_rates:
            return Counts(self.in_a_row, self.in_a_row, 0)
        ok, failed, slow = self._since(self._folded)
        within = min(1.0, self._window_seconds / max(now - self._folded_at, 1e-9))
        self._folded, self._folded_at = self._totals(), now
        return self._window.add(now, math.floor(ok * within) + failed, failed, slow)

    # -- what the fleet does not know yet

    def delta(self, now: float, *, successes: bool) -> Delta | None:
        """Take it; `None` if there is nothing to tell. Trouble always is; successes alone only if asked for."""
        ok, failed, slow = self._since(self._reported)
        hold, self._hold_seconds = self._hold_seconds, 0.0
        if not (failed or slow or hold or (successes and ok)):
            return None
        self._reported = self._totals()
        after, cause = min(self.in_a_row, failed), self.cause if failed else ""
        return Delta(ok + failed, failed, slow, after, hold, now - self._ok_at, now - self._row_at, cause)

    def forget_successes(self) -> None:
        """Unless there is trouble to tell as well."""
        if self._reported[1:] == (self.failed, self.slow):
            self.forget_calls()

    def forget_calls(self) -> None:
        """The fleet need not know of them, but of a delay that the upstream named."""
        self._reported = self._totals()

    def forget(self) -> None:
        self.forget_calls()
        self._hold_seconds = 0.0

    def _totals(self) -> tuple[int, int, int]:
        return self.ok, self.failed, self.slow

    def _since(self, before: tuple[int, int, int]) -> tuple[int, int, int]:
        return self.ok - before[0], self.failed - before[1], self.slow - before[2]
