"""One cache: look up, load once however many ask, forget."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from app.core.cache.codec import Codec, codec_for
from app.core.cache.memory import ENTRY_OVERHEAD_BYTES, Entry, Memory
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.http_client import is_network_error

logger = logging.getLogger("app.core.cache")

T = TypeVar("T")

TTL_JITTER = 0.1
"""A TTL is cut by up to this share, so that what was loaded together does not expire together."""
ABSENT_TTL_SECONDS = 30.0
"""The longest `None` is kept unless the caller says otherwise: things that do not exist tend to be created."""
STALE_RETRY_SECONDS = 2.0
"""How long a stale value is served before the failing source is asked again."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the process started; `entries` and `bytes` (of JSON) are as of now.

    `coalesced`: misses that joined a load under way · `stale`: loads that failed and were answered from an expired
    copy · `refused_fills`: loads whose result was not kept because of an invalidation meanwhile.
    """

    hits: int
    misses: int
    coalesced: int
    loads: int
    load_failures: int
    stale: int
    refused_fills: int
    invalidations: int
    evictions: int
    entries: int
    bytes: int


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    loads: int = 0
    load_failures: int = 0
    stale: int = 0
    refused_fills: int = 0
    invalidations: int = 0


@dataclass(slots=True)
class _Flight:
    """A load under way. `dirty`: what it brings may be older than an invalidation."""

    codec: Codec
    task: asyncio.Task[Any] = field(init=False)
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """How long a value is kept, in seconds. `absent`: for `None` · `stale`: beyond the TTL, while the source fails."""

    ttl: float
    absent: float
    stale: float

    @classmethod
    def of(cls, ttl_seconds: float, negative_ttl_seconds: float | None, stale_for_seconds: float) -> Keep:
        if ttl_seconds <= 0:
            raise ValueError("ttl_seconds must be positive")
        absent = min(ttl_seconds, ABSENT_TTL_SECONDS) if negative_ttl_seconds is None else negative_ttl_seconds
        return cls(ttl_seconds, absent, stale_for_seconds)


class Cache:
    """A process's cache, for one event loop. Absent values (`None`) have a small room of their own: whoever asks for
    a million things that do not exist displaces nothing that does."""

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_absent: int = 2_000,
        load_timeout_seconds: float = 15.0,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._present = Memory(max_entries=max_entries, max_bytes=max_bytes)
        self._absent = Memory(max_entries=max_absent, max_bytes=max_bytes)
        self._flights: dict[tuple[str, Codec], _Flight] = {}
        self._counts = _Counts()
        self._load_timeout_seconds = load_timeout_seconds
        self._monotonic = clock.monotonic
        self._uniform = uniform

    def hit(self, key: str, codec: Codec) -> Entry | None:
        """The fresh entry of `key`, counted and logged as a hit, or `None`. A microsecond."""
        memory = self._present
        entry = memory.find(key)
        if entry is None:
            memory = self._absent
            entry = memory.find(key)
            if entry is None:
                return None
        if entry.expires_at <= self._monotonic() or entry.codec is not codec:
            return None
        memory.touch(key)
        self._counts.hits += 1
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Cache HIT: %s", key)
        return entry

    async def get_or_fetch(
        self,
        key: str,
        fetch_func: Callable[..., Awaitable[T]],
        *args: Any,
        ttl_seconds: float,
        type: Any = None,  # noqa: A002
        negative_ttl_seconds: float | None = None,
        stale_for_seconds: float = 0.0,
    ) -> T:
        """The cached value of `key`, or that of `await fetch_func(*args)`; see the package's first page."""
        codec = codec_for(type)
        entry = self.hit(key, codec)
        if entry is not None:
            return cast(T, entry.value)
        return await self.load(
            key, fetch_func, args, codec, Keep.of(ttl_seconds, negative_ttl_seconds, stale_for_seconds)
        )

    async def load(
        self, key: str, fetch: Callable[..., Awaitable[T]], args: tuple[Any, ...], codec: Codec, keep: Keep
    ) -> T:
        """Join the load of `key`, or start one. Being cancelled cancels nobody else and not the load."""
        flight = self._flights.get((key, codec))
        if flight is not None:
            self._counts.coalesced += 1
            return cast(T, await asyncio.shield(flight.task))
        self._counts.misses += 1
        logger.debug("Cache MISS: %s", key)
        flight = _Flight(codec)
        flight.task = asyncio.create_task(self._fly(flight, key, fetch, args, keep), name=f"cache load {key}")
        self._flights[key, codec] = flight
        return cast(T, await asyncio.shield(flight.task))

    async def _fly(
        self, flight: _Flight, key: str, fetch: Callable[..., Awaitable[Any]], args: tuple[Any, ...], keep: Keep
    ) -> Any:
        self._counts.loads += 1
        try:
            value = await self._fetch(key, fetch, args)
        except Exception as exc:
            self._counts.load_failures += 1
            stale = self._stale(key, flight.codec) if isinstance(exc, Unavailable) or is_network_error(exc) else None
            if stale is None:
                raise
            logger.warning("Cache STALE: %s", key, extra={"reason": str(exc)})
            return stale.value
        else:
            frozen, size = flight.codec.detach(value)
            if flight.dirty:
                self._counts.refused_fills += 1
            else:
                self._store(key, frozen, size, flight.codec, keep)
            return frozen
        finally:
            if self._flights.get((key, flight.codec)) is flight:
                del self._flights[key, flight.codec]

    async def _fetch(self, key: str, fetch: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        """Bounded, because everybody who asks for the key waits for it."""
        try:
            async with asyncio.timeout(self._load_timeout_seconds) as timeout:
                return await fetch(*args)
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise Unavailable("source", f"loading {key} took over {self._load_timeout_seconds:g} s") from exc

    def _store(self, key: str, value: Any, size: int, codec: Codec, keep: Keep) -> None:
        ttl = keep.absent if value is None else keep.ttl
        expires_at = self._monotonic() + ttl * (1 - TTL_JITTER * self._uniform())
        entry = Entry(value, codec, expires_at, expires_at + keep.stale, size + len(key) + ENTRY_OVERHEAD_BYTES)
        memory, other = (self._absent, self._present) if value is None else (self._present, self._absent)
        other.drop(key)
        memory.put(key, entry)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Cache SET: %s (TTL=%gs)", key, ttl)

    def _stale(self, key: str, codec: Codec) -> Entry | None:
        """The expired copy, if it may stand in. An invalidation has dropped it."""
        entry = self._present.find(key) or self._absent.find(key)
        now = self._monotonic()
        if entry is None or entry.codec is not codec or entry.stale_until <= now:
            return None
        entry.expires_at = min(entry.stale_until, now + STALE_RETRY_SECONDS)
        self._counts.stale += 1
        return entry

    async def invalidate(self, pattern: str) -> int:
        """Forget a key, a group (`prefix:*`), or a glob (`*`, `?`, `[…]`); how many entries were dropped.

        A load under way still answers those who wait for it, but is not kept, and who asks from now on does not
        join it. An exact key that contains a wildcard's sign is found too.
        """
        self._counts.invalidations += 1
        matches = _matcher(pattern)
        for key, codec in tuple(self._flights):
            if key == pattern if matches is None else matches(key):
                self._flights.pop((key, codec)).dirty = True
        if matches is None:
            return int(self._present.drop(pattern)) + int(self._absent.drop(pattern))
        return self._drop_if(lambda key, _entry: matches(key))

    def cleanup(self) -> int:
        """Drop what neither a hit nor a failing source can use any more; how many."""
        now = self._monotonic()
        return self._drop_if(lambda _key, entry: entry.stale_until <= now)

    def _drop_if(self, condition: Callable[[str, Entry], bool]) -> int:
        return self._present.drop_if(condition) + self._absent.drop_if(condition)

    def stats(self) -> CacheStats:
        counts = self._counts
        return CacheStats(
            hits=counts.hits,
            misses=counts.misses,
            coalesced=counts.coalesced,
            loads=counts.loads,
            load_failures=counts.load_failures,
            stale=counts.stale,
            refused_fills=counts.refused_fills,
            invalidations=counts.invalidations,
            evictions=self._present.evictions + self._absent.evictions,
            entries=len(self._present) + len(self._absent),
            bytes=self._present.bytes + self._absent.bytes,
        )


def _matcher(pattern: str) -> Callable[[str], bool] | None:
    """`None` for an exact key."""
    if not any(sign in pattern for sign in "*?["):
        return None
    prefix = pattern[:-1]
    if pattern.endswith("*") and not any(sign in prefix for sign in "*?["):
        return lambda key: key.startswith(prefix)
    return lambda key: key == pattern or fnmatch.fnmatchcase(key, pattern)
