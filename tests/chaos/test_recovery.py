"""The measure itself: what counts as taken over, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.queue_kit import Replicas, claim_one, event

from .recovery import LeaseWatch

LEASE_SECONDS = 0.8
SETTINGS = {"namespace": "chorus", "lease_seconds": LEASE_SECONDS}


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def test_a_take_over_counts_from_the_death_to_the_claim_and_a_living_holder_is_none(replicas: Replicas) -> None:
    dead, living = replicas.queue(**SETTINGS), replicas.queue(**SETTINGS)
    await dead.put([event("a:1")])
    await claim_one(dead)
    await living.put([event("a:2")])
    kept = await claim_one(living)
    died_at = time.time()
    watch = LeaseWatch(replicas.redis, lease_seconds=LEASE_SECONDS, slots=10)
    watching = asyncio.create_task(watch.orphans_taken_over(died_at, within_seconds=5))
    while not (claims := await living.claim(5)):
        await living.extend([kept])
        await living.wait(0.05)
    (take_over,) = await watching
    claimed_at = claims[0].token / 1_000_000
    assert take_over.seconds == pytest.approx(claimed_at - died_at, abs=0.01)
    assert 0 <= take_over.after_lease <= take_over.seconds <= LEASE_SECONDS + 1
    assert [claim.mailbox for claim in claims] == ["a:1"]


async def test_a_conversation_that_was_reaped_and_found_no_place_still_waits(replicas: Replicas) -> None:
    dead, living = replicas.queue(**SETTINGS), replicas.queue(**SETTINGS)
    await dead.put([event("a:1")])
    await claim_one(dead)
    watch = LeaseWatch(replicas.redis, lease_seconds=LEASE_SECONDS, slots=0)
    watching = asyncio.create_task(watch.orphans_taken_over(time.time(), within_seconds=5))
    full = {"held": {"a": 1}, "per_group": 1}
    while await replicas.redis.zcard("chorus:{q0}:lease"):
        assert await living.claim(5, **full) == []
        await living.wait(0.05)
    await asyncio.sleep(0.3)  # time itself: several looks find it waiting
    assert not watching.done()
    await living.claim(5)
    (take_over,) = await watching
    assert take_over.after_lease >= 0.3
    assert take_over.free_slots == 0


async def test_nobody_claims_is_endless(replicas: Replicas) -> None:
    queue = replicas.queue(**SETTINGS)
    await queue.put([event("a:1")])
    await claim_one(queue)
    watch = LeaseWatch(replicas.redis, lease_seconds=LEASE_SECONDS, slots=10)
    (take_over,) = await watch.orphans_taken_over(time.time(), within_seconds=2)
    assert (take_over.seconds, take_over.free_slots) == (float("inf"), 10)
