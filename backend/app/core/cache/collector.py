"""The cache's Prometheus metrics, read from its own counts when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.cache.cache import Cache


class CacheCollector(Collector):
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        stats = self._cache.stats()
        requests = CounterMetricFamily("chorus_cache_requests", "Look-ups, by what they found", labels=["result"])
        for result, count in (
            ("hit", stats.hits + stats.shared_hits),
            ("miss", stats.misses),
            ("coalesced", stats.coalesced),
        ):
            requests.add_metric([result], count)
        loads = CounterMetricFamily("chorus_cache_loads", "Loads from the source, by outcome", labels=["outcome"])
        kept = stats.loads - stats.load_failures - stats.refused_fills
        for outcome, count in (
            ("ok", kept),
            ("refused", stats.refused_fills),
            ("failed", stats.load_failures),
        ):
            loads.add_metric([outcome], count)
        hits = CounterMetricFamily("chorus_cache_hits", "Look-ups answered, by tier", labels=["tier"])
        for tier, count in (("memory", stats.hits), ("redis", stats.shared_hits)):
            hits.add_metric([tier], count)
        channel = [
            _counter("chorus_cache_received", "Invalidations heard of through Redis", stats.received),
            _counter("chorus_cache_gaps", "Times an invalidation had been missed", stats.gaps),
            _counter("chorus_cache_flushes", "Times memory was emptied: first trust, gaps", stats.flushes),
            _counter(
                "chorus_cache_stale", "Loads that failed or were slow, answered from an expired copy", stats.stale
            ),
            _counter("chorus_cache_refreshes", "Values renewed ahead of time", stats.refreshes),
            _counter("chorus_cache_bypassed", "Loads past Redis: away, or a write under way", stats.bypassed),
            GaugeMetricFamily("chorus_cache_trusted", "1: memory may be believed", value=int(stats.trusted)),
            GaugeMetricFamily("chorus_cache_owed", "Invalidations Redis has not taken yet", value=stats.owed),
        ]
        invalidations = CounterMetricFamily("chorus_cache_invalidations", "Keys and patterns invalidated here")
        invalidations.add_metric([], stats.invalidations)
        evictions = CounterMetricFamily("chorus_cache_evictions", "Entries displaced by the bounds")
        evictions.add_metric([], stats.evictions)
        entries = GaugeMetricFamily("chorus_cache_entries", "Entries in memory", value=stats.entries)
        size = GaugeMetricFamily("chorus_cache_bytes", "Size of their JSON", value=stats.bytes)
        return (requests, hits, loads, invalidations, evictions, entries, size, *channel)


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation)
    family.add_metric([], value)
    return family
