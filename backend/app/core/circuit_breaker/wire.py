"""The scripts' keys, arguments and answers. Times travel as whole microseconds that remain, never as points in time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from app.core.circuit_breaker.rules import CLOSED, BreakerPolicy, State, View
from app.core.redis.script import Script

REPORT, ACQUIRE, SETTLE, FORCE, READ, PROVE = (
    Script(f"breaker_{name}", prelude="breaker_state")
    for name in ("report", "acquire", "settle", "force", "read", "prove")
)

ScriptCall = tuple[Script, Sequence[str], Sequence[Any]]
"""A script, its keys and its arguments: those of `Door.run`."""

MAX_LISTED = 1000
"""Keyed circuits in trouble that a replica follows, and asks for by name, in one round."""

FORCED = {"open": "forced_open", "closed": "forced_closed", "auto": "closed"}
"""What an operator may say, and the state it makes."""

OUTCOMES = {"ok": "ok", "failed": "fail", "ignored": "release"}
"""What `breaker_settle` calls the end of a probe."""

_VIEW_FIELDS = 10
_MICRO = 1_000_000


class Keys:
    """Names of keys and channel in a namespace. A group is what shares a slot: `whatsapp_api` and its accounts."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}:breaker:"
        self.channel = f"{namespace}:breakers"

    def prefix(self, name: str) -> str:
        return f"{self._prefix}{{{group_of(name)}}}:"

    def index(self, name: str) -> str:
        return f"{self.prefix(name)}index"

    def of(self, name: str) -> list[str]:
        """Those of every script but `breaker_read` and `breaker_report`."""
        prefix = self.prefix(name)
        return [f"{prefix}{name}:s", f"{prefix}{name}:w", f"{prefix}{name}:p", f"{prefix}index"]

    def of_report(self, name: str) -> list[str]:
        return [*self.of(name), f"{self.prefix(name)}{name}:c"]

    def read_calls(self, names: Iterable[str], groups: Iterable[str] = ()) -> list[ScriptCall]:
        """A call for each group, those of `names` and `groups`: the fleet's state of the named circuits, and of every
        keyed one of the group in trouble."""
        named: dict[str, list[str]] = {group: [] for group in groups}
        for name in names:
            named.setdefault(group_of(name), []).append(name)
        return [
            (READ, [self.index(group)], [self.prefix(group), MAX_LISTED, *members[:MAX_LISTED]])
            for group, members in named.items()
        ]


def group_of(name: str) -> str:
    return name.partition(":")[0]


def micros(seconds: float) -> int:
    return round(seconds * _MICRO)


def report_rules(policy: BreakerPolicy) -> list[Any]:
    """Arguments 11 to 18 of `breaker_report`."""
    return [
        policy.failure_threshold, policy.failure_rate or 0, policy.slow_rate if policy.slow_call_seconds else 0,
        policy.minimum_calls, micros(policy.window_seconds), micros(policy.open_seconds),
        micros(policy.max_open_seconds), policy.quorum,
    ]  # fmt: skip


def read_view(fields: Sequence[bytes], now: float) -> View:
    """A view as the scripts return and publish it; `now` is monotonic."""
    life, epoch, state, left, failures, rounds, manual, who, why, age = fields
    name, left_seconds = state.decode(), int(left) / _MICRO
    forced = name.startswith("forced_")
    value = State(name.removeprefix("forced_"))
    return View(
        value, int(epoch), 0.0 if value is CLOSED else float("inf") if forced else now + left_seconds, forced=forced,
        life=int(life), local=False, manual=manual == b"1", why=why.decode(), who=who.decode(), failures=int(failures),
        rounds=int(rounds), left_seconds=left_seconds, age_seconds=int(age) / _MICRO,
    )  # fmt: skip


def read_answer(answer: Sequence[Any], now: float) -> tuple[list[int], View]:
    """The answer of every script but `breaker_read`: its numbers, then the view."""
    return list(answer[:-_VIEW_FIELDS]), read_view(answer[-_VIEW_FIELDS:], now)


def read_row(row: Sequence[bytes], now: float) -> tuple[str, View]:
    """A row of `breaker_read`: the circuit's name and the fleet's state of it."""
    name, *fields, last_failure = row
    return name.decode(), read_view(fields, now)._replace(last_failure=last_failure.decode())


def read_message(data: bytes, now: float) -> tuple[str, View]:
    """A published message: the circuit's name and the fleet's state of it."""
    name, *fields = data.split(b"\n")
    return name.decode(), read_view(fields, now)
