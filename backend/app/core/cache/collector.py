"""The cache's Prometheus metrics, read from its own counts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.cache.cache import Cache


class CacheCollector(Collector):
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        stats = self._cache.stats()
        kept = stats.loads - stats.load_failures - stats.refused_fills
        return (
            _counters("requests", "Look-ups, by what they found", "result", {
                "hit": stats.hits + stats.shared_hits, "miss": stats.misses, "coalesced": stats.coalesced,
            }),
            _counters("hits", "Look-ups answered, by tier", "tier", {"memory": stats.hits, "redis": stats.shared_hits}),
            _counters("loads", "Loads from the source, by outcome", "outcome", {
                "ok": kept, "refused": stats.refused_fills, "failed": stats.load_failures,
            }),
            _counter("invalidations", "Keys and patterns invalidated here", stats.invalidations),
            _counter("evictions", "Entries displaced by the bounds", stats.evictions),
            _gauge("entries", "Entries in memory", stats.entries),
            _gauge("bytes", "Size of their JSON", stats.bytes),
            _counter("received", "Invalidations heard of through Redis", stats.received),
            _counter("gaps", "Times an invalidation had been missed", stats.gaps),
            _counter("flushes", "Times memory was emptied: first trust, gaps", stats.flushes),
            _counter("stale", "Loads that failed or were slow, answered from an expired copy", stats.stale),
            _counter("refreshes", "Values renewed ahead of time", stats.refreshes),
            _counter("bypassed", "Loads past Redis: away, or a write under way", stats.bypassed),
            _gauge("trusted", "1: memory may be believed", int(stats.trusted)),
            _gauge("owed", "Invalidations Redis has not taken yet", stats.owed),
        )  # fmt: skip


def _counters(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"chorus_cache_{name}", documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _counter(name: str, documentation: str, count: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"chorus_cache_{name}", documentation, value=count)


def _gauge(name: str, documentation: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"chorus_cache_{name}", documentation, value=value)
