"""For how long a value is kept, and how long each step of the cache may take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from app.core.redis.listening import LISTEN_TIMINGS, ListenTimings

DEFAULT_TTL_SECONDS = 300.0
"""Of callers who name none."""
MAX_KEPT_SECONDS = 7 * 86400
"""Below the life of a group's record (cache_lease.lua), without which a value counts for nothing."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Of one call; seconds. `absent_ttl`: for `None` · `stale`: beyond the TTL, while the source fails ·
    `soft_timeout`: how long a caller waits for the source if there is a stale copy."""

    ttl: float
    absent_ttl: float
    stale: float
    soft_timeout: float | None
    longest_ttl: float

    def ttl_of(self, value: Any) -> float:
        return self.absent_ttl if value is None else self.ttl


@lru_cache(maxsize=256)
def policy_of(
    ttl_seconds: float,
    negative_ttl_seconds: float | None = None,
    stale_for_seconds: float = 0.0,
    soft_timeout_seconds: float | None = None,
) -> CachePolicy:
    """Raises `ValueError`. Remembered, because a process has few of them and asks at every read."""
    if ttl_seconds <= 0:
        raise ValueError("ttl_seconds must be positive")
    absent = min(ttl_seconds, ABSENT_TTL_SECONDS) if negative_ttl_seconds is None else negative_ttl_seconds
    return CachePolicy(ttl_seconds, absent, stale_for_seconds, soft_timeout_seconds, max(ttl_seconds, absent))


ABSENT_TTL_SECONDS = 30.0
"""The longest `None` is kept unless the caller says otherwise: things that do not exist tend to be created."""


@dataclass(frozen=True, slots=True)
class CacheTimings:
    """Seconds, unless a name says otherwise."""

    # What a look-up may cost.
    load: float = 15.0
    """A load from the source: all who ask for the key wait for it. A lease of another replica that is renewed is waited
    for as long."""
    shared: float = 0.03
    """What the shared tier may add to a read whose value comes from the source, beyond the round trips to it: plus
    `call` for each call that finds this used up, 50 ms in all."""
    call: float = 0.01
    """No call of a read has less."""
    poll: float = 0.04
    """As `shared`, for each question whether another replica's load has ended."""
    first_wait: float = 0.005
    max_wait: float = 0.025
    """Between two of these questions."""
    round_trips: float = 3.0
    """Limits of a read are longer by so many times the distance of Redis (core/redis/door.py)."""
    away: float = 0.5
    """After a call that was not answered in time, one call this often finds out whether Redis is back."""

    # Leases, fences, freshness.
    lease: float = 2.0
    """A loader that died costs the others this much, once. One that lives renews it."""
    fence: float = 15.0
    """Longer than a commit may take. A writer that died leaves its keys uncached for this long."""
    slack: float = 1.0
    """Between the server's clock and what we take it for."""
    stale_retry: float = 2.0
    """How long a stale value is served before the failing source is asked again."""
    ttl_jitter: float = 0.1
    """A share. A TTL is cut by up to this, so that what was loaded together does not expire together."""
    refresh_share: float = 0.2
    """A share of the TTL that is left, jittered down to half of that, when a value is loaded anew ahead of time."""

    # Invalidations.
    invalidate: float = 0.25
    retry: float = 0.2
    """Between two tries to carry out what Redis did not take."""
    scan_page: float = 2.0

    # The channel.
    connect: float = 1.0
    """To be told the sequence. A start waits for the channel as long; until then reads go past memory."""
    listening: ListenTimings = LISTEN_TIMINGS
    """A lost channel is back within two seconds: the longest pause, a connection and a beat."""
    grace: float = 0.2
    """On a cluster the answer to a PING can overtake a message, which comes over the bus from another node."""


TIMINGS = CacheTimings()
