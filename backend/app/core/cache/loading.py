"""How values get in: look-ups under way, one a key however many ask, and what may be kept of what they bring."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from prometheus_client import Histogram

from app.core.cache.channel import LOCAL
from app.core.cache.codec import Codec
from app.core.cache.counts import Counts
from app.core.cache.keep import REFRESH_SHARE, STALE_RETRY_SECONDS, TTL_JITTER, Flight, Keep
from app.core.cache.memory import ENTRY_OVERHEAD_BYTES, Entry, Memory
from app.core.cache.shard import SLACK_SECONDS
from app.core.cache.shared import SharedTier
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.http_client import is_network_error
from app.core.metrics import FAST_SECONDS

logger = logging.getLogger("app.core.cache")

T = TypeVar("T")

MISSING = object()
LOAD_SECONDS = Histogram("chorus_cache_load_seconds", "Time a load from the source took", buckets=FAST_SECONDS)


class Loading:
    """The half of a cache that fills it. Absent values (`None`) have a small room of their own: whoever asks for a
    million things that do not exist displaces nothing that does."""

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
        self._find = self._present.find
        self._find_absent = self._absent.find
        self.hits = 0
        self._debug = False
        # By key and codec: a key read as two types is two look-ups, and an invalidation must reach both.
        self._flights: dict[tuple[str, Codec], Flight] = {}
        self._refreshes: dict[tuple[str, Codec], Flight] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shared: SharedTier | None = None
        self._counts = Counts()
        self._load_timeout_seconds = load_timeout_seconds
        self._monotonic = clock.monotonic
        self._uniform = uniform

    async def load(
        self, key: str, fetch: Callable[..., Awaitable[T]], args: tuple[Any, ...], codec: Codec, keep: Keep
    ) -> T:
        """Join the look-up of `key`, or start one. Being cancelled cancels nobody else and not the load."""
        flight = self._flights.get((key, codec))
        if flight is not None:
            self._counts.coalesced += 1
            return cast(T, await asyncio.shield(flight.future()))
        flight = self._flight(key, fetch, args, codec, keep)
        self._flights[key, codec] = flight
        if flight.shard is not None and not flight.uncached:
            # Without a task of its own: most of what is not in memory is there.
            try:
                value = await self._glance(flight)
                if value is not MISSING:
                    return cast(T, value)
            except BaseException:
                self._start(flight)  # others may be waiting
                raise
        self._start(flight)
        return cast(T, await asyncio.shield(flight.done))

    def refresh(
        self, entry: Entry, key: str, fetch: Callable[..., Awaitable[Any]], args: tuple[Any, ...], codec: Codec,
        keep: Keep,
    ) -> None:  # fmt: skip
        """Have an entry that is due loaded anew, by this replica or another, while it still serves."""
        entry.due = False
        entry.refresh_at = min(entry.expires_at, self._monotonic() + STALE_RETRY_SECONDS)
        if (key, codec) in self._refreshes or (key, codec) in self._flights:
            return
        flight = self._flight(key, fetch, args, codec, keep)
        if flight.uncached or flight.shard is None:
            return
        flight.seen = round(entry.expires_at * 1e6 + flight.shard.channel.ahead_us)
        self._refreshes[key, codec] = flight
        self._counts.refreshes += 1
        self._start(flight)

    def _flight(
        self, key: str, fetch: Callable[..., Awaitable[Any]], args: tuple[Any, ...], codec: Codec, keep: Keep
    ) -> Flight:
        # Asked here and not on every hit: a level changed while the process runs shows with the next miss.
        self._debug = logger.isEnabledFor(logging.DEBUG)
        shared = self._shared
        if shared is None:
            return Flight(key, codec, fetch, args, keep, None, 0)
        shard = shared.of(key)
        uncached = bool(shared.owed) and shared.owed.covers(key)
        return Flight(key, codec, fetch, args, keep, shard, shard.channel.flushes, uncached=uncached)

    async def _glance(self, flight: Flight) -> Any:
        """The fresh value that the shared tier has, given to everybody who waits; or `MISSING`."""
        shard = flight.shard
        assert shard is not None  # noqa: S101  it narrows the type
        try:
            stored = await shard.read(flight.key, flight.codec.fingerprint, flight.spend)
            value = flight.codec.load(stored.json) if stored else None
        except Unavailable:
            flight.uncached = True
            return MISSING
        except ValueError:
            logger.exception(
                "what the shared cache holds cannot be read", extra={"fingerprint": flight.codec.fingerprint}
            )
            return MISSING
        if stored is None:
            return MISSING
        left_us = stored.fresh_until_us - self._monotonic() * 1e6 - shard.channel.ahead_us
        # Fresh for longer than its TTL: stored while the server's clock was ahead.
        if not 0 < left_us <= (flight.keep.longest + SLACK_SECONDS) * 1e6:
            flight.old = stored
            return MISSING
        self._counts.shared_hits += 1
        if self._debug:
            logger.debug("Cache HIT: %s", flight.key)
        self._admit(flight, value, len(stored.json), stored.fresh_until_us)
        if flight.waited_for:
            flight.done.set_result(value)
        self._land(flight)
        return value

    def _start(self, flight: Flight) -> None:
        task = asyncio.create_task(self._fly(flight), name=f"cache load {flight.key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        flight.future().add_done_callback(_retrieve)

    async def _fly(self, flight: Flight) -> None:
        soft = None
        if flight.keep.soft is not None:
            soft = asyncio.get_running_loop().call_later(flight.keep.soft, self._give_stale, flight)
        try:
            value = await self._bring(flight)
        except asyncio.CancelledError:
            flight.done.cancel()
            raise
        except Exception as exc:  # noqa: BLE001  whoever waits must hear of it, also of a bug
            expected = isinstance(exc, Unavailable) or is_network_error(exc)
            if not flight.done.done() and not (expected and self._give_stale(flight, reason=str(exc))):
                flight.done.set_exception(exc)
        else:
            if not flight.done.done():
                flight.done.set_result(value)
        finally:
            if soft is not None:
                soft.cancel()
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        for flights in (self._flights, self._refreshes):
            if flights.get((flight.key, flight.codec)) is flight:
                del flights[flight.key, flight.codec]

    async def _bring(self, flight: Flight) -> Any:
        if flight.shard is None:
            value, json = await self._source(flight)
            if flight.dirty:
                self._counts.refused_fills += 1
            else:
                ttl = flight.keep.ttl_of(value)
                expires_at = self._monotonic() + ttl * (1 - TTL_JITTER * self._uniform())
                self._put(flight, value, len(json), expires_at, expires_at)
            return value
        if self._shared is None:  # it has left the fleet since
            return (await self._source(flight))[0]
        brought = await self._shared.obtain(flight, self._source)
        if brought is None:
            return None
        value, size, fresh_until_us = brought
        if fresh_until_us is not None:
            self._admit(flight, value, size, fresh_until_us)
        elif not flight.uncached:
            self._counts.refused_fills += 1
        return value

    async def _source(self, flight: Flight) -> tuple[Any, bytes]:
        """Bounded, because everybody who asks for the key waits for it."""
        if flight.seen is None:
            self._counts.misses += 1
            logger.debug("Cache MISS: %s", flight.key)
        self._counts.loads += 1
        self._counts.bypassed += flight.uncached
        started = self._monotonic()
        try:
            async with asyncio.timeout(self._load_timeout_seconds) as timeout:
                value = await flight.fetch(*flight.args)
            return flight.codec.detach(value)
        except Exception as exc:
            self._counts.load_failures += 1
            if isinstance(exc, TimeoutError) and timeout.expired():
                message = f"loading {flight.key} took over {self._load_timeout_seconds:g} s"
                raise Unavailable("source", message) from exc
            raise
        finally:
            seconds = self._monotonic() - started
            self._counts.load_seconds += seconds
            LOAD_SECONDS.observe(seconds)

    # --- memory ---

    def _admit(self, flight: Flight, value: Any, size: int, fresh_until_us: int) -> None:
        """Into memory, unless it may be older than an invalidation: the key's while it was read (dirty), or one that
        was missed (not trusted, flushed)."""
        assert flight.shard is not None  # noqa: S101  it narrows the type
        channel = flight.shard.channel
        if flight.dirty or not channel.trusted or channel.flushes != flight.flushes:
            return
        expires_at = min((fresh_until_us - channel.ahead_us) / 1e6, self._monotonic() + flight.keep.longest)
        early = 0.0 if value is None else flight.keep.ttl * REFRESH_SHARE * (0.5 + self._uniform() / 2)
        if expires_at > self._monotonic():
            self._put(flight, value, size, expires_at - early, expires_at)

    def _put(self, flight: Flight, value: Any, size: int, refresh_at: float, expires_at: float) -> None:
        key, keep = flight.key, flight.keep
        channel = LOCAL if flight.shard is None else flight.shard.channel
        size += len(key) + ENTRY_OVERHEAD_BYTES
        entry = Entry(value, flight.codec, refresh_at, expires_at, expires_at + keep.stale, size, channel)
        memory, other = (self._absent, self._present) if value is None else (self._present, self._absent)
        other.drop(key)
        memory.put(key, entry)
        if self._debug:
            logger.debug("Cache SET: %s (TTL=%gs)", key, keep.ttl_of(value))

    def _give_stale(self, flight: Flight, *, reason: str = "the source is slow") -> bool:
        """Answer with an expired copy, if there is one that may stand in. An invalidation leaves none. Nobody waits for
        a refresh: its value is still fresh."""
        if flight.done.done() or flight.dirty or flight.uncached or flight.seen is not None:
            return False
        key, now = flight.key, self._monotonic()
        entry = self._present.find(key) or self._absent.find(key)
        if entry is not None and entry.channel.trusted and entry.codec is flight.codec and entry.stale_until > now:
            entry.refresh_at = entry.expires_at = min(entry.stale_until, now + STALE_RETRY_SECONDS)
            value = entry.value
        elif flight.old is not None:
            value = flight.codec.load(flight.old.json)
        else:
            return False
        self._counts.stale += 1
        logger.warning("Cache STALE: %s", key, extra={"reason": reason})
        flight.done.set_result(value)
        return True


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Everybody who waited may have been cancelled; the failure of the load is then nobody's to read."""
    if not done.cancelled():
        done.exception()
