"""What a queue counts. A process may have several queues, each with figures of its own name."""

from __future__ import annotations

from prometheus_client import Counter, Gauge


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
        self.pending = Gauge(f"{prefix}_pending", "Events waiting or in flight, when the queue was last asked")
        self.bytes = Gauge(f"{prefix}_bytes", "Bytes of the events waiting or in flight, when the queue was last asked")
        self.oldest_seconds = Gauge(
            f"{prefix}_oldest_seconds", "Age of the oldest event, when the queue was last asked"
        )
        self.dead = Gauge(f"{prefix}_dead", "Dead letters, when the queue was last asked")
        self.dead_bytes = Gauge(f"{prefix}_dead_bytes", "Size of the dead letters, when the queue was last asked")
        self.dead_lost = Gauge(f"{prefix}_dead_lost", "Dead letters that went to make room, since the queue began")


QUEUE = QueueMetrics("chorus_queue")
