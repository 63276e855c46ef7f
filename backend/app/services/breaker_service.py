"""The fleet's circuits for the operator: what they are, and the last word on them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from app.core.circuit_breaker import BreakerFleet, CircuitBreaker, FleetWord, KeyedCircuitBreakers
from app.core.errors import Unavailable
from app.domain.errors import NotFound


class BreakerAction(StrEnum):
    OPEN = "open"
    """Refuse every call, until told otherwise."""
    CLOSE = "close"
    """Let every call through, whatever fails, until told otherwise."""
    AUTO = "auto"
    """Closed, nothing counted, deciding by itself again."""


_STATES = {BreakerAction.OPEN: "open", BreakerAction.CLOSE: "closed", BreakerAction.AUTO: "auto"}


def words_of(row: Mapping[str, Any]) -> str:
    """Why a circuit is as it is, for people, by a row of `overview`. `""` if there is nothing to say."""
    parts = []
    if row.get("why"):
        about = [row["who"]] if row.get("who") else []
        if row.get("since_seconds") is not None:
            about.append(f"{row['since_seconds']:.0f} s ago")
        parts.append(row["why"] + (f" ({', '.join(about)})" if about else ""))
    if row.get("last_failure") and row["last_failure"] not in row.get("why", ""):
        parts.append(f"last failure: {row['last_failure']}")
    return "; ".join(parts)


def in_trouble(overview: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The circuits of an `overview` that are not closed, or count failures, with the reason in words."""
    return {
        name: f"{row['state']}{', forced' if row['forced'] else ''}: {words_of(row) or 'no reason known'}"
        for name, row in overview.items()
        if row["state"] != "closed" or row["forced"] or row["failure_count"]
    }


class BreakerService:
    """`breakers` by the short names that /health uses; `keyed` are families, by `<family>:<key>`."""

    def __init__(
        self, fleet: BreakerFleet, breakers: Mapping[str, CircuitBreaker], *keyed: KeyedCircuitBreakers
    ) -> None:
        self._fleet = fleet
        self._breakers = breakers
        self._keyed = keyed

    async def overview(self) -> dict[str, dict[str, Any]]:
        """The service-wide circuits by short name, then the keyed ones in trouble by full name. While Redis is away, as
        this replica sees them (`scope`)."""
        full_names = {breaker.name: short for short, breaker in self._breakers.items()}
        try:
            words = await self._fleet.list(full_names)
        except Unavailable:
            snapshots = [breaker.snapshot() for breaker in self._breakers.values()]
            snapshots += [snapshot for family in self._keyed for snapshot in family.snapshots()]
            return {
                full_names.get(snapshot.name, snapshot.name): snapshot._asdict() | {"scope": "replica"}
                for snapshot in snapshots
            }
        return {full_names.get(name, name): self._row(name, word) for name, word in words.items()}

    async def force(self, name: str, action: BreakerAction, *, who: str, why: str) -> dict[str, Any]:
        """For every replica, over restarts. Raises `NotFound`, and `Unavailable` while Redis is away."""
        full_name = self._full_name(name)
        word = await self._fleet.force(full_name, _STATES[action], who=who, why=why)
        return self._row(full_name, word)

    def _full_name(self, name: str) -> str:
        if name in self._breakers:
            return self._breakers[name].name
        family, _, key = name.partition(":")
        if name in {breaker.name for breaker in self._breakers.values()} or (
            key and family in {keyed.name for keyed in self._keyed}
        ):
            return name
        raise NotFound("breaker")

    def _row(self, name: str, word: FleetWord) -> dict[str, Any]:
        view = word.view
        return {
            "name": name,
            "state": view.state.value,
            "failure_count": word.failures,
            "retry_after": round(word.retry_after_seconds, 1),
            "forced": view.forced,
            "scope": "fleet",
            "epoch": view.epoch,
            "failed_rounds": word.rounds,
            "who": view.who,
            "why": view.why,
            "last_failure": word.last_failure,
            "since_seconds": round(word.age_seconds, 1),
        }
