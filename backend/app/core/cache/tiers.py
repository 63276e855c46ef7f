"""One cache: look up, load once however many ask, forget. Alone, or with the tier that all replicas share."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar, cast

from app.core.cache.codec import PLAIN, Codec, codec_for
from app.core.cache.counts import CacheStats
from app.core.cache.keep import Keep
from app.core.cache.loading import MISSING, Loading
from app.core.cache.memory import Entry
from app.core.cache.patterns import Kind, Target
from app.core.cache.shard import MAX_KEPT_SECONDS, Shard
from app.core.cache.shared import SharedTier
from app.core.errors import Unavailable

logger = logging.getLogger("app.core.cache")

T = TypeVar("T")


class Cache(Loading):
    """A process's cache, for one event loop."""

    # --- joining ---

    def join(self, shared: SharedTier) -> None:
        """From now on memory is the first tier before `shared`. What it held was known to nobody else, and goes."""
        if self._shared is not None:
            raise RuntimeError("this cache belongs to a fleet already")
        self._start_over()
        self._shared = shared
        for shard in shared.shards:
            shard.channel.on_drop = self._drop
            shard.channel.on_flush = functools.partial(self._flush, shard)

    def leave(self) -> None:
        """Back to this process alone. Idempotent."""
        self._shared = None
        self._start_over()

    # --- reading ---

    def hit(self, key: str, codec: Codec) -> Entry | None:
        """The fresh entry of `key`, counted and logged as a hit, or `None`. Half a microsecond. If the entry is `due`,
        the caller has it renewed."""
        entry = self._find(key) or self._find_absent(key)
        if entry is None or entry.codec is not codec or not entry.channel.trusted:
            return None
        now = self._monotonic()
        if now >= entry.refresh_at:
            if now >= entry.expires_at:
                return None
            entry.due = True
        entry.used = True
        self.hits += 1
        if self._debug:
            logger.debug("Cache HIT: %s", key)
        return entry

    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:  # noqa: A002  the name of the public parameter
        """What is cached, in memory or in Redis; `default` if nothing is. Loads nothing, renews nothing."""
        codec = PLAIN if type is None else codec_for(type)
        entry = self._find(key)
        if (
            entry is not None
            and self._monotonic() < entry.expires_at
            and entry.codec is codec
            and entry.channel.trusted
            and not self._debug
        ):  # `hit`, written out: this line is why anybody uses a cache
            entry.used = True
            self.hits += 1
            return entry.value
        entry = self.hit(key, codec)
        if entry is not None:
            return entry.value
        flight = self._flight(key, _nothing, (), codec, Keep.of(MAX_KEPT_SECONDS))  # whatever its TTL
        flight.dirty = True  # nobody knows of it, so nobody could say that it must not be kept
        value = await self._glance(flight) if flight.shard is not None and not flight.uncached else MISSING
        return default if value is MISSING else value

    async def get_or_fetch(
        self,
        key: str,
        fetch_func: Callable[..., Awaitable[T]],
        *args: Any,
        ttl_seconds: float,
        type: Any = None,  # noqa: A002  the name of the public parameter
        negative_ttl_seconds: float | None = None,
        stale_for_seconds: float = 0.0,
        soft_timeout_seconds: float | None = None,
    ) -> T:
        """The cached value of `key`, or that of `await fetch_func(*args)`; see the package's first page."""
        codec = PLAIN if type is None else codec_for(type)
        entry = self.hit(key, codec)
        if entry is not None and not entry.due:
            return cast(T, entry.value)
        keep = Keep.of(ttl_seconds, negative_ttl_seconds, stale_for_seconds, soft_timeout_seconds)
        if entry is not None:
            self.refresh(entry, key, fetch_func, args, codec, keep)
            return cast(T, entry.value)
        return await self.load(key, fetch_func, args, codec, keep)

    def cleanup(self) -> int:
        """Drop what neither a hit nor a failing source can use any more; how many."""
        now = self._monotonic()
        return self._drop_if(lambda _key, entry: entry.stale_until <= now)

    # --- invalidating ---

    async def invalidate(self, *patterns: str) -> int:
        """Forget keys, groups (`prefix:*`), or globs (`*`, `?`, `[…]`), on every replica; how many entries this one's
        memory held.

        A load under way still answers those who wait for it, but is not kept, and who asks from now on does not
        join it. An exact key that contains a wildcard's sign is found too. If Redis does not take it, it is owed: this
        process reads past the cache, and repeats it until Redis does.
        """
        dropped, failure = await self._invalidate([Target.of(pattern) for pattern in patterns])
        if failure is not None:
            logger.warning("invalidation is owed", extra={"reason": str(failure), "count": len(patterns)})
        return dropped

    async def invalidate_everywhere(self, *patterns: str) -> None:
        """As `invalidate`, but raises `Unavailable` if Redis did not take it: for whoever keeps it until it has."""
        _, failure = await self._invalidate([Target.of(pattern) for pattern in patterns])
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def write_fence(self, *keys: str) -> AsyncIterator[None]:
        """Around a commit that changes what `keys` show: nobody caches them from before it until it is invalidated.

        Afterwards they are invalidated, whatever happened: a commit whose answer was lost may have been one.
        """
        writer = secrets.token_hex(8)
        targets = [Target.key(key) for key in keys]
        self._forget(targets)
        if self._shared is not None:
            try:
                await self._shared.fence(keys, writer)
            except Unavailable as exc:
                logger.warning("write without a fence", extra={"reason": str(exc)})
            finally:
                self._forget(targets)  # what was read while the script was on its way, maybe before it ran
        try:
            yield
        finally:
            # Also for who is cancelled: repeated as a debt, it would leave the fence.
            task = asyncio.create_task(self._invalidate(targets, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            _, failure = await asyncio.shield(task)
            if failure is not None:
                logger.warning("invalidation is owed", extra={"reason": str(failure), "count": len(keys)})

    async def _invalidate(self, targets: list[Target], writer: str = "") -> tuple[int, Unavailable | None]:
        self._counts.invalidations += len(targets)
        dropped = self._forget(targets)
        if self._shared is None:
            return dropped, None
        try:
            await self._shared.invalidate(targets, writer=writer)
        except Unavailable as exc:
            return dropped, exc
        # What was read while the script was on its way has not been kept: its keys were owed.
        return dropped, None

    def _forget(self, targets: Iterable[Target]) -> int:
        return sum(map(self._drop, targets))

    def _drop(self, target: Target) -> int:
        for flights in (self._flights, self._refreshes):
            exact = target.text if target.kind is Kind.KEY else None
            for key, codec in tuple(flights):
                if key == exact if exact is not None else target.matches(key):
                    flights.pop((key, codec)).dirty = True
        if target.kind is Kind.KEY:
            return int(self._present.drop(target.text)) + int(self._absent.drop(target.text))
        return self._drop_if(lambda key, _entry: target.matches(key))

    def _start_over(self) -> None:
        self._drop(Target.pattern("*"))

    def _flush(self, shard: Shard) -> None:
        for flights in (self._flights, self._refreshes):
            for flight in [flight for flight in flights.values() if flight.shard is shard]:
                flight.dirty = True
                del flights[flight.key, flight.codec]
        self._drop_if(lambda _key, entry: entry.channel is shard.channel)

    def _drop_if(self, condition: Callable[[str, Entry], bool]) -> int:
        return self._present.drop_if(condition) + self._absent.drop_if(condition)

    # --- watching ---

    def stats(self) -> CacheStats:
        shards = self._shared.shards if self._shared else ()
        channels = [shard.channel for shard in shards]
        return CacheStats(
            hits=self.hits,
            **asdict(self._counts),
            evictions=self._present.evictions + self._absent.evictions,
            entries=len(self._present) + len(self._absent),
            bytes=self._present.bytes + self._absent.bytes,
            received=sum(channel.received for channel in channels),
            gaps=sum(channel.gaps for channel in channels),
            flushes=sum(channel.flushes for channel in channels),
            owed=len(self._shared.owed) if self._shared else 0,
            shared=self._shared is not None,
            trusted=all(channel.trusted for channel in channels),
        )


async def _nothing() -> None:
    """Never called: `get` does not load."""
