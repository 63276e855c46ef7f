"""A circuit for each of many keys, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from app.core.circuit_breaker.breaker import CircuitBreaker, Fleet
from app.core.circuit_breaker.local import Tally
from app.core.circuit_breaker.rules import CLOSED, BreakerPolicy, Snapshot
from app.core.clock import SYSTEM_CLOCK, Clock

MAX_KEYS = 10_000
KEY_IDLE_SECONDS = 3600.0


class KeyedCircuitBreakers:
    """A circuit for each of many keys, e.g. one account's token: `whatsapp_api:<phone_number_id>`.

    At most `max_keys`, the least recently used first to go; one that was not used for `idle_seconds` goes as well.
    Forced ones stay. They share one tally, so that keys never become metric labels.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        *,
        dependency: str | None = None,
        max_keys: int = MAX_KEYS,
        idle_seconds: float = KEY_IDLE_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.metric_name = f"{name}:*"
        self.tally = Tally()
        self._policy = policy
        self._dependency = dependency or name
        self._max_keys = max_keys
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._breakers: OrderedDict[str, tuple[CircuitBreaker, float]] = OrderedDict()
        self.fleet: Fleet | None = None

    def attach(self, fleet: Fleet | None) -> None:
        """Each circuit, those to come included, joins the fleet, or with `None` leaves it."""
        self.fleet = fleet
        for breaker in self.breakers():
            breaker.attach(fleet)

    def get(self, key: str) -> CircuitBreaker:
        """The circuit of `key`, made on first use."""
        now = self._clock.monotonic()
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
            f"{self.name}:{key}",
            self._policy,
            dependency=self._dependency,
            clock=self._clock,
            tally=self.tally,
            family=self.metric_name,
        )
        breaker.attach(self.fleet)
        return breaker

    def _evict(self, now: float) -> None:
        """At most two a call: as fast as they come in, without ever a long pause."""
        for _ in range(min(2, len(self._breakers) - 1)):
            key, (breaker, used_at) = next(iter(self._breakers.items()))
            if now - used_at < self._idle_seconds and len(self._breakers) <= self._max_keys:
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
        found = (breaker.snapshot() for breaker, _ in self._breakers.values())
        return [snapshot for snapshot in found if snapshot.state is not CLOSED or snapshot.forced]
