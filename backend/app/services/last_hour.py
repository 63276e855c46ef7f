"""The last hour of the whole fleet by the minute: what each replica counts for Prometheus, summed in Redis."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import Unavailable
from app.core.fleet.minutes import Minutes
from app.core.metrics import samples_of

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
MINUTES = 60
QUANTILE = 0.95
_ANSWERED = "chorus_end_to_end_seconds_bucket"
_HTTP = "chorus_http_request_seconds_count"
_OF_OPERATORS = ("/admin", "/health", "/metrics")
"""A screen that asks every two seconds, and probes, would be most of what an outage counts."""
_WEBHOOK = "chorus_webhook_seconds_count"


@dataclass(frozen=True, slots=True)
class MinuteOfFleet:
    at: datetime
    answers: int
    p95_seconds: float | None
    """From the webhook's 200 to the accepted send; `None` without an answer. As exact as the histogram's buckets."""
    http_5xx: int
    """Without what operators and probes ask."""
    refused: int
    """Deliveries of Meta, or of strangers, that were not taken."""


class LastHour:
    def __init__(self, minutes: Minutes) -> None:
        self._minutes = minutes
        self._before = counted()

    async def run(self, beat: Callable[[], object]) -> None:
        while True:
            beat()
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.flush()
            except Unavailable as exc:  # the next round tells it, too
                logger.info("the minute's counts have to wait", extra={"reason": str(exc)})

    async def flush(self) -> None:
        """Add what was counted since the last time. Raises `Unavailable`."""
        now = counted()
        news = {name: count - self._before.get(name, 0) for name, count in now.items()}
        await self._minutes.add({name: count for name, count in news.items() if count})
        self._before = now

    async def read(self) -> list[MinuteOfFleet]:
        """The oldest first; the present minute, which is not over, last. Raises `Unavailable`."""
        return [_of(minute.at, minute.counts) for minute in await self._minutes.read(MINUTES)]


def counted() -> Mapping[str, int]:
    """This process' totals: `le:<seconds>` answers within so many, `5xx`, `refused`."""
    totals: Counter[str] = Counter()
    for name, labels, value in samples_of(_ANSWERED, _HTTP, _WEBHOOK):
        if name == _ANSWERED:
            totals[f"le:{labels['le']}"] += int(value)
            continue
        status = int(labels["status"])
        if status >= 500 and not labels.get("route", "").startswith(_OF_OPERATORS):
            totals["5xx"] += int(value)
        if name == _WEBHOOK and status >= 400:
            totals["refused"] += int(value)
    return totals


def _of(at: datetime, counts: Mapping[str, int]) -> MinuteOfFleet:
    bounds = {name for name in (*counts, *counted()) if name.startswith("le:")}
    buckets = sorted((float(name[3:]), counts.get(name, 0)) for name in bounds)
    return MinuteOfFleet(
        at=at,
        answers=buckets[-1][1] if buckets else 0,
        p95_seconds=quantile(buckets, QUANTILE),
        http_5xx=counts.get("5xx", 0),
        refused=counts.get("refused", 0),
    )


def quantile(buckets: list[tuple[float, int]], wanted: float) -> float | None:
    """`buckets`: (upper bound, how many are at most so), rising, the last bound infinite. Within a bucket they are
    taken to be spread evenly, as Prometheus does."""
    if not buckets or not buckets[-1][1]:
        return None
    rank = wanted * buckets[-1][1]
    low, below = 0.0, 0
    for high, count in buckets:
        if count >= rank:
            return round(low if math.isinf(high) else low + (high - low) * (rank - below) / max(1, count - below), 3)
        low, below = high, count
    return low
