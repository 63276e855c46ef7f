"""For how long a value is kept, and a load under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.core.cache.codec import Codec
from app.core.cache.shard import Shard, Spend, Stored

TTL_JITTER = 0.1
"""A TTL is cut by up to this share, so that what was loaded together does not expire together."""
ABSENT_TTL_SECONDS = 30.0
"""The longest `None` is kept unless the caller says otherwise: things that do not exist tend to be created."""
STALE_RETRY_SECONDS = 2.0
"""How long a stale value is served before the failing source is asked again."""
REFRESH_SHARE = 0.2
"""Of the TTL is left, jittered down to half of that, when a value of the shared tier is loaded anew ahead of time."""
SHARED_SECONDS = 0.03
"""What the shared tier may add to a read whose value comes from the source, plus `MIN_CALL_SECONDS` for each call that
finds this used up: 50 ms in all."""
MIN_CALL_SECONDS = 0.01


class Keep(NamedTuple):
    """Seconds. `absent`: for `None` · `stale`: beyond the TTL, while the source fails · `soft`: how long a caller waits
    for the source if there is a stale copy."""

    ttl: float
    absent: float
    stale: float
    soft: float | None = None

    @classmethod
    def of(
        cls,
        ttl_seconds: float,
        negative_ttl_seconds: float | None = None,
        stale_for_seconds: float = 0.0,
        soft_timeout_seconds: float | None = None,
    ) -> Keep:
        if ttl_seconds <= 0:
            raise ValueError("ttl_seconds must be positive")
        absent = min(ttl_seconds, ABSENT_TTL_SECONDS) if negative_ttl_seconds is None else negative_ttl_seconds
        return cls(ttl_seconds, absent, stale_for_seconds, soft_timeout_seconds)

    @property
    def longest(self) -> float:
        return max(self.ttl, self.absent)

    def ttl_of(self, value: Any) -> float:
        return self.absent if value is None else self.ttl


@dataclass(slots=True, eq=False)
class Flight:
    """A load under way, for everybody who asks meanwhile."""

    key: str
    codec: Codec
    fetch: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    keep: Keep
    shard: Shard | None
    """`None`: the cache belongs to this process alone."""
    flushes: int
    """Of the shard's channel when the flight began."""
    done: asyncio.Future[Any] = field(init=False)
    """Made when somebody has to wait for it: `waited_for` says so."""
    waited_for: bool = False
    spend: Spend = field(default_factory=lambda: Spend(SHARED_SECONDS))
    dirty: bool = False
    """What it brings may be older than an invalidation."""
    uncached: bool = False
    """The shared tier is away, or lacks an invalidation: straight to the source, and nothing is kept."""
    old: Stored | None = None
    """The shared tier's copy, past its time."""
    seen: int | None = None
    """A refresh: the end of freshness (server µs) of the copy in hand."""

    def future(self) -> asyncio.Future[Any]:
        if not self.waited_for:
            self.waited_for = True
            self.done = asyncio.get_running_loop().create_future()
        return self.done
