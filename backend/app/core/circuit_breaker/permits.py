"""Who may probe, where this process alone decides."""

from __future__ import annotations

from typing import NamedTuple

from app.core.circuit_breaker.rules import BreakerPolicy


class FleetLease(NamedTuple):
    """A probe's permit from the fleet, and the epoch it belongs to."""

    id: str
    life: int
    epoch: int


class Permits:
    """Leases of one half-open state: at most `max_probes` at a time, and no more than it takes to close."""

    __slots__ = ("_leases", "_policy", "good")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.good = 0
        """Probes that succeeded."""
        self._policy = policy
        self._leases: dict[object, float] = {}
        """With the time (monotonic) at which each runs out."""

    def restart(self) -> None:
        """Another state has begun: what was granted before is void."""
        self.good = 0
        self._leases.clear()

    def acquire(self, now: float) -> object | None:
        """A lease, `None` if there is none to be had."""
        for expired in [lease for lease, expiry in self._leases.items() if expiry <= now]:
            del self._leases[expired]
        live = len(self._leases)
        if live >= self._policy.max_probes or live + self.good >= self._policy.success_threshold:
            return None
        lease = object()
        self._leases[lease] = now + self._policy.probe_lease_seconds
        return lease

    def give_back(self, lease: object, now: float) -> bool:
        """False if it had run out: the result of that probe counts no longer."""
        return self._leases.pop(lease, 0.0) > now

    def __len__(self) -> int:
        return len(self._leases)


class Rejoining:
    """How soon a replica that alone stayed away is believed when it sees the dependency well: at once the first time;
    when it failed again soon after, only after 1 s, then 2 s, 4 s … up to the base period."""

    __slots__ = ("_believed_at", "_policy", "_rounds", "_waits_until")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._rounds = 0
        self._waits_until, self._believed_at = 0.0, float("-inf")

    def tripped(self, now: float) -> None:
        soon = now - self._believed_at < self._policy.open_seconds
        self._rounds = self._rounds + 1 if soon else 0
        wait = self._policy.rejoin_seconds * 2.0 ** min(self._rounds - 1, 40) if self._rounds else 0.0
        self._waits_until = now + min(self._policy.open_seconds, wait)

    def believes(self, now: float) -> bool:
        """Is what is seen well now believed? Asked only when it was seen well."""
        if now < self._waits_until:
            return False
        self._believed_at = now
        return True
