"""The states of a circuit, and every decision about them as a pure function: when it opens and for how long, and which
state of the fleet counts.

`core/lua/breaker_report.lua` and `breaker_settle.lua` decide the same for the fleet, from the fleet's numbers;
`tests/unit/test_breaker_rules.py` puts the same numbers to both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
_SEVERITY = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


class View(NamedTuple):
    """One state and its epoch. `until` is on the monotonic clock: when an open circuit lets a probe through.

    `life` names the fleet's history the epoch belongs to (-1: not asked yet, 0: none); `local`: this process alone
    thinks so; `manual`: made by an operator.

    `failures` in a row and `rounds` of failed probes so far; `left_seconds`: of an open one, when it was made, read or
    extended. Of the fleet's also `age_seconds` since its last change, when it was read, and `last_failure` in words,
    if that was asked for (`wire.read_row`) and failures are counted or opened the circuit.
    """

    state: State
    epoch: int = 0
    until: float = 0.0
    forced: bool = False
    life: int = 0
    local: bool = True
    manual: bool = False
    why: str = ""
    who: str = ""
    failures: int = 0
    rounds: int = 0
    left_seconds: float = 0.0
    age_seconds: float = 0.0
    last_failure: str = ""

    @property
    def version(self) -> tuple[int, int]:
        """History and epoch. Greater is newer."""
        return self.life, self.epoch

    @property
    def is_in_trouble(self) -> bool:
        """Not simply closed: worth following closely."""
        return self.state is not CLOSED or self.forced or self.failures > 0

    @property
    def is_kept(self) -> bool:
        """Does Redis hold anything of it? A circuit without a failure and without an operator's word is not there."""
        return bool(self.life or self.failures)


UNKNOWN = View(CLOSED, life=-1)
"""A fleet's state that was not read yet."""


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


class Rule(StrEnum):
    """What opens a closed circuit."""

    DELAY = "delay"
    """The upstream named a delay."""
    FAILURES = "failures"
    """So many in a row."""
    FAILURE_RATE = "failure rate"
    SLOW_CALLS = "slow calls"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long; see the rules on the package's first page.

    `failure_rate`, and `slow_rate` of calls longer than `slow_call_seconds`, are shares of the calls within
    `window_seconds`; `None` switches the rule off. `quorum`: replicas that must have seen trouble, if that many call.
    `probe_wait_seconds`: what a caller is told to wait while another one's probe is under way. `rejoin_seconds`: see
    `rejoining`.
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
    probe_wait_seconds: float = 1.0
    rejoin_seconds: float = 1.0

    def __post_init__(self) -> None:
        counts = (self.failure_threshold, self.success_threshold, self.max_probes, self.minimum_calls, self.quorum)
        spans = (
            self.open_seconds, self.probe_lease_seconds, self.window_seconds, self.slow_call_seconds or 1.0,
            self.probe_wait_seconds, self.rejoin_seconds,
        )  # fmt: skip
        if min(counts) < 1 or min(spans) <= 0 or self.max_open_seconds < self.open_seconds or self.jitter < 0:
            raise ValueError(f"a breaker cannot follow {self}")
        if not all(0 < rate <= 1 for rate in (self.failure_rate or 1.0, self.slow_rate)):
            raise ValueError("a rate is a share between 0 and 1")


class Counts(NamedTuple):
    """Numbers behind a decision, of one replica or of the fleet, within the window. `callers`: replicas that called;
    `voters`: those of them with failures or slow calls."""

    calls: int
    failed: int
    slow: int
    callers: int = 1
    voters: int = 1


class Trip(NamedTuple):
    """A closed circuit opens: by which rule, for how many seconds."""

    rule: Rule
    seconds: float


def judge(
    policy: BreakerPolicy, counts: Counts, *, in_a_row: int, hold_seconds: float = 0.0, living: int = 1
) -> Trip | None:
    """Does a closed circuit open? `None`: no rule says so.

    `in_a_row`: failures since the last success. `hold_seconds`: the delay that the upstream named, 0 for none; its own
    word needs no quorum. `living`: replicas that may call. One that is idle has not seen trouble, so it counts as well.
    """
    if hold_seconds > 0:
        return Trip(Rule.DELAY, min(hold_seconds, policy.max_open_seconds))
    if counts.voters < min(policy.quorum, max(counts.callers, living)):
        return None
    if in_a_row >= policy.failure_threshold:
        return Trip(Rule.FAILURES, policy.open_seconds)
    if counts.calls < policy.minimum_calls:
        return None
    if policy.failure_rate and counts.failed >= policy.failure_rate * counts.calls:
        return Trip(Rule.FAILURE_RATE, policy.open_seconds)
    if policy.slow_call_seconds and counts.slow >= policy.slow_rate * counts.calls:
        return Trip(Rule.SLOW_CALLS, policy.open_seconds)
    return None


def reopen_seconds(policy: BreakerPolicy, rounds: int, *, hold_seconds: float = 0.0, jitter: float = 0.0) -> float:
    """For how long a circuit opens after its `rounds`-th failed probe; `jitter`: what to add, as a share."""
    if hold_seconds > 0:
        return min(hold_seconds, policy.max_open_seconds)
    return min(policy.max_open_seconds, policy.open_seconds * 2.0 ** min(rounds, 40)) * (1 + jitter)


def is_outdated(told: View, known: View, asked: tuple[int, int] | None) -> bool:
    """Is a state of the fleet older than the one that is known? `asked`: the known version when the question was put,
    `None` for a message. An older answer to a question put with the newest version in hand is not outdated: the
    server has lost its history, and what it says now stands."""
    return told.version < known.version and asked != known.version


def takes_over(told: View, mine: View, known: View) -> bool:
    """Does a circuit take over the state that the fleet tells? Not if what this replica has seen itself is worse; but a
    new state made by hand always. `known`: what the fleet told before."""
    news = told.version != known.version
    if not (news and told.manual) and mine.local and (mine.forced or _SEVERITY[mine.state] > _SEVERITY[told.state]):
        return False
    both_closed = mine.state is CLOSED and told.state is CLOSED and not told.forced
    return not (both_closed and (known.version == UNKNOWN.version or not news))


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
