"""What a queue counts. A process may have several queues, each with figures of its own name."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from app.core.queue.events import QueueStats


class QueueMetrics:
    """Made once for each prefix and process: the names must be unique."""

    def __init__(self, prefix: str) -> None:
        self.events = Counter(
            f"{prefix}_events_total", "Events offered to the queue, by what became of them", ["outcome"]
        )
        self.accepted, self.duplicate, self.diverted = (
            self.events.labels(outcome) for outcome in ("accepted", "duplicate", "diverted")
        )
        self.claims = Counter(f"{prefix}_claims_total", "Mailboxes claimed")
        self.settled = Counter(f"{prefix}_settled_total", "Claims ended, by verdict", ["verdict"])
        self.reclaimed = Counter(f"{prefix}_reclaimed_total", "Leases that ran out: their worker died or stalled")
        self.repairs = Counter(
            f"{prefix}_repairs_total",
            "Mended by the audit: place (a mailbox in no set), time (only a clock ahead wrote it), depth (events"
            " miscounted)",
            ["kind"],
        )
        self._gauges = {
            name: Gauge(f"{prefix}_{name}", f"{what}, when the queue was last asked")
            for name, what in {
                "pending": "Events waiting or in flight",
                "bytes": "Bytes of the events waiting or in flight",
                "oldest_seconds": "Age of the oldest event",
                "dead": "Dead letters",
                "dead_bytes": "Size of the dead letters",
                "dead_lost": "Dead letters that went to make room since the queue began",
            }.items()
        }

    def show(self, stats: QueueStats) -> None:
        for name, gauge in self._gauges.items():
            gauge.set(getattr(stats, name))


QUEUE = QueueMetrics("chorus_queue")
