"""The log lines of circuits, each written in one place: for this process' own changes and for the fleet's.

Every number behind the decision is a field of the line.
"""

from __future__ import annotations

import logging

from app.core.circuit_breaker.rules import CLOSED, HALF_OPEN, OPEN, Counts, Rule, View, rule_of

logger = logging.getLogger("app.core.circuit_breaker")


def tripped(name: str, view: View, counts: Counts, *, threshold: int) -> None:
    """Closed -> open, by one of the rules."""
    level, rule = logging.ERROR, rule_of(view.why)
    if rule == Rule.FAILURES:
        what = f"seuil d'échecs atteint ({view.failures}/{threshold}), ouverture du circuit"
    elif rule == Rule.DELAY:
        level, what = logging.WARNING, f"the upstream asks for {view.left_seconds:.1f} s, opening the circuit"
    else:
        what = f"{rule}: {counts.failed} failed and {counts.slow} slow of {counts.calls} calls, opening the circuit"
    _log(level, name, what, view, **counts._asdict())


def half_opened(name: str, view: View) -> None:
    """Open -> half open."""
    _log(logging.INFO, name, "tentative de récupération (HALF_OPEN)", view)


def closed(name: str, view: View, **fields: object) -> None:
    """Half open -> closed, or this replica has stopped staying away from what is well for the fleet."""
    _log(logging.INFO, name, "récupération réussie (CLOSED)", view, **fields)


def reopened(name: str, view: View) -> None:
    """Half open -> open."""
    what = f"probe failed (round {view.rounds}, {view.why}), open for {view.left_seconds:.1f} s"
    _log(logging.WARNING, name, what, view)


def told(name: str, view: View) -> None:
    """Another replica, or an operator, has changed the fleet's state."""
    level = logging.WARNING if view.manual or view.state is OPEN else logging.INFO
    by = f"by {view.who or 'nobody'} ({view.why or 'no history'})"
    _log(level, name, f"{_in_words(view)} for the fleet {by}", view)


def forced(name: str, view: View) -> None:
    """By an operator, for this process only."""
    _log(logging.WARNING, name, f"{_in_words(view)} by {view.who}: {view.why}", view)


def _in_words(view: View) -> str:
    if view.forced:
        return "forced open" if view.state is OPEN else "forced closed"
    return {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half open"}[view.state]


def _log(level: int, name: str, what: str, view: View, **fields: object) -> None:
    about = {
        "scope": "replica" if view.local else "fleet", "state": view.state.value, "epoch": view.epoch,
        "failures": view.failures, "failed_rounds": view.rounds, "open_seconds": round(view.left_seconds, 1),
        "who": view.who, "why": view.why,
    }  # fmt: skip
    logger.log(level, "Circuit breaker '%s': %s", name, what, extra=about | fields)
