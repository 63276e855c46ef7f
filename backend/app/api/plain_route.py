"""A route without FastAPI's machinery that is still counted under its own name."""

from __future__ import annotations

from starlette.routing import Match, Route
from starlette.types import Scope


class PlainRoute(Route):
    """Starlette's route; it leaves itself in the scope, as FastAPI's routes do, for metrics and logs."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope
