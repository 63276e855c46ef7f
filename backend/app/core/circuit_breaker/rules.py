"""The vocabulary of a circuit: its states, its policy, and what an outcome says about a dependency."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from app.core.errors import DeadlineExceeded, Overloaded, Unavailable
from app.core.http_client import is_network_error, is_pool_full, status_error

PROBE_WAIT_SECONDS = 1.0
"""What a caller is told to wait while somebody else's probe is under way."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class CircuitBreakerOpenError(Unavailable):
    """The call was not made: `dependency` has been failing, `why` says how. Come back in `retry_after` seconds."""

    args: tuple[str, float] | tuple[str, float, str]

    # Rejections come by the thousand: attributes and message are made when somebody reads them.
    if not TYPE_CHECKING:
        __init__ = Exception.__init__
    else:

        def __init__(self, dependency: str, retry_after: float, why: str = "") -> None: ...

    @property
    def dependency(self) -> str:  # type: ignore[override]  # a property: made from `args`, so that the error is cheap
        return self.args[0]

    @property
    def retry_after(self) -> float:  # type: ignore[override]  # a property: made from `args`, so that the error is cheap
        return self.args[1]

    @property
    def why(self) -> str:
        return self.args[2] if len(self.args) > 2 else ""

    def __str__(self) -> str:
        return f"{self.dependency}: circuit open for {self.retry_after:.1f} s" + (f" ({self.why})" if self.why else "")


class Verdict(NamedTuple):
    """What an exception says about the dependency. `hold_seconds`: the delay the upstream itself asked for. `cause`: a
    failure in words for people, filled in by the breaker. `named_seconds`: when it says that it is
    back, which may be later than it makes sense to ask again."""

    failed: bool
    hold_seconds: float = 0.0
    cause: str = ""
    named_seconds: float = 0.0


FAILED = Verdict(failed=True)
IGNORED = Verdict(failed=False)

Classify = Callable[[Exception], Verdict]


def default_classify(exc: Exception) -> Verdict:
    """`Unavailable`, network errors, timeouts and HTTP 5xx failed; anything else is this request's own trouble."""
    if isinstance(exc, (CircuitBreakerOpenError, DeadlineExceeded, Overloaded)) or is_pool_full(exc):
        return IGNORED
    if isinstance(exc, Unavailable):
        return Verdict(failed=True, hold_seconds=exc.retry_after or 0.0)
    status = status_error(exc)
    if status is not None:
        return Verdict(failed=True, hold_seconds=status[1] or 0.0) if status[0] >= 500 else IGNORED
    return FAILED if is_network_error(exc) else IGNORED


_RULE_END = ": "
_BACK_IN = re.compile(r", back in (\d{1,9}) s$")


def because(rule: str, cause: str) -> str:
    """A `why`: the rule that opened the circuit and the failure behind it, "failures: HTTP 400 API_KEY_INVALID"."""
    return f"{rule}{_RULE_END}{cause}" if cause else rule


def with_return(cause: str, named_seconds: float) -> str:
    """A cause that tells when the upstream says it is back. In words, because the words reach every replica."""
    return f"{cause}, back in {named_seconds:.0f} s"


def named_return(why: str) -> float:
    """The seconds in what `with_return` made, 0 if there are none."""
    match = _BACK_IN.search(why)
    return float(match[1]) if match else 0.0


def rule_of(why: str) -> str:
    """The rule in what `because` made."""
    return why.partition(_RULE_END)[0]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long; see the rules on the package's first page.

    `failure_rate`, and `slow_rate` of calls longer than `slow_call_seconds`, are shares of the calls within
    `window_seconds`; `None` switches the rule off. `quorum`: replicas that must have seen trouble, if that many call.
    """

    failure_threshold: int
    open_seconds: float
    max_open_seconds: float = 600.0
    success_threshold: int = 2
    max_probes: int = 1
    probe_lease_seconds: float = 60.0
    jitter: float = 0.2
    failure_rate: float | None = None
    slow_call_seconds: float | None = None
    slow_rate: float = 0.8
    minimum_calls: int = 20
    window_seconds: float = 60.0
    quorum: int = 2

    def __post_init__(self) -> None:
        counts = (self.failure_threshold, self.success_threshold, self.max_probes, self.minimum_calls, self.quorum)
        spans = (self.open_seconds, self.probe_lease_seconds, self.window_seconds, self.slow_call_seconds or 1.0)
        if min(counts) < 1 or min(spans) <= 0 or self.max_open_seconds < self.open_seconds or self.jitter < 0:
            raise ValueError(f"a breaker cannot follow {self}")
        if not all(0 < rate <= 1 for rate in (self.failure_rate or 1.0, self.slow_rate)):
            raise ValueError("a rate is a share between 0 and 1")

    @property
    def has_rates(self) -> bool:
        """Does a rule look at more than failures in a row?"""
        return self.failure_rate is not None or self.slow_call_seconds is not None

    def reopen_seconds(self, failed_rounds: int, jitter: float) -> float:
        """How long after the `failed_rounds`-th failed probe; `jitter` in [0, 1]."""
        grown = min(self.max_open_seconds, self.open_seconds * 2.0 ** min(failed_rounds, 40))
        return grown * (1 + self.jitter * jitter)


class View(NamedTuple):
    """One state and its epoch. `until` is on the monotonic clock: when an open circuit lets a probe through.

    `life` names the fleet's history the epoch belongs to (-1: nobody has asked yet, 0: none); `local`: this process
    alone thinks so; `manual`: an operator's word.
    """

    state: State
    epoch: int
    until: float = 0.0
    forced: bool = False
    life: int = 0
    local: bool = True
    manual: bool = False
    why: str = ""
    who: str = ""


class Snapshot(NamedTuple):
    """For health and the operator. `retry_after` (seconds) is 0 when closed. `why`: what made the present state.
    `last_failure`: the last one that this process has seen, in words, `last_failure_seconds` ago; also while closed.
    """

    name: str
    state: State
    failure_count: int
    retry_after: float
    forced: bool
    why: str = ""
    last_failure: str = ""
    last_failure_seconds: float | None = None


class Tally:
    """Counts since the process started; plain integers, because the closed path pays for each of them."""

    __slots__ = ("failed", "ignored", "late", "ok", "rejected", "slow", "transitions")

    def __init__(self) -> None:
        self.ok = self.failed = self.ignored = self.late = self.rejected = self.slow = 0
        self.transitions: Counter[State] = Counter()


class Seen(NamedTuple):
    """Numbers behind a decision, of one replica or of the fleet, within the window."""

    calls: int
    failed: int
    slow: int
    callers: int = 1
    voters: int = 1


class Window:
    """Counts of the last `seconds` in ten slots; what left the window is forgotten a slot at a time."""

    __slots__ = ("_slot_seconds", "_slots")

    def __init__(self, seconds: float) -> None:
        self._slot_seconds = seconds / 10
        self._slots: deque[list[int]] = deque(maxlen=11)

    def add(self, now: float, calls: int, failed: int, slow: int) -> Seen:
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
        return Seen(*(sum(entry[i] for entry in self._slots) for i in (1, 2, 3)))

    def clear(self) -> None:
        self._slots.clear()
