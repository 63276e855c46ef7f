"""Waking without polling, sharing calls, and what cancellation leaves behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from app.core.queue import PutResult
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, claim_one, event, eventually, waiting


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def seconds_of(task: asyncio.Task[None]) -> float:
    started = time.monotonic()
    await task
    return time.monotonic() - started


@pytest.mark.parametrize("shards", [1, 4])
async def test_put_wakes_a_waiting_replica(replicas: Replicas, shards: int, within: Within) -> None:
    queue, producer = replicas.queue(shards=shards), replicas.queue(shards=shards)
    for n in range(3):
        task = await waiting(replicas, queue, blocked=shards)
        await producer.put([event(f"m{n}")])
        assert await seconds_of(task) < within(0.3, below=0.9)
        await queue.done(*await queue.claim(1))


async def test_debounce_shorter_than_the_wait_is_not_overslept(replicas: Replicas, within: Within) -> None:
    queue, producer = replicas.queue(), replicas.queue(debounce_seconds=0.3)
    task = await waiting(replicas, queue)
    started = time.monotonic()
    await producer.put([event()])
    await task
    await claim_one(queue)
    assert 0.299 <= time.monotonic() - started < within(0.8)


async def test_wait_without_work_takes_its_time_and_no_longer(replicas: Replicas, within: Within) -> None:
    queue = replicas.queue()
    assert await queue.claim(1) == []
    for seconds in (0.2, 0.01, 0.2):
        started = time.monotonic()
        await queue.wait(seconds)
        assert seconds <= time.monotonic() - started < seconds + within(0.3)


async def test_replica_that_has_no_room_for_all_that_is_due_wakes_another(replicas: Replicas, within: Within) -> None:
    small, idle = replicas.queue(), replicas.queue()
    woken = await waiting(replicas, small)  # first to wait, first to be woken
    other = await waiting(replicas, idle, blocked=2)
    await replicas.queue().put([event("a"), event("b")])
    await woken
    assert not other.done()
    await small.claim(1)
    assert await seconds_of(other) < within(0.3, below=0.9)
    assert [claim.mailbox for claim in await idle.claim(1)] == ["b"]


@pytest.mark.parametrize("give_back", [True, False], ids=["given back", "more arrived"])
async def test_end_of_a_claim_wakes_a_waiting_replica(replicas: Replicas, give_back: bool, within: Within) -> None:
    holder, idle = replicas.queue(), replicas.queue()
    await holder.put([event()])
    claim = await claim_one(holder)
    task = await waiting(replicas, idle)
    if give_back:
        await holder.retry_later(claim, 0, counted=False, reason="drain")
    else:
        await holder.put([event()])
        await holder.done(claim)
    assert await seconds_of(task) < within(0.3, below=0.9)


async def test_token_popped_for_a_cancelled_wait_goes_to_another_replica(replicas: Replicas, within: Within) -> None:
    leaving, idle, producer = replicas.queue(), replicas.queue(), replicas.queue()
    cancelled = await waiting(replicas, leaving)  # blocked first: the server serves it first
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    task = await waiting(replicas, idle, blocked=2)
    await producer.put([event()])
    assert await seconds_of(task) < within(0.3, below=0.9)


async def test_leaving_replica_passes_a_possible_token_on(replicas: Replicas, within: Within) -> None:
    leaving, idle = replicas.queue(), replicas.queue()
    gone = await waiting(replicas, leaving)
    gone.cancel()
    task = await waiting(replicas, idle, blocked=2)
    await leaving.aclose()
    await leaving.aclose()
    assert await seconds_of(task) < within(0.3, below=0.9)


async def test_cancelled_claim_is_given_back_at_once_without_an_attempt(replicas: Replicas) -> None:
    leaving, other = replicas.queue(), replicas.queue()
    assert await leaving.claim(10) == []
    await leaving.put([event("a"), event("b")])
    await replicas.redis.client_pause(10_000, all=False)
    claiming = asyncio.create_task(leaving.claim(10))
    await replicas.blocked(1)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await replicas.redis.client_unpause()
    await leaving.aclose()
    claims = await other.claim(10)
    assert {claim.mailbox: claim.attempts for claim in claims} == {"a": 0, "b": 0}


async def test_thousand_events_take_one_call(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event()])
    before = await replicas.calls()
    assert await queue.put([event(f"m{n % 300}") for n in range(1000)]) == PutResult(1000, 0)
    assert await replicas.calls() == before + 1


async def test_concurrent_puts_and_verdicts_share_calls(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event()])
    await queue.done(await claim_one(queue))
    before = await replicas.calls()
    results = await asyncio.gather(*(queue.put([event(f"m{n}")]) for n in range(64)))
    assert results == [PutResult(1, 0)] * 64
    assert await replicas.calls() == before + 1
    claims = await queue.claim(100)
    await asyncio.gather(
        *(queue.done(claim) for claim in claims[:40]),
        *(queue.retry_later(claim, 9, counted=True, reason="bug") for claim in claims[40:50]),
        *(queue.park(claim, 1, "unknown account") for claim in claims[50:]),
    )
    assert await replicas.calls() == before + 3
    stats = await queue.stats()
    assert (stats.pending, stats.ready, stats.dead) == (10, 10, 14)


async def test_cancelled_caller_does_not_harm_the_others_of_its_call(replicas: Replicas) -> None:
    queue = replicas.queue()
    puts = [asyncio.create_task(queue.put([event(f"m{n}")])) for n in range(5)]
    await asyncio.sleep(0)
    puts[0].cancel()
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [PutResult(1, 0)] * 4


async def test_verdict_is_carried_out_although_its_caller_was_cancelled(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event()])
    verdict = asyncio.create_task(queue.done(await claim_one(queue)))
    await asyncio.sleep(0)
    verdict.cancel()

    async def empty() -> bool:
        return (await queue.stats()).pending == 0

    await eventually(empty)
