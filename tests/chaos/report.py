"""The table at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .ingest import Ingest, percentile
from .recovery import TakeOver
from .verdict import Verdict


@dataclass(frozen=True, slots=True)
class Report:
    seed: int
    conversations: int
    verdict: Verdict
    injected: Counter[str]
    ingest: Ingest
    repeats: int
    recoveries: Sequence[TakeOver]
    resumptions: Sequence[float]
    quiet_after: float
    seconds: float
    errors: Counter[str]
    """What the replicas logged as errors."""

    def table(self) -> str:
        verdict, ingest = self.verdict, self.ingest
        rows = [
            ("seed", f"{self.seed}"),
            ("faults injected", f"{sum(self.injected.values())}"),
            *((f"  {name}", str(count)) for name, count in sorted(self.injected.items())),
            ("messages (and repeats)", f"{verdict.messages} ({self.repeats})"),
            ("conversations", f"{self.conversations}"),
            ("replies that arrived", f"{verdict.replies}"),
            ("lost", f"{verdict.lost}"),
            ("duplicated", f"{verdict.duplicated}"),
            ("ambiguous, reconciled by status", f"{verdict.ambiguous_reconciled}"),
            ("sent by a replica that woke in the act", f"{verdict.sent_on_waking}"),
            ("ambiguous, handed to people", f"{verdict.handed_over}"),
            ("dead letters (all poison)", f"{verdict.dead}"),
            ("events at the receiver (and repeats)", f"{verdict.events} ({verdict.event_repeats})"),
            ("webhook posts: 200 / 503 / no answer",
             f"{len(ingest.accepted)} / {len(ingest.refused)} / {ingest.unanswered}"),
            ("accept (200) p50 / p99", _percentiles(ingest.accepted)),
            ("  by a replica just woken: number, longest", _longest(ingest.by_frozen)),
            ("  while Valkey is away: number, longest", _longest(ingest.without_queue)),
            ("  judged (without these)" if not ingest.fallback else "  judged (all but the woken)",
             _percentiles(ingest.judged)),
            ("  judged, while the machine had idle time", _percentiles(ingest.with_idle_time)),
            ("  by the replicas' own clocks", _percentiles(ingest.own_clocks)),
            ("refuse (503) longest", f"{max(ingest.refused, default=0) * 1000:.0f} ms"),
            ("webhook -> send p50 / p99", _percentiles(verdict.webhook_to_send)),
            ("taken over after SIGKILL: number, longest", _longest([each.seconds for each in self.recoveries])),
            ("  after the lease's end", _longest([each.after_lease for each in self.recoveries])),
            ("work resumed after Valkey: number, longest", _longest(self.resumptions)),
            ("quiet after the last fault and message", f"{self.quiet_after:.1f} s"),
            ("whole run", f"{self.seconds:.0f} s"),
            ("lines logged as errors", f"{sum(self.errors.values())}"),
            *((f"  {words}", str(count)) for words, count in sorted(self.errors.items())),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows if not name.startswith("  "))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _percentiles(seconds: Sequence[float]) -> str:
    return " / ".join(f"{percentile(seconds, p) * 1000:.0f} ms" for p in (0.5, 0.99)) if seconds else "-"


def _longest(seconds: Sequence[float]) -> str:
    return f"{len(seconds)}, {max(seconds):.2f} s" if seconds else "0"
