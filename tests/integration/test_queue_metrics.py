"""What the queue counts, story by story."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from prometheus_client import REGISTRY

from app.core.queue import QueueFull
from tests.support.queue_kit import Replicas, claim_one, event

LEASE_SECONDS = 0.2


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


class Counted:
    """How much each metric has grown since it was last asked; gauges as they are."""

    def __init__(self) -> None:
        self._before = self._now()

    def since(self) -> dict[str, float]:
        before, self._before = self._before, self._now()
        grown = Counter(self._before)
        grown.subtract(before)
        return {name: value for name, value in grown.items() if value}

    @staticmethod
    def _now() -> Counter[str]:
        found: Counter[str] = Counter()
        for family in REGISTRY.collect():
            if family.name.startswith("chorus_queue_") and family.type == "counter":
                for sample in family.samples:
                    if sample.name.endswith("_total"):
                        found[" ".join([sample.name, *sample.labels.values()])] = int(sample.value)
        return found


async def test_accepted_duplicate_diverted_and_refused_events_are_told_apart(replicas: Replicas) -> None:
    queue, counted = replicas.queue(max_pending=3), Counted()
    await queue.put([event("a:1", "1"), event("b:1", "2")])
    await queue.put([event("b:1", "2"), event("c:1", "3")])
    assert counted.since() == {"chorus_queue_events_total accepted": 3, "chorus_queue_events_total duplicate": 1}
    with pytest.raises(QueueFull):
        await queue.put([event("c:2", "4")])
    assert counted.since() == {"chorus_queue_events_total refused": 1}
    for claim in await queue.claim(3):
        await queue.done(claim)
    await queue.put([event(f"c:{n}") for n in range(3)])
    assert counted.since()["chorus_queue_events_total diverted"] == 1


async def test_retried_parked_and_reclaimed_claims_are_told_apart(replicas: Replicas) -> None:
    queue, counted = replicas.queue(lease_seconds=LEASE_SECONDS, max_attempts=3), Counted()
    await queue.put([event()])
    await queue.retry_later(await claim_one(queue), 0, counted=False, reason="the model is away")
    await queue.retry_later(await claim_one(queue), 0, counted=True, reason="its own fault")
    grown = counted.since()
    assert grown["chorus_queue_settled_total defer"] == grown["chorus_queue_settled_total retry"] == 1
    await claim_one(queue)  # nobody ends it
    late = await claim_one(queue)
    assert counted.since()["chorus_queue_reclaimed_total"] == 1
    await queue.retry_later(late, 0, counted=True, reason="its own fault")
    assert counted.since() == {"chorus_queue_settled_total park": 1}


async def test_depth_and_age_are_those_of_the_moment_they_are_asked_for(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("a"), event("a"), event("b")])
    claim = await claim_one(queue)
    await asyncio.sleep(0.002)  # the age is in whole milliseconds
    stats = await queue.stats()
    assert REGISTRY.get_sample_value("chorus_queue_pending") == 3, "what is in flight is not finished"
    assert REGISTRY.get_sample_value("chorus_queue_oldest_seconds") == stats.oldest_seconds > 0
    await queue.done(claim)
    await queue.done(await claim_one(queue))
    await queue.stats()
    assert REGISTRY.get_sample_value("chorus_queue_pending") == 0
    assert REGISTRY.get_sample_value("chorus_queue_oldest_seconds") == 0
