"""A circuit for each of many keys, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

from app.core.circuit_breaker.breaker import CircuitBreaker, Fleet
from app.core.circuit_breaker.local import Tally
from app.core.circuit_breaker.rules import CLOSED, BreakerPolicy, Snapshot
from app.core.clock import SYSTEM_CLOCK, Clock


@dataclass(eq=False)
class KeyedCircuitBreakers:
    """A circuit for each of many keys, e.g. one account's token: `whatsapp_api:<phone_number_id>`.

    At most `max_keys`, the least recently used first to go; one that was not used for `idle_seconds` goes as well.
    Forced ones stay. They share one tally, so that keys never become metric labels.
    """

    name: str
    policy: BreakerPolicy
    _: KW_ONLY
    dependency: str | None = None
    """As errors name it; `None`: `name`."""
    max_keys: int = 10_000
    idle_seconds: float = 3600.0
    clock: Clock = SYSTEM_CLOCK
    tally: Tally = field(default_factory=Tally, init=False)
    fleet: Fleet | None = field(default=None, init=False)
    _breakers: OrderedDict[str, tuple[CircuitBreaker, float]] = field(default_factory=OrderedDict, init=False)
    """With the time of their last use."""

    @property
    def metric_name(self) -> str:
        return f"{self.name}:*"

    def attach(self, fleet: Fleet | None) -> None:
        """Each circuit, those to come included, joins the fleet, or with `None` leaves it."""
        self.fleet = fleet
        for breaker in self.breakers():
            breaker.attach(fleet)

    def get(self, key: str) -> CircuitBreaker:
        """The circuit of `key`, made on first use."""
        now = self.clock.monotonic()
        found = self._breakers.pop(key, None)
        breaker = found[0] if found else self._new(key)
        self._breakers[key] = (breaker, now)
        self._evict(now)
        return breaker

    def find(self, key: str) -> CircuitBreaker | None:
        """The circuit of `key` if there is one; this is no use of it."""
        found = self._breakers.get(key)
        return found[0] if found else None

    def breakers(self) -> Iterator[CircuitBreaker]:
        """All there are now, the least recently used first."""
        return iter([breaker for breaker, _ in self._breakers.values()])

    def _new(self, key: str) -> CircuitBreaker:
        breaker = CircuitBreaker(
            f"{self.name}:{key}", self.policy, dependency=self.dependency or self.name, clock=self.clock,
            tally=self.tally, metric_name=self.metric_name,
        )  # fmt: skip
        breaker.attach(self.fleet)
        return breaker

    def _evict(self, now: float) -> None:
        """At most two a call: as fast as they come in, without ever a long pause."""
        for _ in range(min(2, len(self._breakers) - 1)):
            key, (breaker, used_at) = next(iter(self._breakers.items()))
            if now - used_at < self.idle_seconds and len(self._breakers) <= self.max_keys:
                return
            if breaker.view.forced:
                self._breakers[key] = (breaker, now)
                self._breakers.move_to_end(key)
            else:
                del self._breakers[key]

    def __len__(self) -> int:
        return len(self._breakers)

    def snapshots(self) -> list[Snapshot]:
        """Of those that are not simply closed."""
        found = (breaker.snapshot() for breaker in self.breakers())
        return [snapshot for snapshot in found if snapshot.state is not CLOSED or snapshot.forced]
