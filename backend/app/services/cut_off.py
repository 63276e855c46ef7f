"""Has this replica alone lost its way to something that the others reach?

Its circuit is open here and closed for the fleet. What needs that dependency is better left to a replica that has it: a
cut-off one claims nothing and gives back what it holds. If no other living replica is well, that would be no help, and
it goes on as in any outage. It finds its way again by its own probes (services/probes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from app.core.circuit_breaker import CircuitBreaker
from app.domain.models import Json


class CutOff:
    """`breakers` by dependency; `others`: what the other living replicas say of themselves (`HealthService.load`)."""

    def __init__(
        self, breakers: Mapping[str, CircuitBreaker], others: Callable[[], Iterable[Mapping[str, object]]]
    ) -> None:
        self._breakers = breakers
        self._others = others

    def dependencies(self) -> list[str]:
        """What only this replica does not reach."""
        return [name for name, breaker in self._breakers.items() if breaker.is_cut_off]

    def leaves_work_to_others(self) -> bool:
        """True: another replica that works has what this one lacks."""
        lost = self.dependencies()
        return bool(lost) and any(_works(other) and _reaches(other, lost) for other in self._others())

    def leaves_requests_to_others(self, dependency: str) -> bool:
        """True: another replica, whatever its role, serves what needs `dependency`."""
        breaker = self._breakers[dependency]
        return breaker.is_cut_off and any(_reaches(other, [dependency]) for other in self._others())


def _works(other: Mapping[str, object]) -> bool:
    return other.get("role") != "api"


def _reaches(other: Json, lost: Iterable[str]) -> bool:
    circuits = other.get("breakers", {})
    is_serving = other.get("phase") == "ready" and other.get("status") != "error"
    return is_serving and all(circuits.get(name) == "closed" for name in lost)
