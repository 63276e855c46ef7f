"""The scripts' arguments and answers. Times travel as whole microseconds that remain, never as points in time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from app.core.circuit_breaker.rules import BreakerPolicy
from app.core.circuit_breaker.states import CLOSED, State, View
from app.core.redis.door import ScriptCall
from app.core.redis.script import Script

REPORT, ACQUIRE, SETTLE, FORCE, READ, PROVE = (
    Script(f"breaker_{name}", prelude="breaker_state")
    for name in ("report", "acquire", "settle", "force", "read", "prove")
)
SCRIPTS = (REPORT, ACQUIRE, SETTLE, FORCE, READ, PROVE)

MAX_LISTED = 1000
"""Keyed circuits in trouble that a replica follows, and asks for by name, in one round."""

FORCED = {"open": "forced_open", "closed": "forced_closed", "auto": "closed"}
"""What an operator may say, and the state it makes."""

_MICRO = 1_000_000


class FleetState(NamedTuple):
    """The fleet's state of one circuit, as read just now. `age_seconds`: since the last change. `last_failure`: in
    words, if it was asked for (`read_row`) and failures are counted or opened the circuit."""

    view: View
    failures: int
    rounds: int
    age_seconds: float
    retry_after_seconds: float
    last_failure: str = ""

    @property
    def is_kept(self) -> bool:
        """Does Redis hold anything of it? A circuit without a failure and without an operator's word is not there."""
        return bool(self.view.life or self.failures)


class Keys:
    """Names of keys and channel in a namespace. A group is what shares a slot: `whatsapp_api` and its accounts."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}:breaker:"
        self.channel = f"{namespace}:breakers"

    def prefix(self, name: str) -> str:
        group = name.partition(":")[0]
        return f"{self._prefix}{{{group}}}:"

    def index(self, name: str) -> str:
        return f"{self.prefix(name)}index"

    def of(self, name: str) -> list[str]:
        """The first four of every script but `breaker_read`."""
        prefix = self.prefix(name)
        return [f"{prefix}{name}:s", f"{prefix}{name}:w", f"{prefix}{name}:p", f"{prefix}index"]

    def of_report(self, name: str) -> list[str]:
        return [*self.of(name), f"{self.prefix(name)}{name}:c"]

    def read_call(self, group: str, names: Iterable[str]) -> ScriptCall:
        """The fleet's state of these circuits of one group, and of every keyed one of it in trouble."""
        return READ, [self.index(group)], [self.prefix(group), MAX_LISTED, *names]


def micros(seconds: float) -> int:
    return round(seconds * _MICRO)


def report_rules(policy: BreakerPolicy) -> list[Any]:
    """Arguments 11 to 18 of `breaker_report`."""
    return [
        policy.failure_threshold, policy.failure_rate or 0, policy.slow_rate if policy.slow_call_seconds else 0,
        policy.minimum_calls, micros(policy.window_seconds), micros(policy.open_seconds),
        micros(policy.max_open_seconds), policy.quorum,
    ]  # fmt: skip


def read_state(fields: Sequence[bytes], now: float) -> FleetState:
    """A view as the scripts return and publish it; `now` is monotonic."""
    life, epoch, state, left, failures, rounds, manual, who, why, age = fields
    name = state.decode()
    forced = name.startswith("forced_")
    value = State(name.removeprefix("forced_"))
    until = 0.0 if value is CLOSED else float("inf") if forced else now + int(left) / _MICRO
    view = View(
        value, int(epoch), until, forced=forced, life=int(life), local=False, manual=manual == b"1",
        why=why.decode(), who=who.decode(),
    )  # fmt: skip
    return FleetState(view, int(failures), int(rounds), int(age) / _MICRO, int(left) / _MICRO)


def read_row(row: Sequence[bytes], now: float) -> tuple[str, FleetState]:
    """A row of `breaker_read`: the circuit's name and the fleet's state of it."""
    name, *fields, last_failure = row
    return name.decode(), read_state(fields, now)._replace(last_failure=last_failure.decode())


def read_message(data: bytes, now: float) -> tuple[str, FleetState]:
    """A published message: the circuit's name and the fleet's state of it."""
    name, *fields = data.split(b"\n")
    return name.decode(), read_state(fields, now)
