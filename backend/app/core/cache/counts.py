"""What a cache counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    shared_hits: int = 0
    misses: int = 0
    coalesced: int = 0
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    stale: int = 0
    refreshes: int = 0
    refused_fills: int = 0
    bypassed: int = 0
    invalidations: int = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the process started; `entries`, `bytes` (of JSON), `trusted` and `owed` are as of now.

    `hits`: answered from memory · `shared_hits`: from Redis · `misses`: from neither · `coalesced`: joined a look-up
    under way · `stale`: loads that failed or were slow and were answered from an expired copy · `refreshes`: begun
    ahead of time ·
    `refused_fills`: loads whose result was not kept because of an invalidation meanwhile · `bypassed`: loads past the
    shared tier because it was away or a write was under way · `received`: invalidations heard of from other processes
    and our own · `gaps`: times an invalidation had been missed · `flushes`: times memory was emptied ·
    `owed`: invalidations that Redis has not taken yet · `trusted`: memory may be believed.
    """

    hits: int
    shared_hits: int
    misses: int
    coalesced: int
    loads: int
    load_failures: int
    load_seconds: float
    stale: int
    refreshes: int
    refused_fills: int
    bypassed: int
    invalidations: int
    evictions: int
    entries: int
    bytes: int
    received: int
    gaps: int
    flushes: int
    owed: int
    shared: bool
    trusted: bool
