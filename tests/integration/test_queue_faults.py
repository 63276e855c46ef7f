"""What the queue promises while Redis is killed, frozen, restarted or full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.core.queue import PutResult, QueueUnavailable
from app.core.redis.door import Door, DoorTimings
from app.localhost.servers import Valkey
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, claim_one, event, eventually, ids, waiting


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def test_every_script_is_sent_again_to_a_server_that_forgot_them(replicas: Replicas) -> None:
    queue = replicas.queue()

    async def forget() -> None:
        await replicas.redis.script_flush()

    await queue.put([event("m", "a")])
    await forget()
    assert await queue.put([event("m", "a"), event("m", "b")]) == PutResult(1, 1)
    await forget()
    claim = await claim_one(queue)
    await forget()
    assert await queue.extend([claim]) == []
    await forget()
    assert ids(await queue.refresh(claim)) == ["a", "b"]
    await forget()
    assert await queue.park(claim, 2, "unknown account")
    letters, _ = await queue.dead_letters.page(limit=10)
    await forget()
    assert await queue.dead_letters.replay([letters[0].id]) == 1
    await forget()
    assert (await queue.stats()).pending == 1
    await forget()
    assert await queue.audit() == 0


async def test_cut_connections_are_replaced_without_a_lost_put_or_wake(replicas: Replicas, within: Within) -> None:
    queue, producer = replicas.queue(), replicas.queue()
    await producer.put([event()])
    await queue.done(await claim_one(queue))
    task = await waiting(replicas, queue)
    await replicas.redis.client_kill_filter(_type="normal", skipme=True)
    await replicas.blocked(1)
    assert await producer.put([event()]) == PutResult(1, 0)
    started = time.monotonic()
    await task
    await claim_one(queue)
    assert time.monotonic() - started < within(0.5, below=0.9)


async def test_killed_server_keeps_what_was_acknowledged_and_work_resumes(
    replicas: Replicas, valkey: Valkey, within: Within
) -> None:
    queue = replicas.queue()
    await queue.put([event("held", "a"), event("held", "b")])
    held = await claim_one(queue)
    await queue.put([event("waiting", "c")])
    valkey.kill()
    started = time.monotonic()
    with pytest.raises(QueueUnavailable) as refused:
        await queue.put([event("waiting", "d")])
    assert refused.value.retry_after
    with pytest.raises(QueueUnavailable):
        await queue.claim(1)
    with pytest.raises(QueueUnavailable):
        await queue.done(held)
    assert time.monotonic() - started < within(1)
    await queue.wait(0.3)
    assert 0.3 <= time.monotonic() - started < within(2), "an absent server is not a reason to spin"
    valkey.start()
    assert await queue.put([event("waiting", "c"), event("waiting", "d")]) == PutResult(1, 1)
    assert ids(await claim_one(queue)) == ["c", "d"]
    assert await queue.done(held), "the token outlived the server"


async def test_frozen_server_costs_a_put_its_budget_and_no_event_is_stored_twice(
    replicas: Replicas, valkey: Valkey, within: Within
) -> None:
    queue = replicas.queue(put_timeout_seconds=0.4)
    await queue.put([event("m", "a")])
    valkey.pause()
    started = time.monotonic()
    early = asyncio.create_task(queue.put([event("m", "b")]))
    await asyncio.sleep(0.2)  # time itself: the second put comes later
    late = asyncio.create_task(queue.put([event("m", "c")]))
    for put in (early, late):
        with pytest.raises(QueueUnavailable):
            await put
        assert time.monotonic() - started < within(0.8)
    valkey.resume()
    assert await queue.put([event("m", "b"), event("m", "c")]) == PutResult(2, 0)
    assert ids(await claim_one(queue)) == ["a", "b", "c"]


@pytest.mark.parametrize("first", [False, True], ids=["any", "first"])
async def test_put_that_its_caller_gave_up_stores_nothing_when_a_frozen_server_wakes(
    replicas: Replicas, valkey: Valkey, *, first: bool
) -> None:
    """Also the first one of a process, which cannot know the server's time."""
    queue, other = replicas.queue(put_timeout_seconds=0.3), replicas.queue()
    await other.put([event("m", "a")])
    await queue.stats()  # the connection is open: what is sent waits in the server's buffer
    if not first:
        await queue.put([event("m", "a")])
    before = await replicas.calls()
    valkey.pause()
    with pytest.raises(QueueUnavailable):
        await queue.put([event("m", "b")])
    valkey.resume()

    async def late_put_ran() -> bool:
        return await replicas.calls() > before

    await eventually(late_put_ran)
    assert (await other.stats()).pending == 1
    assert await other.put([event("m", "b")]) == PutResult(1, 0)


async def test_put_whose_time_is_over_before_its_turn_is_not_sent(replicas: Replicas) -> None:
    queue = replicas.queue(put_timeout_seconds=0)
    await replicas.queue().put([event("m")])
    before = await replicas.calls()
    with pytest.raises(QueueUnavailable, match="no time was left"):
        await queue.put([event("m")])
    assert await replicas.calls() == before


async def test_put_costs_one_call_once_the_servers_time_is_known(replicas: Replicas) -> None:
    queue = replicas.queue()
    before = await replicas.calls()
    assert await queue.put([event("m")]) == PutResult(1, 0)
    assert await replicas.calls() == before + 2
    for _ in range(5):
        await queue.put([event("m")])
    assert await replicas.calls() == before + 7


async def test_claim_that_nobody_waits_for_any_more_claims_nothing(replicas: Replicas, valkey: Valkey) -> None:
    """A frozen server finds the requests of callers that gave up long ago when it wakes."""
    queue, other = (
        replicas.queue(door=Door(replicas.client(), timings=DoorTimings(answer_seconds=0.3))),
        replicas.queue(),
    )
    assert await queue.claim(1) == []
    await other.put([event()])
    before = await replicas.calls()
    valkey.pause()
    with pytest.raises(QueueUnavailable):
        await queue.claim(1)
    valkey.resume()

    async def late_claim_ran() -> bool:
        return await replicas.calls() > before

    await eventually(late_claim_ran)
    assert (await claim_one(other)).attempts == 0


async def test_full_server_takes_nothing_in_and_lets_the_queue_be_worked_off(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event(name) for name in "abcd"] + [event("a", "next")])
    await replicas.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable):
            await queue.put([event("a")])
        claims = {claim.mailbox: claim for claim in await queue.claim(10)}
        assert sorted(claims) == ["a", "b", "c", "d"]
        assert await queue.extend(list(claims.values())) == []
        assert await queue.done(claims["a"], 1)
        assert await queue.done(claims["b"])
        assert not await queue.retry_later(claims["c"], 0, counted=True, reason="bug")
        assert await queue.park(claims["d"], 1, "unknown account")
        again = await queue.claim(10)
        assert {claim.mailbox: claim.attempts for claim in again} == {"a": 0, "c": 1}
        assert [await queue.done(claim) for claim in again] == [True, True]
    finally:
        await replicas.redis.config_set("maxmemory", 0)
    stats = await queue.stats()
    assert (stats.pending, stats.ready, stats.leased, stats.dead) == (0, 0, 0, 1)
