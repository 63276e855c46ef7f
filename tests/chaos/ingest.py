"""How fast webhooks were answered, told apart by what was away meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .schedule import Outage
from .traffic import Post

PROC_STAT = Path("/proc/stat")
LOOK_SECONDS = 0.25
FULL = 0.05
"""Less idle time than this share is none."""


@dataclass(frozen=True)
class Ingest:
    """`fallback`: with an inbox in the database, an outage of Valkey is no excuse."""

    posts: Sequence[Post]
    outages: Sequence[Outage]
    own_clocks: Sequence[float]
    """Seconds that each 200 took, statuses included, as the replicas tell it."""
    fallback: bool

    @cached_property
    def accepted(self) -> list[float]:
        return [post.seconds for post in self.posts if post.status == 200]

    @cached_property
    def refused(self) -> list[float]:
        return [post.seconds for post in self.posts if post.status == 503]

    @cached_property
    def unanswered(self) -> int:
        return sum(not post.status for post in self.posts)

    @cached_property
    def by_frozen(self) -> list[float]:
        """Accepted by a replica that was stopped when they came, as soon as it woke: no process could be faster."""
        return [post.seconds for post in self.posts if post.status == 200 and self._met(post, "replica")]

    @cached_property
    def without_queue(self) -> list[float]:
        """Accepted while Valkey was away. Without a fallback these are answered within a second, one way or the
        other."""
        return [
            post.seconds
            for post in self.posts
            if post.status == 200 and self._met(post, "valkey") and not self._met(post, "replica")
        ]

    @cached_property
    def judged(self) -> list[float]:
        """What the promise of a fast answer is about."""
        excuses = ("replica",) if self.fallback else ("replica", "valkey")
        return [
            post.seconds
            for post in self.posts
            if post.status == 200 and not any(self._met(post, what) for what in excuses)
        ]

    @cached_property
    def with_idle_time(self) -> list[float]:
        """Of the judged, those that came while the machine, which carries everything, was not full."""
        excuses = ("machine", "replica") if self.fallback else ("machine", "replica", "valkey")
        return [
            post.seconds
            for post in self.posts
            if post.status == 200 and not any(self._met(post, what) for what in excuses)
        ]

    def _met(self, post: Post, what: str) -> bool:
        return any(
            outage.what == what
            and outage.replica in (None, post.replica)
            and post.at < outage.ended
            and post.at + post.seconds > outage.began
            for outage in self.outages
        )


async def full_moments(found: list[Outage]) -> None:
    """Until cancelled: when the machine had no idle time, looked at four times a second; nothing where there is no
    /proc."""
    while PROC_STAT.exists():
        began, (idle, total) = time.time(), _cpu()
        await asyncio.sleep(LOOK_SECONDS)
        now_idle, now_total = _cpu()
        if now_idle - idle <= FULL * (now_total - total):
            found.append(Outage("machine", began, time.time()))


def _cpu() -> tuple[int, int]:
    """Ticks since the start: idle, all."""
    ticks = [int(word) for word in PROC_STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def percentile(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
