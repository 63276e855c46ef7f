"""More commands than connections: they wait their turn, and what comes in waits behind nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.queue import Claim, LeaseLost
from app.core.redis.client import Redis, connect
from app.core.redis.corrections import PatientPool
from app.core.redis.door import Door
from app.localhost.servers import Valkey
from tests.support.patience import Within
from tests.support.proxy import proxied
from tests.support.queue_kit import Replicas, claim_one, event, eventually, ids

FEW, MANY = 4, 50


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def names(redis: Redis, name: str) -> int:
    return sum(each["name"] == name for each in await redis.client_list())


async def test_fifty_commands_over_four_connections_are_all_answered_in_order(valkey: Valkey, valkey_url: str) -> None:
    """Also when the server stands still for a while."""
    client = connect(valkey_url, max_connections=FEW, name="few")
    valkey.pause()
    asyncio.get_running_loop().call_later(0.5, valkey.resume)
    await asyncio.gather(*(client.rpush("order", number) for number in range(MANY)))
    order = [int(number) for number in await client.lrange("order", 0, -1)]
    # Those under way at one time may overtake each other, those behind them may not.
    assert all(abs(number - place) < FEW for place, number in enumerate(order)), order
    assert await names(client, "few") <= FEW
    await client.aclose()


async def test_a_turn_of_a_caller_who_waited_too_long_is_not_lost(valkey_url: str) -> None:
    async with proxied(valkey_url) as line:
        slow = connect(line.url, max_connections=1)
        assert await slow.ping()
        line.freeze()
        waiting = (asyncio.wait_for(slow.ping(), 0.2) for _ in range(2))
        first, second = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(first, TimeoutError)
        assert isinstance(second, TimeoutError)
        line.thaw()
        assert await asyncio.gather(*(slow.ping() for _ in range(10))) == [True] * 10
        await slow.aclose()


async def test_a_caller_that_is_cancelled_in_any_step_of_a_command_ends(valkey_url: str) -> None:
    """Also in the step in which redis-py has just written it."""
    client = connect(valkey_url)
    await client.ping()

    async def ask_for_ever() -> None:
        while True:
            await client.ping()

    for steps in range(12):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        _, lasting = await asyncio.wait({asking}, timeout=1)
        asking.cancel()
        assert not lasting, f"goes on after it was cancelled in step {steps}"
    assert await client.ping(), "and nobody gets its answer"
    await client.aclose()


async def test_cancelled_commands_give_their_turn_back(valkey: Valkey, valkey_url: str) -> None:
    client = connect(valkey_url, max_connections=FEW)
    valkey.pause()
    tasks = [asyncio.create_task(client.ping()) for _ in range(MANY)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    valkey.resume()
    for _ in range(3):
        assert await asyncio.gather(*(client.ping() for _ in range(MANY))) == [True] * MANY
    await client.aclose()


async def test_connections_given_back_by_callers_who_leave_meanwhile_give_their_turn_back(
    valkey_url: str, within: Within
) -> None:
    """While each one has to be closed first, because the server has become a replica."""
    client = connect(valkey_url, max_connections=FEW)
    pool = client.connection_pool
    assert isinstance(pool, PatientPool)
    connections = [await pool.get_connection() for _ in range(FEW)]
    await pool.open_anew()
    giving_back = [asyncio.create_task(pool.release(connection)) for connection in connections]
    await asyncio.sleep(0)
    for task in giving_back[1:]:
        task.cancel()
    await asyncio.gather(*giving_back, return_exceptions=True)
    async with asyncio.timeout(within(2)):
        again = [await pool.get_connection() for _ in range(FEW)]
    for connection in again:
        await pool.release(connection)
    await client.aclose()


async def test_who_waits_for_a_turn_while_the_pool_is_closed_leaves_no_connection_behind(
    valkey_url: str, replicas: Replicas
) -> None:
    client = connect(valkey_url, max_connections=1, name="left-behind")
    pool = client.connection_pool
    taken = await pool.get_connection()
    waiting = asyncio.create_task(client.ping())
    await asyncio.sleep(0)
    await client.aclose()
    await pool.release(taken)
    with pytest.raises(RedisConnectionError, match="closed"):
        await waiting

    async def none_is_left() -> bool:  # the server hears of an end a moment later
        return await names(replicas.redis, "left-behind") == 0

    await eventually(none_is_left)


async def test_failed_connections_give_their_turn_back(valkey: Valkey, valkey_url: str) -> None:
    client = connect(valkey_url, max_connections=FEW)
    valkey.kill()
    failed = await asyncio.gather(*(client.ping() for _ in range(MANY)), return_exceptions=True)
    assert all(isinstance(answer, Exception) for answer in failed)
    await asyncio.to_thread(valkey.start)
    assert await asyncio.gather(*(client.ping() for _ in range(MANY))) == [True] * MANY
    await client.aclose()


async def test_a_put_waits_behind_nothing_else(replicas: Replicas, valkey_url: str, within: Within) -> None:
    """The connections of everything else are taken by commands that take long."""
    crowded = connect(valkey_url, max_connections=2)
    queue = replicas.queue(door=Door(crowded), ingest=replicas.door())
    taken = [asyncio.create_task(crowded.blpop(["never"], timeout=1)) for _ in range(4)]
    await replicas.blocked(2)
    async with asyncio.timeout(within(0.5)):
        assert (await queue.put([event()])).accepted == 1
    assert not all(task.done() for task in taken)
    await asyncio.gather(*taken)
    await crowded.aclose()


async def test_refreshes_of_one_moment_share_a_call_and_each_gets_its_own_answer(replicas: Replicas) -> None:
    queue = replicas.queue()
    boxes = [f"message:n:{number}" for number in range(MANY)]
    await queue.put([event(box, f"{box}-0") for box in boxes])
    claims = {claim.mailbox: claim for claim in await queue.claim(MANY)}
    assert len(claims) == MANY
    lost, grown = claims[boxes[0]], boxes[1::2]
    await queue.retry_later(lost, 0, counted=False, reason="taken away")
    await queue.put([event(box, f"{box}-1") for box in grown])
    before = await replicas.calls()
    fresh = await asyncio.gather(*(queue.refresh(claims[box]) for box in boxes), return_exceptions=True)
    assert await replicas.calls() - before == 1
    assert isinstance(fresh[0], LeaseLost)
    for box, claim in zip(boxes[1:], fresh[1:], strict=True):
        assert isinstance(claim, Claim)
        assert ids(claim) == [f"{box}-0", f"{box}-1"] if box in grown else [f"{box}-0"]


async def test_a_refresh_shows_no_more_than_a_claim_does(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m", "first")])
    claim = await claim_one(queue)
    await queue.put([event("m") for _ in range(30)])
    assert len((await queue.refresh(claim)).events) == 20
