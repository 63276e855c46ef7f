"""What was put off is due at once when what it waited for is back; nothing else changes its time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.core.queue import Claim, Queue
from app.core.queue import mailboxes as mailboxes_module
from tests.support.queue_kit import Replicas, claim_one, event, waiting


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def put_one_off(queue: Queue, mailbox: str, *, counted: bool = False, seconds: float = 600) -> None:
    await queue.put([event(mailbox)])
    claim = await claim_one(queue)
    await queue.retry_later(claim, seconds, counted=counted, reason="not now")


async def mailboxes(queue: Queue, limit: int = 100) -> list[str]:
    return [claim.mailbox for claim in await queue.claim(limit)]


async def test_a_group_that_is_woken_is_due_now_and_the_others_are_not(replicas: Replicas) -> None:
    queue = replicas.queue()
    for mailbox in ("message:1:a", "message:1:b", "message:2:a", "outbound:1:a", "message:11:a"):
        await put_one_off(queue, mailbox)
    assert await queue.claim(10) == []
    assert await queue.wake(["message:1", "outbound:1"]) == 3
    assert sorted(await mailboxes(queue)) == ["message:1:a", "message:1:b", "outbound:1:a"]


async def test_all_groups_are_woken_together(replicas: Replicas) -> None:
    queue = replicas.queue()
    names = [f"message:{number}:a" for number in range(300)]
    for name in names:
        await put_one_off(queue, name)
    assert await queue.wake() == 300
    claimed: list[str] = []
    while found := await mailboxes(queue):
        claimed += found
    assert sorted(claimed) == sorted(names)


async def test_the_back_off_of_what_failed_is_not_shortened(replicas: Replicas) -> None:
    queue = replicas.queue()
    await put_one_off(queue, "m:failed", counted=True)
    due = await replicas.due_ms("m:failed")
    await put_one_off(queue, "m:waiting")
    assert await queue.wake(["m"]) == 1
    assert await mailboxes(queue) == ["m:waiting"]
    assert await replicas.due_ms("m:failed") == due


async def test_a_burst_is_still_debounced(replicas: Replicas) -> None:
    queue = replicas.queue(debounce_seconds=5.0)
    await queue.put([event("m:typing")])
    due = await replicas.due_ms("m:typing")
    assert await queue.wake() == 0
    assert await replicas.due_ms("m:typing") == due


async def test_what_is_held_and_what_is_due_stays_as_it_is(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m:held")])
    held = await claim_one(queue)
    await queue.put([event("m:due")])
    due = await replicas.due_ms("m:due")
    assert await queue.wake() == 0
    assert await replicas.due_ms("m:due") == due
    assert held.is_held()
    assert await queue.done(held)


async def test_a_group_larger_than_one_call_is_woken_in_full(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes_module, "WAKE_MAILBOXES", 7)
    queue = replicas.queue()
    for number in range(40):
        await put_one_off(queue, f"m:{number}", counted=number % 3 == 0)
    assert await queue.wake(["m"]) == 26
    assert len(await mailboxes(queue)) == 26


async def test_a_replica_that_waits_for_work_starts_at_once(replicas: Replicas) -> None:
    queue = replicas.queue()
    await put_one_off(queue, "m:a")
    task = await waiting(replicas, queue)
    await replicas.queue().wake(["m"])
    await task
    assert await mailboxes(queue) == ["m:a"]


async def test_a_big_account_that_is_woken_takes_its_turn_only(replicas: Replicas) -> None:
    queue = replicas.queue()
    for number in range(50):
        await put_one_off(queue, f"big:{number}")
    await queue.wake(["big"])
    await queue.put([event("small:a")])
    first: list[Claim] = await queue.claim(4)
    assert "small:a" in [claim.mailbox for claim in first]


async def test_attempts_and_order_survive(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m:a", "first"), event("m:a", "second")])
    claim = await claim_one(queue)
    await queue.retry_later(claim, 600, counted=False, reason="not now")
    await queue.wake(["m"])
    (again,) = await queue.claim(1)
    assert [e.id for e in again.events] == ["first", "second"]
    assert again.attempts == 0
    assert again.token > claim.token


async def test_nothing_waits_in_an_empty_queue(replicas: Replicas) -> None:
    queue = replicas.queue()
    assert await queue.wake() == await queue.wake(["nobody"]) == 0


async def test_a_group_is_woken_on_every_shard(replicas: Replicas) -> None:
    queue = replicas.queue(shards=4)
    for number in range(20):
        await put_one_off(queue, f"m:{number}")
    assert await queue.wake(["m"]) == 20
    assert len(await mailboxes(queue)) == 20
    for number in range(20):
        await put_one_off(queue, f"n{number}:a")
    assert await queue.wake() == 20


async def test_a_few_scouts_are_woken_and_no_more(replicas: Replicas) -> None:
    queue = replicas.queue()
    for number in range(30):
        await put_one_off(queue, f"message:{number % 3}:{number}")
    assert await queue.wake(most=10) == 10
    assert len(await mailboxes(queue)) == 10
    assert await queue.wake(["message:1"], most=2) == 2
