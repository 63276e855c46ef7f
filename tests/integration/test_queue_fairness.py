"""Groups of mailboxes take turns, and one that its worker has enough of is neither claimed nor waited for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from app.core.queue import Claim, Queue
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, claim_one, event, waiting


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def due(queue: Queue, **counts: int) -> None:
    """So many conversations of each account fall due, one account after the other."""
    for group, count in counts.items():
        await queue.put([event(f"message:{group}:{n:04}") for n in range(count)])
        await asyncio.sleep(0.002)


def accounts(claims: Sequence[Claim]) -> Counter[str]:
    return Counter(claim.mailbox.split(":")[1] for claim in claims)


def groups(claims: Sequence[Claim]) -> Counter[str]:
    return Counter(Queue.group_of(claim.mailbox) for claim in claims)


@pytest.mark.parametrize(
    ("mailbox", "group"), [("message:1:49", "message:1"), ("message:1:a:b", "message:1:a"), ("m", ""), (":m", "")]
)
async def test_group_is_the_name_up_to_its_last_colon_also_for_the_scripts(
    replicas: Replicas, mailbox: str, group: str
) -> None:
    assert Queue.group_of(mailbox) == group
    await replicas.queue().put([event(mailbox)])
    assert await replicas.redis.zrange("test:{q0}:groups", 0, -1) == [group.encode()]
    assert await replicas.due_ms(mailbox)


@pytest.mark.parametrize("shards", [1, 4])
async def test_a_thousand_conversations_of_one_account_do_not_delay_another(replicas: Replicas, shards: int) -> None:
    queue = replicas.queue(shards=shards)
    await due(queue, a=1000, b=1)
    claims = [claim for _ in range(shards) for claim in await queue.claim(10)]
    assert accounts(claims) == {"a": 10 * shards - 1, "b": 1}


async def test_shares_are_equal_and_what_the_small_leave_goes_to_the_others(replicas: Replicas) -> None:
    queue = replicas.queue()
    await due(queue, a=100, b=3, c=100, d=1)
    claims = await queue.claim(20)
    assert accounts(claims) == {"a": 8, "b": 3, "c": 8, "d": 1}
    assert [c.mailbox for c in claims if ":a:" in c.mailbox] == [f"message:a:{n:04}" for n in range(8)]


@pytest.mark.parametrize("shards", [1, 2, 3])
async def test_turns_pass_from_claim_to_claim(replicas: Replicas, shards: int) -> None:
    queue = replicas.queue(shards=shards)
    await due(queue, a=60, b=60, c=60)
    claims = [claim for _ in range(3 * shards) for claim in await queue.claim(1)]
    assert accounts(claims) == dict.fromkeys("abc", shards)


async def test_more_accounts_than_are_looked_at_are_all_served(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event(f"message:{n}:{peer}") for n in range(100) for peer in "xy"])
    claims = await queue.claim(150) + await queue.claim(150)
    assert len({claim.mailbox for claim in claims}) == 200
    assert await replicas.redis.exists("test:{q0}:groups") == 0


@pytest.mark.parametrize("shards", [1, 4])
async def test_no_more_of_an_account_than_its_worker_wants(replicas: Replicas, shards: int) -> None:
    queue = replicas.queue(shards=shards)
    await due(queue, a=40, b=3)
    first = await queue.claim(10, per_group=4)
    assert accounts(first) == {"a": 4, "b": 3}
    assert await queue.claim(10, held=groups(first), per_group=4) == []
    await queue.done(next(claim for claim in first if ":a:" in claim.mailbox))
    held = groups(first) - Counter({"message:a": 1})
    assert accounts(await queue.claim(10, held=held, per_group=4)) == {"a": 1}
    assert accounts(await queue.claim(10, held=Counter({"message:a": 9}), per_group=4)) == {}


async def test_account_at_its_bound_is_not_waited_for_but_others_are(replicas: Replicas, within: Within) -> None:
    queue, producer = replicas.queue(), replicas.queue(debounce_seconds=0.1)
    await due(queue, a=5)
    held = groups(await queue.claim(10, per_group=2))
    assert await queue.claim(10, held=held, per_group=2) == []
    await replicas.redis.delete("test:{q0}:wake")  # tokens for workers that have room
    started = time.monotonic()
    await queue.wait(0.3)
    assert time.monotonic() - started >= 0.3
    started = time.monotonic()
    await due(producer, b=1)
    while not (claims := await queue.claim(10, held=held, per_group=2)):
        await queue.wait()
    assert accounts(claims) == {"b": 1}
    assert time.monotonic() - started < within(0.5)


async def test_replica_that_leaves_something_of_an_account_wakes_another(replicas: Replicas, within: Within) -> None:
    full, idle = replicas.queue(), replicas.queue()
    woken = await waiting(replicas, full)
    other = await waiting(replicas, idle, blocked=2)
    await replicas.queue().put([event(f"message:a:{n}") for n in range(5)])
    await woken
    held = groups(await full.claim(10, per_group=3))
    started = time.monotonic()
    await other
    assert time.monotonic() - started < within(0.3, below=0.9)
    assert await full.claim(10, held=held, per_group=3) == []
    assert accounts(await idle.claim(10, per_group=3)) == {"a": 2}


async def test_replicas_at_their_bound_do_not_wake_each_other_in_a_circle(replicas: Replicas) -> None:
    queues = [replicas.queue(), replicas.queue()]
    await due(queues[0], a=10)
    held = [groups(await queue.claim(10, per_group=2)) for queue in queues]
    before = await replicas.calls()
    async with asyncio.TaskGroup() as tasks:
        for queue, mine in zip(queues, held, strict=True):
            tasks.create_task(keep_claiming(queue, mine, seconds=0.5))
    assert await replicas.calls() - before <= 8


async def keep_claiming(queue: Queue, held: Counter[str], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        assert await queue.claim(10, held=held, per_group=2) == []
        await queue.wait(left)


async def test_damaged_schedule_of_groups_heals(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("message:a:1")])
    await replicas.redis.zadd("test:{q0}:groups", {"nothing": 0})
    assert (await claim_one(queue)).mailbox == "message:a:1"
    assert await replicas.redis.exists("test:{q0}:groups") == 0
