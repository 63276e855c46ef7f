"""INGEST_FALLBACK=database: Redis goes away, messages go on; nothing is lost, overtaken or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.queue import Event, Queue, QueueFull
from app.core.redis import connect
from app.sandbox.servers import Valkey
from app.services.inbox_fallback import InboxFallback

Make = Callable[[], Awaitable[tuple[InboxFallback, Queue]]]


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(store_url)
    yield store
    await store.aclose()


@pytest.fixture
async def replica(valkey_url: str, store: PostgresStore) -> AsyncIterator[Make]:
    """`await replica()`: the ingesting half of one replica, its mover running."""
    async with AsyncExitStack() as stack:

        async def make(*, max_rows: int = 1000) -> tuple[InboxFallback, Queue]:
            clients = [connect(valkey_url, timeout_seconds=0.5), connect(valkey_url, timeout_seconds=3)]
            for client in clients:
                stack.push_async_callback(client.aclose)
            queue = Queue(*clients, namespace="test", debounce_seconds=0, max_pending=5000, put_timeout_seconds=0.2)
            stack.push_async_callback(queue.aclose)
            fallback = InboxFallback(queue, store, max_rows=max_rows)
            mover = asyncio.create_task(fallback.run())
            stack.callback(mover.cancel)
            return fallback, queue

        yield make


def event(n: int, mailbox: str = "box") -> Event:
    return Event(f"e{n}", mailbox, b"payload %d" % n, immediate=True)


async def claimed(queue: Queue, count: int) -> list[bytes]:
    """Everything that waits, in the order a worker gets it."""
    seen: list[bytes] = []
    async with asyncio.timeout(15):
        while len(seen) < count:
            for claim in await queue.claim(10):
                seen += [each.payload for each in claim.events]
                await queue.done(claim)
            await queue.wait(0.05)
    return seen


async def rows_left(store: PostgresStore) -> int:
    return len(await store.inbox_peek(limit=1000))


async def test_an_outage_is_bridged_in_order_and_nothing_comes_twice(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    fallback, queue = await replica()
    await fallback.put([event(n) for n in range(3)])
    valkey.kill()
    for n in range(3, 6):
        assert (await fallback.put([event(n)])).accepted == 1
    assert (await fallback.put([event(4)])).duplicates == 1
    assert await rows_left(store) == 3
    valkey.start()
    # Still diverted: a newer message must not overtake the ones in the inbox.
    await fallback.put([event(6), event(1)])
    assert await claimed(queue, 7) == [b"payload %d" % n for n in range(7)]
    assert await rows_left(store) == 0
    assert (await queue.stats()).pending == 0


async def test_a_frozen_redis_diverts_within_the_budget(valkey: Valkey, replica: Make) -> None:
    fallback, queue = await replica()
    await fallback.put([event(0)])
    valkey.pause()
    try:
        async with asyncio.timeout(0.9):
            await fallback.put([event(1)])
            await fallback.put([event(2)])
    finally:
        valkey.resume()
    # The put that timed out may have been carried out after the thaw: its copy in the inbox is a duplicate.
    assert await claimed(queue, 3) == [b"payload %d" % n for n in range(3)]


async def test_another_replica_does_not_overtake_what_the_first_put_aside(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    first, queue = await replica()
    await store.inbox_put([event(0)], max_rows=10)
    second, _ = await replica()
    async with asyncio.timeout(5):
        while await rows_left(store):
            await asyncio.sleep(0.01)
    await asyncio.gather(first.put([event(1)]), second.put([event(2, "other")]))
    assert (await claimed(queue, 3))[0] == b"payload 0"


async def test_movers_of_several_replicas_do_no_harm(valkey: Valkey, replica: Make, store: PostgresStore) -> None:
    await store.inbox_put([event(n, f"box{n % 7}") for n in range(200)], max_rows=1000)
    movers = [await replica() for _ in range(3)]
    seen = await claimed(movers[0][1], 200)
    assert len(seen) == len(set(seen)) == 200
    for box in range(7):
        mine = [int(payload.split()[1]) for payload in seen if int(payload.split()[1]) % 7 == box]
        assert mine == sorted(mine)


async def test_a_full_inbox_refuses(
    valkey: Valkey, replica: Callable[..., Awaitable[tuple[InboxFallback, Queue]]]
) -> None:
    fallback, _ = await replica(max_rows=2)
    valkey.kill()
    await fallback.put([event(0), event(1)])
    with pytest.raises(QueueFull):
        await fallback.put([event(2)])
