"""One cache: look up, load once however many ask, forget. Alone, or with the tier that all replicas share.

A read, in the steps of docs/cache.md:

    _hit            1  a fresh entry in memory
    look_up         2  join the look-up under way, or begin one
    _read_shared    3  what the shared tier has
    _fly, _bring    4  load it, or wait for the replica that does (`SharedTier.obtain`)
    _admit          5  into memory, unless it may be older than an invalidation
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from prometheus_client import Histogram

from app.core.cache.channel import Channel
from app.core.cache.codec import PLAIN, Codec, codec_for
from app.core.cache.invalidation import EVERYTHING, Kind, Target
from app.core.cache.memory import ENTRY_OVERHEAD_BYTES, Entry, Memory
from app.core.cache.policy import DEFAULT_TTL_SECONDS, MAX_KEPT_SECONDS, TIMINGS, CachePolicy, CacheTimings, policy_of
from app.core.cache.shard import Flight, Place, Shard
from app.core.cache.shared import SharedTier
from app.core.cache.stats import CacheStats
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import in_words
from app.core.http_client import is_network_error
from app.core.metrics import FAST_SECONDS

logger = logging.getLogger("app.core.cache")

T = TypeVar("T")
Fetch = Callable[[], Awaitable[T]]

MISSING = object()
LOAD_SECONDS = Histogram("chorus_cache_load_seconds", "Time a load from the source took", buckets=FAST_SECONDS)


class Cache:
    """A process's cache, for one event loop. Absent values (`None`) have a small room of their own: a caller that asks
    for a million things that do not exist displaces nothing that does."""

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_absent: int = 2_000,
        timings: CacheTimings = TIMINGS,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._present = Memory(max_entries=max_entries, max_bytes=max_bytes)
        self._absent = Memory(max_entries=max_absent, max_bytes=max_bytes)
        self._memories = (self._present, self._absent)
        self._find = self._present.find
        self._find_absent = self._absent.find
        self._flights: dict[Place, Flight] = {}
        self._shared: SharedTier | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts = CacheStats.zero()
        self._debug = False
        self.timings = timings
        self._monotonic = clock.monotonic
        self._uniform = uniform

    # --- joining ---

    def join(self, shared: SharedTier) -> None:
        """From now on memory is the first tier before `shared`. What it held was known to this process alone, and
        goes."""
        if self._shared is not None:
            raise RuntimeError("this cache belongs to a fleet already")
        self._drop(EVERYTHING)
        self._shared = shared
        for shard in shared.shards:
            shard.channel.on_drop, shard.channel.on_flush = self._drop, self._flush

    def leave(self) -> None:
        """Back to this process alone. Idempotent."""
        self._shared = None
        self._drop(EVERYTHING)

    # --- reading: 1, memory ---

    def _hit(self, key: str, codec: Codec) -> Entry | None:
        """The fresh entry of `key`, counted and logged as a hit, or `None`. If it is `due`, the caller renews it."""
        entry = self._find(key) or self._find_absent(key)
        if entry is None or entry.codec is not codec or not entry.channel.trusted:
            return None
        now = self._monotonic()
        if now >= entry.refresh_at:
            if now >= entry.expires_at:
                return None
            entry.due = True
        entry.used = True
        self._counts.hits += 1
        if self._debug:
            logger.debug("Cache HIT: %s", key)
        return entry

    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:  # noqa: A002  the name of the public parameter
        """What is cached, in memory or in Redis; `default` if nothing is. Loads nothing, renews nothing."""
        codec = PLAIN if type is None else codec_for(type)
        entry = self._hit(key, codec)
        if entry is not None:
            return entry.value
        flight = self._flight(key, _nothing, codec, policy_of(MAX_KEPT_SECONDS))  # whatever its TTL
        flight.dirty = True  # an invalidation does not reach it, so it must not be kept
        value = MISSING if flight.uncached or flight.shard is None else await self._read_shared(flight, flight.shard)
        return default if value is MISSING else value

    async def get_or_fetch(
        self,
        key: str,
        fetch_func: Callable[..., Awaitable[T]],
        *args: Any,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        type: Any = None,  # noqa: A002  the name of the public parameter
        negative_ttl_seconds: float | None = None,
        stale_for_seconds: float = 0.0,
        soft_timeout_seconds: float | None = None,
    ) -> T:
        """The cached value of `key`, or that of `await fetch_func(*args)`; see the package's first page."""
        policy = policy_of(ttl_seconds, negative_ttl_seconds, stale_for_seconds, soft_timeout_seconds)
        codec = PLAIN if type is None else codec_for(type)
        return await self.look_up(key, functools.partial(fetch_func, *args), codec, policy)

    # --- reading: 2, one look-up a key ---

    async def look_up(self, key: str, fetch: Fetch[T], codec: Codec, policy: CachePolicy) -> T:
        """The cached value of `key`, or that of `await fetch()`. Being cancelled cancels neither others who wait for it
        nor the load."""
        entry = self._hit(key, codec)
        if entry is not None:
            if entry.due:
                self._renew(entry, key, fetch, codec, policy)
            return cast(T, entry.value)
        flight = self._flights.get((key, codec, False))
        if flight is not None:
            self._counts.coalesced += 1
            flight.done = flight.done or asyncio.get_running_loop().create_future()
            return cast(T, await asyncio.shield(flight.done))
        flight = self._flights[key, codec, False] = self._flight(key, fetch, codec, policy)
        if flight.shard is not None and not flight.uncached:
            # Without a task of its own: most of what is not in memory is there.
            try:
                value = await self._read_shared(flight, flight.shard)
            except BaseException:
                self._start(flight)  # others may be waiting
                raise
            if value is not MISSING:
                self._end(flight)
                if flight.done is not None:
                    flight.done.set_result(value)
                return cast(T, value)
        return cast(T, await asyncio.shield(self._start(flight)))

    def _renew(self, entry: Entry, key: str, fetch: Fetch[Any], codec: Codec, policy: CachePolicy) -> None:
        """Have an entry that is due loaded anew, by this replica or another, while it still serves."""
        entry.due = False
        entry.refresh_at = min(entry.expires_at, self._monotonic() + self.timings.stale_retry)
        if (key, codec, True) in self._flights or (key, codec, False) in self._flights:
            return
        flight = self._flight(key, fetch, codec, policy, renewed=entry)
        if flight.shard is not None and not flight.uncached:
            self._flights[flight.place] = flight
            self._counts.refreshes += 1
            self._start(flight)

    def _flight(
        self, key: str, fetch: Fetch[Any], codec: Codec, policy: CachePolicy, *, renewed: Entry | None = None
    ) -> Flight:
        # Asked here and not on every hit: a level changed while the process runs shows with the next miss.
        self._debug = logger.isEnabledFor(logging.DEBUG)
        group = key.partition(":")[0] if ":" in key else ""  # `group_of`, written out
        flight = Flight((key, codec, renewed is not None), key, group, codec, fetch, policy, self.timings.shared)
        shared = self._shared
        if shared is not None:
            flight.shard = shard = shared.shards[0] if len(shared.shards) == 1 else shared.of(key)
            flight.channel, flight.flushes = shard.channel, shard.channel.flushes
            flight.uncached = bool(shared.pending.keys or shared.pending.wide) and shared.pending.covers(key)
            if renewed is not None:
                flight.seen = round(renewed.expires_at * 1e6 + shard.channel.ahead_us)
        return flight

    def _end(self, flight: Flight) -> None:
        if self._flights.get(flight.place) is flight:
            del self._flights[flight.place]

    # --- reading: 3, the shared tier ---

    async def _read_shared(self, flight: Flight, shard: Shard) -> Any:
        """The fresh value that the shared tier has, admitted to memory; or `MISSING`."""
        try:
            stored = await shard.read(flight)
            value = flight.codec.load(stored.json) if stored else None
        except Unavailable:
            flight.uncached = True
            return MISSING
        except ValueError:
            fingerprint = flight.codec.fingerprint
            logger.exception("what the shared cache holds cannot be read", extra={"fingerprint": fingerprint})
            return MISSING
        if stored is None:
            return MISSING
        left_us = stored.fresh_until_us - self._monotonic() * 1e6 - shard.channel.ahead_us
        # Fresh for longer than its TTL: stored while the server's clock was ahead.
        if not 0 < left_us <= (flight.policy.longest_ttl + self.timings.slack) * 1e6:
            flight.old = stored
            return MISSING
        self._counts.shared_hits += 1
        if self._debug:
            logger.debug("Cache HIT: %s", flight.key)
        self._admit(flight, value, len(stored.json), stored.fresh_until_us)
        return value

    # --- reading: 4, the source ---

    def _start(self, flight: Flight) -> asyncio.Future[Any]:
        """Have it looked up by a task of its own; the outcome."""
        done = flight.done = flight.done or asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._spawn(self._fly(flight, done), name=f"cache load {flight.key}")
        return done

    def _spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _fly(self, flight: Flight, done: asyncio.Future[Any]) -> None:
        soft, patience = None, flight.policy.soft_timeout
        if patience is not None:
            soft = asyncio.get_running_loop().call_later(patience, self._give_stale, flight, done)
        try:
            value = await self._bring(flight)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as exc:  # noqa: BLE001  those who wait must hear of it, also of a bug
            expected = isinstance(exc, Unavailable) or is_network_error(exc)
            if not done.done() and not (expected and self._give_stale(flight, done, reason=in_words(exc))):
                done.set_exception(exc)
        else:
            if not done.done():
                done.set_result(value)
        finally:
            if soft is not None:
                soft.cancel()
            self._end(flight)

    async def _bring(self, flight: Flight) -> Any:
        if flight.shard is None or self._shared is None:  # alone, or it has left the fleet since
            value, json = await self._fetch(flight)
            ttl = flight.policy.ttl_of(value) * (1 - self.timings.ttl_jitter * self._uniform())
            size, fresh_until_us = len(json), None if flight.dirty else int((self._monotonic() + ttl) * 1e6)
        else:
            brought = await self._shared.obtain(flight, flight.shard, self._fetch)
            if brought is None:
                return None
            value, size, fresh_until_us = brought
        if fresh_until_us is not None:
            self._admit(flight, value, size, fresh_until_us)
        elif not flight.uncached:
            self._counts.refused_fills += 1
        return value

    async def _fetch(self, flight: Flight) -> tuple[Any, bytes]:
        """The source's value, as others would read it, and its JSON. Bounded, because all who ask for the key wait."""
        if flight.seen is None:
            self._counts.misses += 1
            logger.debug("Cache MISS: %s", flight.key)
        self._counts.loads += 1
        self._counts.bypassed += flight.uncached
        started = self._monotonic()
        try:
            async with asyncio.timeout(self.timings.load) as limit:
                value = await flight.fetch()
            return flight.codec.detach(value)
        except Exception as exc:
            self._counts.load_failures += 1
            if isinstance(exc, TimeoutError) and limit.expired():
                raise Unavailable("source", f"loading {flight.key} took over {self.timings.load:g} s") from exc
            raise
        finally:
            seconds = self._monotonic() - started
            self._counts.load_seconds += seconds
            LOAD_SECONDS.observe(seconds)

    def _give_stale(self, flight: Flight, done: asyncio.Future[Any], *, reason: str = "the source is slow") -> bool:
        """Answer with an expired copy, if there is one that may stand in. An invalidation leaves none. A refresh has no
        one who waits: its value is still fresh."""
        if done.done() or flight.dirty or flight.uncached or flight.seen is not None:
            return False
        key, now = flight.key, self._monotonic()
        entry = self._find(key) or self._find_absent(key)
        if entry is not None and entry.channel.trusted and entry.codec is flight.codec and entry.stale_until > now:
            entry.refresh_at = entry.expires_at = min(entry.stale_until, now + self.timings.stale_retry)
            value = entry.value
        elif flight.old is not None:
            value = flight.codec.load(flight.old.json)
        else:
            return False
        self._counts.stale += 1
        logger.warning("Cache STALE: %s", key, extra={"reason": reason})
        done.set_result(value)
        return True

    # --- reading: 5, into memory ---

    def _admit(self, flight: Flight, value: Any, size: int, fresh_until_us: int) -> None:
        """Unless it may be older than an invalidation: the key's while it was read (dirty), or one that was missed (not
        trusted, flushed)."""
        key, channel, policy = flight.key, flight.channel, flight.policy
        if flight.dirty or not channel.trusted or channel.flushes != flight.flushes:
            return
        now = self._monotonic()
        expires_at = min((fresh_until_us - channel.ahead_us) / 1e6, now + policy.longest_ttl)
        if expires_at <= now:
            return
        early = 0.0
        if value is not None and flight.shard is not None:
            early = policy.ttl * self.timings.refresh_share * (0.5 + self._uniform() / 2)
        size += len(key) + ENTRY_OVERHEAD_BYTES
        entry = Entry(value, flight.codec, expires_at - early, expires_at, expires_at + policy.stale, size, channel)
        memory, other = (self._absent, self._present) if value is None else (self._present, self._absent)
        if other.find(key) is not None:
            other.drop(key)
        memory.put(key, entry)
        if self._debug:
            logger.debug("Cache SET: %s (TTL=%gs)", key, policy.ttl_of(value))

    # --- invalidating ---

    async def invalidate(self, *patterns: str) -> int:
        """Forget keys, groups (`prefix:*`), or globs (`*`, `?`, `[…]`), on every replica; how many entries this one's
        memory held.

        A load under way still answers those who wait for it, but is not kept, and later readers do not join it. An
        exact key that contains a wildcard's sign is found too. If Redis does not take it, it is owed: this process
        reads past the cache, and repeats it until Redis does.
        """
        targets = [Target.of(pattern) for pattern in patterns]
        dropped = self._forget(targets)
        await self._invalidate_or_owe(targets)
        return dropped

    async def invalidate_everywhere(self, *patterns: str) -> None:
        """As `invalidate`, but raises `Unavailable` if Redis did not take it: for a caller that keeps it until it
        has."""
        targets = [Target.of(pattern) for pattern in patterns]
        self._forget(targets)
        await self._invalidate(targets)

    @asynccontextmanager
    async def write_fence(self, *keys: str) -> AsyncIterator[None]:
        """Around a commit that changes what `keys` show: no process caches them from before it until it is invalidated.

        Afterwards they are invalidated, whatever happened: a commit whose answer was lost may have been one.
        """
        writer = secrets.token_hex(8)
        targets = [Target(Kind.KEY, key) for key in keys]
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
            self._forget(targets)
            # Also for a caller that is cancelled: repeated as a debt, it would leave the fence.
            await asyncio.shield(self._spawn(self._invalidate_or_owe(targets, writer), name="cache fence"))

    async def _invalidate_or_owe(self, targets: Sequence[Target], writer: str = "") -> None:
        try:
            await self._invalidate(targets, writer)
        except Unavailable as exc:
            logger.warning("invalidation is owed", extra={"reason": str(exc), "count": len(targets)})

    async def _invalidate(self, targets: Sequence[Target], writer: str = "") -> None:
        """What is read while the script is on its way is not kept: its keys are pending."""
        self._counts.invalidations += len(targets)
        if self._shared is not None:
            await self._shared.invalidate(targets, writer=writer)

    # --- forgetting ---

    def cleanup(self) -> int:
        """Drop what neither a hit nor a failing source can use any more; how many."""
        now = self._monotonic()
        return sum(memory.drop_if(lambda _key, entry: entry.stale_until <= now) for memory in self._memories)

    def _forget(self, targets: Sequence[Target]) -> int:
        return sum(map(self._drop, targets))

    def _drop(self, target: Target) -> int:
        if target.kind is Kind.KEY:
            key = target.text
            self._spoil(lambda flight: flight.key == key)
            return sum(memory.drop(key) for memory in self._memories)
        self._spoil(lambda flight: target.matches(flight.key))
        return sum(memory.drop_if(lambda key, _entry: target.matches(key)) for memory in self._memories)

    def _flush(self, channel: Channel) -> None:
        self._spoil(lambda flight: flight.channel is channel)
        for memory in self._memories:
            memory.drop_if(lambda _key, entry: entry.channel is channel)

    def _spoil(self, condition: Callable[[Flight], bool]) -> None:
        """These look-ups still answer those who wait for them; nothing that they bring is kept, and later readers do
        not join."""
        for flight in [flight for flight in self._flights.values() if condition(flight)]:
            flight.dirty = True
            del self._flights[flight.place]

    # --- watching ---

    def stats(self) -> CacheStats:
        channels = [shard.channel for shard in self._shared.shards] if self._shared else []
        return replace(
            self._counts,
            evictions=sum(memory.evictions for memory in self._memories),
            entries=sum(map(len, self._memories)),
            bytes=sum(memory.bytes for memory in self._memories),
            received=sum(channel.received for channel in channels),
            gaps=sum(channel.gaps for channel in channels),
            flushes=sum(channel.flushes for channel in channels),
            owed=len(self._shared.pending) if self._shared else 0,
            shared=self._shared is not None,
            trusted=all(channel.trusted for channel in channels),
        )


async def _nothing() -> None:
    """Never called: `get` does not load."""


def _retrieve(done: asyncio.Future[Any]) -> None:
    """All who waited may have been cancelled; then the failure of the load is read here."""
    if not done.cancelled():
        done.exception()
