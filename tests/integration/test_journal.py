"""REDIS_DURABILITY=none: what Redis forgets goes into it again, in order, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.queue import Claim, Event, Queue, QueueFull, QueuePolicy
from app.core.redis.client import connect
from app.core.redis.door import Door
from app.domain.errors import Unavailable
from app.localhost.servers import Postgres
from app.services.ingest_service import whatsapp_id
from app.services.journal import Journal
from tests.support.forgetful_redis import ForgetfulValkey, forgetful_valkey

Make = Callable[..., Awaitable[tuple[Journal, Queue]]]


@pytest.fixture(scope="module")
def forgetful() -> Iterator[ForgetfulValkey]:
    with forgetful_valkey() as server:
        yield server


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(store_url)
    yield store
    await store.aclose()


@pytest.fixture
async def replica(forgetful: ForgetfulValkey, store: PostgresStore) -> AsyncIterator[Make]:
    """`await replica()`: the ingesting half of one replica, its mover running if `moving`."""
    await asyncio.to_thread(forgetful.restart)
    async with AsyncExitStack() as stack:

        async def make(
            *, max_rows: int = 1000, max_per_mailbox: int = 1000, moving: bool = True
        ) -> tuple[Journal, Queue]:
            clients = [Door.to(forgetful.url), Door.to(forgetful.url)]
            for client in clients:
                stack.push_async_callback(client.aclose)
            queue = Queue(
                *clients,
                policy=QueuePolicy(debounce_seconds=0, max_pending=5000, max_per_mailbox=max_per_mailbox),
                namespace="test",
            )
            stack.push_async_callback(queue.aclose)
            journal = Journal(queue, store, max_rows=max_rows, max_bytes=10**8, put_timeout_seconds=10)
            if moving:
                mover = asyncio.create_task(journal.run())
                stack.callback(mover.cancel)
            return journal, queue

        yield make


def event(n: int, mailbox: str = "box") -> Event:
    return Event(f"e{n}", mailbox, b"%d" % n, immediate=True)


async def claim(queue: Queue, count: int = 1) -> list[Claim]:
    claims: list[Claim] = []
    async with asyncio.timeout(15):
        while len(claims) < count:
            try:
                claims += await queue.claim(count - len(claims))
            except Unavailable:
                await asyncio.sleep(0.01)
            await queue.wait(0.05)
    return claims


async def handle(journal: Journal, queue: Queue, count: int) -> list[int]:
    """As a worker does it, in the order it comes."""
    seen: list[int] = []
    async with asyncio.timeout(15):
        while len(seen) < count:
            for one in await claim(queue):
                seen += [int(each.payload) for each in one.events]
                await journal.settle(one.events)
                await queue.done(one)
    return seen


async def rows_left(store: PostgresStore) -> int:
    await store.journal_begin(life="look", keep_seconds=86400)
    return len(await store.journal_next(after=0, limit=1000))


async def pending(queue: Queue, count: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                if (await queue.stats()).pending == count:
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.01)


async def test_what_was_accepted_is_handled_after_redis_lost_it_and_in_order(
    forgetful: ForgetfulValkey, replica: Make, store: PostgresStore
) -> None:
    journal, queue = await replica()
    await journal.put([event(n) for n in range(3)])
    await pending(queue, 3)
    await asyncio.to_thread(forgetful.kill)
    assert (await journal.put([event(3)])).accepted == 1, "without Redis too"
    await asyncio.to_thread(forgetful.start)
    await journal.put([event(4)])
    assert await handle(journal, queue, 5) == [0, 1, 2, 3, 4]
    assert await rows_left(store) == 0
    assert (await queue.stats()).pending == 0


async def test_a_loss_while_a_worker_is_at_it_costs_a_repetition_and_no_message(
    forgetful: ForgetfulValkey, replica: Make, store: PostgresStore
) -> None:
    journal, queue = await replica()
    await journal.put([event(0)])
    (held,) = await claim(queue)
    await asyncio.to_thread(forgetful.restart)
    assert await handle(journal, queue, 1) == [0]
    await journal.settle(held.events)
    assert await rows_left(store) == 0


async def test_a_flush_is_noticed_without_a_lost_connection(replica: Make, forgetful: ForgetfulValkey) -> None:
    journal, queue = await replica()
    await journal.put([event(0)])
    await pending(queue, 1)
    client = connect(forgetful.url)
    await client.flushall()
    await client.aclose()
    assert await handle(journal, queue, 1) == [0]


async def test_an_undisturbed_life_stays_the_same(replica: Make, forgetful: ForgetfulValkey) -> None:
    _, queue = await replica(moving=False)
    life = await queue.life()
    assert await queue.life() == life
    await asyncio.to_thread(forgetful.restart)
    assert await queue.life() != life


async def test_several_movers_move_once(replica: Make, store: PostgresStore) -> None:
    first, queue = await replica(moving=False)
    for n in range(200):
        await first.put([event(n, f"box{n % 7}")])
    for _ in range(3):
        await replica()
    seen = await handle(first, queue, 200)
    assert sorted(seen) == list(range(200))
    for box in range(7):
        mine = [n for n in seen if n % 7 == box]
        assert mine == sorted(mine)
    assert await rows_left(store) == 0


async def test_a_mover_that_crashed_before_its_mark_moves_nothing_twice(replica: Make, store: PostgresStore) -> None:
    first, queue = await replica(moving=False)
    await first.put([event(0)])
    await first._put(await store.journal_next(after=0, limit=10), "another life")
    second, _ = await replica()
    await second.put([event(1)])
    assert await handle(second, queue, 2) == [0, 1]
    await pending(queue, 0)


async def test_a_conversation_that_is_full_stops_no_other(replica: Make) -> None:
    journal, queue = await replica(max_per_mailbox=2)
    await journal.put([event(0), event(1)])
    await pending(queue, 2)
    await journal.put([event(2)])
    await journal.put([event(3, "other")])
    await pending(queue, 3)
    assert sorted(await handle(journal, queue, 4)) == [0, 1, 2, 3]


async def test_a_full_journal_refuses(replica: Make) -> None:
    journal, _ = await replica(max_rows=1, moving=False)
    await journal.put([event(0)])
    with pytest.raises(QueueFull):
        await journal.put([event(1)])


async def test_without_the_database_nothing_is_accepted_and_redis_is_not_asked(
    replica: Make, postgres: Postgres
) -> None:
    journal, queue = await replica()
    await asyncio.to_thread(postgres.kill)
    with pytest.raises(Unavailable) as refused:
        await journal.put([event(0)])
    assert refused.value.retry_after == 1
    assert (await queue.stats()).pending == 0


async def test_a_dead_letter_is_tried_again_after_a_loss(replica: Make, forgetful: ForgetfulValkey) -> None:
    journal, queue = await replica()
    await journal.put([event(0)])
    (held,) = await claim(queue)
    await queue.park(held, 1, "no")
    await asyncio.to_thread(forgetful.restart)
    assert await handle(journal, queue, 1) == [0]


def test_the_logs_name_of_a_message_does_not_contain_its_row() -> None:
    assert whatsapp_id(Event("message:123:wamid.ABC==#57", "box", b"")) == "wamid.ABC=="
