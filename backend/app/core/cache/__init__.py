"""Keep what is expensive to load, load it once however many ask, forget it when it changes.

    @cached(ttl_seconds=300, key_prefix="user_data")
    async def get_user_data(user_id: str): ...                         # kept under "user_data:<user_id>"

    data = await get_cached_or_fetch(f"user:{user_id}", fetch_from_db, user_id, ttl_seconds=300)

    await invalidate_cache_pattern(f"user:{user_id}")                  # one key
    await invalidate_cache_pattern("user:*")                           # a group, or any glob

1. A fresh entry is returned as it is: no await, no lock, no copy. Values are frozen all the way down
   (`codec.py`), so no caller can change what others see. `None` is a value.
2. On a miss the first caller's load serves all who ask meanwhile. Cancelling any of them cancels neither the load
   nor the others. A load is bounded by 15 s.
3. An invalidation during a load prevents its result from being kept, and later callers load anew: after an
   `invalidate` has returned, no caller gets what was read before it.
4. If the source fails for an expected reason (`Unavailable`, network, timeout), an expired copy may stand in for
   `stale_for_seconds`, but never one that was invalidated. Off by default.
5. The TTL is cut by up to 10 % at random. `None` is kept 30 s at most unless `negative_ttl_seconds` says otherwise.
6. Bounded by entries and by bytes; absent values have their own bound.

Values are plain JSON, or what `type=` names: a frozen dataclass, or anything made of them. What would come back from
JSON as something else is refused with a `TypeError` on the first load.

Alone it is a cache of the process. `join_fleet(default_cache, url, namespace=…)` puts memory before a tier in Redis
that all replicas share: one of them loads a cold key, an invalidation reaches all, memory is believed only while
provably nothing was missed. The same objects, the same calls; and then also

    async with write_fence(f"user:{user_id}"):                         # what the commit makes old is not kept
        await commit()

The protocol, why it is race-free, its windows and bounds: `docs/cache.md`; the scripts: `core/lua/cache_*.lua`.

What it does not do: keep what must survive, or make several keys change together. It belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from prometheus_client import REGISTRY

from app.core.cache.cache import Cache
from app.core.cache.codec import FrozenDict, FrozenList, codec_for
from app.core.cache.decorator import CachedFunction, remember
from app.core.cache.inspection import inspect_key, survey
from app.core.cache.membership import join_fleet
from app.core.cache.policy import DEFAULT_TTL_SECONDS, CacheTimings, policy_of
from app.core.cache.stats import CacheCollector, CacheStats

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "Cache", "CacheCollector", "CacheStats", "CacheTimings", "CachedFunction", "FrozenDict", "FrozenList", "cached",
    "cleanup", "default_cache", "get_cache", "get_cached_or_fetch", "inspect_key", "invalidate_cache_pattern",
    "invalidate_everywhere", "join_fleet", "stats", "survey", "write_fence",
]  # fmt: skip

default_cache = Cache()
"""The process's own, behind the functions of this module."""

get_cached_or_fetch = default_cache.get_or_fetch
invalidate_cache_pattern = default_cache.invalidate
invalidate_everywhere = default_cache.invalidate_everywhere
write_fence = default_cache.write_fence
stats = default_cache.stats
cleanup = default_cache.cleanup

REGISTRY.register(CacheCollector(default_cache.stats))


def get_cache() -> Cache:
    """The one behind the functions of this module."""
    return default_cache


def cached(
    *,
    ttl_seconds: float = DEFAULT_TTL_SECONDS,
    key_prefix: str | None = None,
    type: Any = None,  # noqa: A002  the name of the public parameter
    negative_ttl_seconds: float | None = None,
    stale_for_seconds: float = 0.0,
    soft_timeout_seconds: float | None = None,
) -> Callable[[Callable[P, Awaitable[T]]], CachedFunction[P, T]]:
    """Cache a coroutine function's results by its arguments (str, int, bool, None, UUID, enums), by default under its
    module and name.

    Not for methods: `self` is no cache key.
    """
    codec = codec_for(type)
    policy = policy_of(ttl_seconds, negative_ttl_seconds, stale_for_seconds, soft_timeout_seconds)
    return lambda fn: remember(default_cache, fn, key_prefix or _prefix_of(fn), codec, policy)


def _prefix_of(fn: Callable[..., object]) -> str:
    return f"{fn.__module__}.{fn.__qualname__}".replace(".<locals>", "")
