"""The states of a circuit, and what is told of one."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class View(NamedTuple):
    """One state and its epoch. `until` is on the monotonic clock: when an open circuit lets a probe through.

    `life` names the fleet's history the epoch belongs to (-1: not asked yet, 0: none); `local`: this process alone
    thinks so; `manual`: made by an operator.

    `failures` in a row and `rounds` of failed probes so far; `left_seconds`: of an open one, when it was made or read.
    Of the fleet's also `age_seconds` since its last change, when it was read, and `last_failure` in words, if that was
    asked for (`wire.read_row`) and failures are counted or opened the circuit.
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
