"""The log lines of circuits, each written in one place: for this process' own changes and for the fleet's.

`numbers`: every number behind the decision, as fields of the line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from app.core.circuit_breaker.rules import Rule, rule_of
from app.core.circuit_breaker.states import CLOSED, HALF_OPEN, OPEN, View

logger = logging.getLogger("app.core.circuit_breaker")

Numbers = Mapping[str, Any]


def tripped(name: str, why: str, *, failures: int, threshold: int, seconds: float, numbers: Numbers) -> None:
    """Closed -> open, by one of the rules."""
    rule = rule_of(why)
    if rule == Rule.FAILURES:
        _log(logging.ERROR, name, f"seuil d'échecs atteint ({failures}/{threshold}), ouverture du circuit", numbers)
    elif rule == Rule.DELAY:
        _log(logging.WARNING, name, f"the upstream asks for {seconds:.1f} s, opening the circuit", numbers)
    else:
        shares = f"{numbers.get('failed')} failed and {numbers.get('slow')} slow of {numbers.get('calls')} calls"
        _log(logging.ERROR, name, f"{rule}: {shares}, opening the circuit", numbers)


def half_opened(name: str, numbers: Numbers) -> None:
    """Open -> half open."""
    _log(logging.INFO, name, "tentative de récupération (HALF_OPEN)", numbers)


def closed(name: str, numbers: Numbers) -> None:
    """Half open -> closed, or this replica has stopped staying away from what is well for the fleet."""
    _log(logging.INFO, name, "récupération réussie (CLOSED)", numbers)


def reopened(name: str, *, rounds: int, seconds: float, why: str = "", numbers: Numbers) -> None:
    """Half open -> open."""
    about = f"round {rounds}, {why}" if why else f"round {rounds}"
    _log(logging.WARNING, name, f"probe failed ({about}), open for {seconds:.1f} s", numbers)


def told(name: str, view: View, numbers: Numbers) -> None:
    """Another replica, or an operator, has changed the fleet's state."""
    level = logging.WARNING if view.manual or view.state is OPEN else logging.INFO
    by = f"by {view.who or 'nobody'} ({view.why or 'no history'})"
    _log(level, name, f"{_in_words(view)} for the fleet {by}", numbers)


def forced(name: str, state: str, *, who: str, why: str) -> None:
    """By an operator, for this process only."""
    logger.warning("Circuit breaker '%s': forced %s by %s: %s", name, state, who, why)


def _in_words(view: View) -> str:
    if view.forced:
        return "forced open" if view.state is OPEN else "forced closed"
    return {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half open"}[view.state]


def _log(level: int, name: str, what: str, numbers: Numbers) -> None:
    logger.log(level, "Circuit breaker '%s': %s", name, what, extra=dict(numbers))
