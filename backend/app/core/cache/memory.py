"""What one process holds of the cache, and what an invalidation must reach: values, and look-ups under way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.core.cache.channel import Channel
from app.core.cache.codec import Codec
from app.core.cache.invalidation import Kind, Target
from app.core.cache.policy import CachePolicy
from app.core.cache.shard import Budget, Shard, Stored

ENTRY_OVERHEAD_BYTES = 300
"""An entry's bookkeeping, so that many tiny values are not free."""


@dataclass(slots=True)
class Entry:
    """Fresh until `expires_at`, a stand-in for a failing source until `stale_until`; a reader after `refresh_at` has it
    renewed (`due`). All monotonic seconds. Worth nothing while `channel` is not trusted."""

    value: Any
    codec: Codec
    refresh_at: float
    expires_at: float
    stale_until: float
    size: int
    channel: Channel
    due: bool = False
    used: bool = False
    """Since it came, or since it was last spared from eviction."""


class Memory:
    """Keys to entries; entries that were not used lately go first. Bounded by entries and by bytes. Sizes are of the
    JSON; the objects take a few times as much."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.bytes = 0
        self.evictions = 0
        self.find = self._entries.get
        """The entry of a key, whatever its age. A reader that uses it sets `used`."""

    def put(self, key: str, entry: Entry) -> None:
        """Store it, at the cost of the oldest that were not used since they were last considered. One larger than the
        whole bound is not stored."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.bytes -= before.size
        if entry.size > self._max_bytes or self._max_entries < 1:
            return
        while self.bytes + entry.size > self._max_bytes or len(self._entries) >= self._max_entries:
            oldest, candidate = self._entries.popitem(last=False)
            if candidate.used:  # a second chance: cheaper for every hit than keeping the exact order
                candidate.used = False
                self._entries[oldest] = candidate
                continue
            self.bytes -= candidate.size
            self.evictions += 1
        self._entries[key] = entry
        self.bytes += entry.size

    def drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.bytes -= entry.size
        return True

    def drop_if(self, condition: Callable[[str, Entry], bool]) -> int:
        """Drop every entry that meets the condition; how many did."""
        doomed = [key for key, entry in self._entries.items() if condition(key, entry)]
        for key in doomed:
            self.drop(key)
        return len(doomed)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


@dataclass(slots=True, eq=False)
class Flight:
    """A look-up under way, for all who ask meanwhile."""

    key: str
    codec: Codec
    fetch: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    policy: CachePolicy
    shard: Shard | None
    """`None`: the cache belongs to this process alone."""
    channel: Channel
    flushes: int
    """Of the channel when the flight began."""
    budget: Budget
    uncached: bool = False
    """The shared tier is away, or lacks an invalidation: straight to the source, and nothing is kept."""
    dirty: bool = False
    """What it brings may be older than an invalidation."""
    old: Stored | None = None
    """The shared tier's copy, past its time."""
    seen: int | None = None
    """A refresh: the end of freshness (server µs) of the copy in hand."""
    done: asyncio.Future[Any] | None = field(default=None, init=False)
    """Its outcome, once it is waited for."""

    def outcome(self) -> asyncio.Future[Any]:
        if self.done is None:
            self.done = asyncio.get_running_loop().create_future()
        return self.done


class Flights:
    """Look-ups and refreshes by key and codec: a key read as two types is two look-ups, and an invalidation must reach
    both."""

    def __init__(self) -> None:
        self._look_ups: dict[tuple[str, Codec], Flight] = {}
        self._refreshes: dict[tuple[str, Codec], Flight] = {}
        self.find = self._look_ups.get
        """The look-up of `(key, codec)`, to join it."""

    def begin(self, flight: Flight) -> None:
        flights = self._look_ups if flight.seen is None else self._refreshes
        flights[flight.key, flight.codec] = flight

    def has(self, key: str, codec: Codec) -> bool:
        return (key, codec) in self._refreshes or (key, codec) in self._look_ups

    def end(self, flight: Flight) -> None:
        flights = self._look_ups if flight.seen is None else self._refreshes
        place = flight.key, flight.codec
        if flights.get(place) is flight:
            del flights[place]

    def drop(self, target: Target) -> None:
        """They still answer those who wait for them; nothing that they bring is kept, and later readers do not join."""
        exact = target.text if target.kind is Kind.KEY else None
        for flights in (self._look_ups, self._refreshes):
            for key, codec in tuple(flights):
                if key == exact if exact is not None else target.matches(key):
                    flights.pop((key, codec)).dirty = True

    def flush(self, shard: Shard) -> None:
        """As `drop`, for everything of a shard."""
        for flights in (self._look_ups, self._refreshes):
            for flight in [flight for flight in flights.values() if flight.shard is shard]:
                flight.dirty = True
                del flights[flight.key, flight.codec]
