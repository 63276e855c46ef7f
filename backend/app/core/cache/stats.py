"""What a cache counts, and its Prometheus metrics, read from the counts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
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

    @classmethod
    def zero(cls) -> CacheStats:
        """Nothing counted yet. No defaults: each field is in every answer, and the API's schema says so."""
        return cls(**{field.name: 0 for field in fields(cls) if field.type != "bool"}, shared=False, trusted=True)


_COUNTERS = {
    "invalidations": "Keys and patterns invalidated here",
    "evictions": "Entries displaced by the bounds",
    "received": "Invalidations heard of through Redis",
    "gaps": "Times an invalidation had been missed",
    "flushes": "Times memory was emptied: first trust, gaps",
    "stale": "Loads that failed or were slow, answered from an expired copy",
    "refreshes": "Values renewed ahead of time",
    "bypassed": "Loads past Redis: away, or a write under way",
}
_GAUGES = {
    "entries": "Entries in memory",
    "bytes": "Size of their JSON",
    "trusted": "1: memory may be believed",
    "owed": "Invalidations Redis has not taken yet",
}


class CacheCollector(Collector):
    """`stats`: of the cache. A metric without labels has the name of its count."""

    def __init__(self, stats: Callable[[], CacheStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        kept = stats.loads - stats.load_failures - stats.refused_fills
        yield _counters("requests", "Look-ups, by what they found", "result", {
            "hit": stats.hits + stats.shared_hits, "miss": stats.misses, "coalesced": stats.coalesced,
        })  # fmt: skip
        yield _counters("hits", "Look-ups answered, by tier", "tier", {
            "memory": stats.hits, "redis": stats.shared_hits,
        })  # fmt: skip
        yield _counters("loads", "Loads from the source, by outcome", "outcome", {
            "ok": kept, "refused": stats.refused_fills, "failed": stats.load_failures,
        })  # fmt: skip
        for name, documentation in _COUNTERS.items():
            yield CounterMetricFamily(f"chorus_cache_{name}", documentation, value=getattr(stats, name))
        for name, documentation in _GAUGES.items():
            yield GaugeMetricFamily(f"chorus_cache_{name}", documentation, value=float(getattr(stats, name)))


def _counters(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"chorus_cache_{name}", documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
