"""INGEST_FALLBACK=database: Redis goes away, messages go on; nothing is lost, overtaken or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import pytest
import redis

from app.adapters.postgres_store import PostgresStore
from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.queue import Event, Queue, QueueFull, QueuePolicy
from app.core.redis.door import Door, DoorTimings
from app.domain.models import InboxState
from app.localhost.servers import Postgres, Valkey
from app.services import inbox_fallback
from app.services.inbox_fallback import SUSPECT_SECONDS, InboxFallback
from app.services.overflow import Overflow
from tests.support.fakes import FakeClock
from tests.support.patience import Within
from tests.support.proxy import proxied

Make = Callable[..., Awaitable[tuple[InboxFallback, Queue]]]


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(store_url)
    yield store
    await store.aclose()


class Limits(NamedTuple):
    """Seconds that a put may take."""

    queue: float
    overflow: float
    inbox: float


PATIENT = Limits(5, 5, 10)
"""For tests in which nothing hangs: on a busy machine Redis is sometimes late, and then its events are put aside."""
SOON = PATIENT._replace(queue=0.2)


@pytest.fixture
async def replica(valkey_url: str, store: PostgresStore) -> AsyncIterator[Make]:
    """`await replica()`: the ingesting half of one replica, its mover running if `moving`."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            max_rows: int = 1000,
            moving: bool = True,
            clock: Clock = SYSTEM_CLOCK,
            ingest_url: str = valkey_url,
            limits: Limits = PATIENT,
        ) -> tuple[InboxFallback, Queue]:
            clients = [Door.to(valkey_url, timings=DoorTimings(answer_seconds=5)), Door.to(valkey_url)]
            ingest = Door.to(ingest_url)
            for client in (*clients, ingest):
                stack.push_async_callback(client.aclose)
            queue = Queue(
                *clients,
                policy=QueuePolicy(debounce_seconds=0, max_pending=10**5, put_timeout_seconds=limits.queue),
                ingest=ingest,
                namespace="test",
            )
            stack.push_async_callback(queue.aclose)
            overflow = Overflow(queue, store, max_rows=100, max_bytes=10**7, put_timeout_seconds=limits.overflow)
            fallback = InboxFallback(
                queue,
                overflow,
                store,
                max_rows=max_rows,
                max_bytes=10**8,
                put_timeout_seconds=limits.inbox,
                clock=clock,
            )
            if moving:
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


async def until(store: PostgresStore, state: InboxState, *, timeout_seconds: float = 5) -> None:
    async with asyncio.timeout(timeout_seconds):
        while await store.inbox_state() is not state:
            await asyncio.sleep(0.01)


def scripts_run(valkey: Valkey) -> int:
    with redis.Redis.from_url(valkey.url, socket_timeout=5) as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


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


async def test_a_frozen_redis_diverts_within_the_budget(valkey: Valkey, replica: Make, within: Within) -> None:
    fallback, queue = await replica(limits=SOON)
    await fallback.put([event(0)])
    valkey.pause()
    try:
        async with asyncio.timeout(within(0.9)):
            await fallback.put([event(1)])
            await fallback.put([event(2)])
    finally:
        valkey.resume()
    assert await claimed(queue, 3) == [b"payload %d" % n for n in range(3)]


async def test_a_put_that_was_given_up_does_not_overtake_when_a_frozen_redis_wakes(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    """Its event waits in the inbox, behind an older one that another replica has put aside."""
    clock = FakeClock()
    unsuspecting, queue = await replica(moving=False, clock=clock, limits=SOON._replace(queue=1))
    await unsuspecting.put([event(0)])
    clock.advance(SUSPECT_SECONDS)
    ran = scripts_run(valkey)
    await asyncio.to_thread(valkey.pause)
    await store.inbox_put([event(1)], max_rows=10, max_bytes=10**9, reopen=True)
    await unsuspecting.put([event(2)])
    assert await rows_left(store) == 2
    await asyncio.to_thread(valkey.resume)
    async with asyncio.timeout(5):
        while scripts_run(valkey) == ran:
            await asyncio.sleep(0.01)
    await replica()
    assert await claimed(queue, 3) == [b"payload 0", b"payload 1", b"payload 2"]


async def test_a_replica_for_which_the_queue_is_there_hears_of_one_for_which_it_is_not(
    valkey_url: str, replica: Make, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_fallback, "TELL_SECONDS", 5.0)
    clock = FakeClock()
    unsuspecting, queue = await replica(moving=False, clock=clock)
    late, _ = await replica(moving=False, clock=clock)
    await unsuspecting.put([event(0)])
    clock.advance(SUSPECT_SECONDS)
    async with proxied(valkey_url) as line:
        slow, _ = await replica(moving=False, ingest_url=line.url, limits=SOON)
        await slow.put([event(1)])
        line.freeze()
        await slow.put([event(2)])
        await unsuspecting.put([event(3)])
        assert await rows_left(store) == 2
        await replica()
        await until(store, InboxState.CLOSED)
        # The mark is still there: one that has asked may put in spite of it.
        await unsuspecting.put([event(4)])
        await late.put([event(5)])
        assert await claimed(queue, 6) == [b"payload %d" % n for n in range(6)]
        line.thaw()


async def test_another_replica_does_not_overtake_what_the_first_put_aside(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    first, queue = await replica()
    await store.inbox_put([event(0)], max_rows=10, max_bytes=10**9, reopen=True)
    second, _ = await replica()
    async with asyncio.timeout(5):
        while await rows_left(store):
            await asyncio.sleep(0.01)
    await asyncio.gather(first.put([event(1)]), second.put([event(2, "other")]))
    assert (await claimed(queue, 3))[0] == b"payload 0"


async def test_movers_of_several_replicas_do_no_harm(valkey: Valkey, replica: Make, store: PostgresStore) -> None:
    await store.inbox_put([event(n, f"box{n % 7}") for n in range(200)], max_rows=1000, max_bytes=10**9, reopen=True)
    movers = [await replica() for _ in range(3)]
    seen = await claimed(movers[0][1], 200)
    assert len(seen) == len(set(seen)) == 200
    for box in range(7):
        mine = [int(payload.split()[1]) for payload in seen if int(payload.split()[1]) % 7 == box]
        assert mine == sorted(mine)


async def test_a_full_inbox_refuses(valkey: Valkey, replica: Make) -> None:
    fallback, _ = await replica(max_rows=2)
    valkey.kill()
    await fallback.put([event(0, "first"), event(1, "second")])
    with pytest.raises(QueueFull):
        await fallback.put([event(2, "third")])


async def test_under_steady_traffic_both_replicas_leave_the_inbox_after_the_outage(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    """Within limits for a machine with other work: it takes a second on an idle one, and never ends where traffic can
    outrun the mover."""
    replicas = [await replica(max_rows=10**5) for _ in range(2)]
    sent = [0] * 6
    stop = asyncio.Event()

    async def talk(box: int) -> None:
        """One conversation, over both replicas by turns; what is refused comes again, as from Meta."""
        while not stop.is_set():
            fallback, _ = replicas[sent[box] % 2]
            try:
                await fallback.put([Event(f"{box}.{sent[box]}", f"box{box}", b"%d %d" % (box, sent[box]), True)])
                sent[box] += 1
            except Unavailable:
                pass
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for box in range(len(sent)):
            group.create_task(talk(box))
        async with asyncio.timeout(20):
            while min(sent) < 5:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(valkey.kill)
        async with asyncio.timeout(20):
            while await rows_left(store) < 100:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(valkey.start)
        # Closed, nothing is stored there: whatever is accepted from now on, on either replica, went directly.
        await until(store, InboxState.CLOSED, timeout_seconds=20)
        before = list(sent)
        async with asyncio.timeout(20):
            while any(now < then + 10 for now, then in zip(sent, before, strict=True)):
                await asyncio.sleep(0.01)
        assert await store.inbox_state() is InboxState.CLOSED
        stop.set()
    seen = [tuple(map(int, payload.split())) for payload in await claimed(replicas[0][1], sum(sent))]
    for box, count in enumerate(sent):
        assert [n for where, n in seen if where == box] == list(range(count))
    assert (await replicas[0][1].stats()).pending == 0


async def test_what_a_crashed_mover_was_closing_another_finishes(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    await store.inbox_put([event(0)], max_rows=10, max_bytes=10**9, reopen=True)
    assert await store.inbox_close() is InboxState.CLOSING
    waiting, queue = await replica(moving=False)
    put = asyncio.create_task(waiting.put([event(1)]))
    await replica()
    await put
    assert await store.inbox_state() is InboxState.CLOSED
    assert await claimed(queue, 2) == [b"payload 0", b"payload 1"]


async def test_a_put_waits_for_a_closing_inbox_no_longer_than_its_budget(
    replica: Make, store: PostgresStore, within: Within
) -> None:
    await store.inbox_put([event(0)], max_rows=10, max_bytes=10**9, reopen=True)
    await store.inbox_close()
    fallback, queue = await replica(moving=False, limits=SOON._replace(inbox=0.9))
    async with asyncio.timeout(within(1.5)):
        with pytest.raises(Unavailable) as refused:
            await fallback.put([event(1)])
    assert refused.value.retry_after == 1
    assert (await queue.stats()).pending == 0
    assert await rows_left(store) == 1


async def test_a_queue_that_fails_while_the_inbox_closes_opens_it_again(
    valkey: Valkey, replica: Make, store: PostgresStore
) -> None:
    await store.inbox_put([event(0)], max_rows=10, max_bytes=10**9, reopen=True)
    await store.inbox_close()
    valkey.kill()
    fallback, queue = await replica()
    await until(store, InboxState.OPEN)
    await fallback.put([event(1)])
    assert await rows_left(store) == 2
    valkey.start()
    assert await claimed(queue, 2) == [b"payload 0", b"payload 1"]


async def test_a_suspicious_replica_asks_before_it_overtakes(replica: Make, store: PostgresStore) -> None:
    """It has seen nothing of the outage itself, and the queue is back."""
    fallback, queue = await replica(moving=False)
    await fallback.put([event(0)])
    await store.inbox_put([event(1)], max_rows=10, max_bytes=10**9, reopen=True)
    fallback.suspect()
    await fallback.put([event(2)])
    assert await rows_left(store) == 2
    assert (await queue.stats()).pending == 1


async def test_without_the_database_a_suspicion_is_nothing_and_a_diversion_is_refused_for_a_moment(
    valkey: Valkey, postgres: Postgres, replica: Make, store: PostgresStore
) -> None:
    suspicious, queue = await replica(moving=False)
    diverted, _ = await replica(moving=False)
    await store.inbox_put([event(0)], max_rows=10, max_bytes=10**9, reopen=True)
    await diverted.put([event(1)])
    await asyncio.to_thread(postgres.kill)
    suspicious.suspect()
    assert (await suspicious.put([event(2, "other")])).accepted == 1
    with pytest.raises(Unavailable) as refused:
        await diverted.put([event(3)])
    assert refused.value.retry_after == 1
    assert (await queue.stats()).pending == 1


async def test_without_database_and_queue_webhooks_are_refused_until_the_first_of_them_is_back(
    valkey: Valkey, postgres: Postgres, replica: Make, within: Within
) -> None:
    """Nothing was put aside, so nothing can be overtaken: the queue alone is enough."""
    fallback, queue = await replica(moving=False)
    await asyncio.to_thread(postgres.kill)
    await asyncio.to_thread(valkey.kill)
    for n in range(10):
        with pytest.raises(Unavailable):
            await fallback.put([event(n)])
    await asyncio.to_thread(valkey.start)
    async with asyncio.timeout(within(1)):
        while True:
            with suppress(Unavailable):
                assert (await fallback.put([event(0)])).accepted == 1
                break
    assert (await queue.stats()).pending == 1


async def test_a_diversion_goes_on_within_two_seconds_of_the_databases_return_while_its_circuit_is_open(
    valkey: Valkey, postgres: Postgres, replica: Make, store: PostgresStore, within: Within
) -> None:
    """That of all other calls: half a minute is no time to refuse webhooks for."""
    fallback, _ = await replica(moving=False)
    await asyncio.to_thread(valkey.kill)
    await fallback.put([event(0)])
    await asyncio.to_thread(postgres.kill)
    for n in range(10):
        with pytest.raises(Unavailable):
            await fallback.put([event(n)])
        with pytest.raises(Unavailable):
            await store.ping()
    await asyncio.to_thread(postgres.start)
    back = time.monotonic()
    with pytest.raises(CircuitBreakerOpenError):
        await store.ping()
    while True:
        with suppress(Unavailable):
            assert (await fallback.put([event(1)])).accepted == 1
            break
        await asyncio.sleep(0.02)
    assert time.monotonic() - back < within(2)
