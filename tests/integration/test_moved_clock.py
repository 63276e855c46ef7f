"""The Redis server's clock is an hour ahead for a moment, or goes back by an hour: nothing waits for that hour."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.fleet.lease import Lease
from app.core.fleet.pacing import Limit, Pacer
from app.core.fleet.probe_board import ProbeBoard
from app.core.fleet.registry import Registry
from app.core.queue import PutResult, Queue, QueueUnavailable
from app.core.redis.door import Door
from app.core.redis.script import Script
from app.localhost.location import locate
from app.localhost.servers import remove_data
from tests.chaos.moved_clock import MovedValkey, needs_faketime
from tests.support.breaker_kit import BreakerReplica, until
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, claim_one, event, eventually, ids

pytestmark = needs_faketime

HOUR = 3600


@pytest.fixture(scope="module")
def server() -> Iterator[MovedValkey]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-clock-"))
    folder.chmod(0o711)
    valkey = MovedValkey(locate(folder))
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop()
        remove_data(folder)


@pytest.fixture
async def replicas(server: MovedValkey) -> AsyncIterator[Replicas]:
    server.move(0)
    async with AsyncExitStack() as stack:
        found = Replicas(server.url, stack)
        await found.redis.flushall()
        yield found


async def claimed_within(queue: Queue, seconds: float) -> list[str]:
    started = time.monotonic()
    claim = await claim_one(queue)
    assert time.monotonic() - started < seconds
    return ids(claim)


async def test_what_was_put_while_the_clock_was_ahead_is_handled_when_it_is_back(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    queue = replicas.queue(debounce_seconds=0.5)
    assert await queue.claim(1) == []
    with server.moved(HOUR):
        assert await queue.claim(1) == []
        await queue.put([event("a:m", "one")])
    assert await claimed_within(queue, within(3)) == ["one"]


async def test_a_retry_that_was_asked_for_while_the_clock_was_ahead_comes_when_it_is_back(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    queue = replicas.queue()
    with server.moved(HOUR):
        await queue.put([event("a:m", "one"), event("b:m", "two")])
        claims = await queue.claim(2)
        await queue.retry_later(claims[0], 0.5, counted=False, reason="away")
        await queue.retry_later(claims[1], 0.5, counted=True, reason="failed")
    assert sorted(await claimed_within(queue, within(3)) + await claimed_within(queue, within(3))) == ["one", "two"]


async def test_a_retry_that_is_due_much_later_is_not_hurried(server: MovedValkey, replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("a:m", "one")])
    await queue.retry_later(await claim_one(queue), 2 * HOUR, counted=False, reason="away")
    due = await replicas.due_ms("a:m")
    with server.moved(HOUR):
        assert await queue.claim(1) == []
    assert await queue.claim(1) == []
    assert await queue.audit() == 0
    assert await replicas.due_ms("a:m") == due


async def test_the_lease_of_a_worker_that_died_while_the_clock_was_ahead_ends(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    queue, other = replicas.queue(lease_seconds=1), replicas.queue(lease_seconds=1)
    assert await other.claim(1) == []
    with server.moved(HOUR):
        await queue.put([event("a:m", "one")])
        await claim_one(queue)
        assert await other.claim(1) == []
    assert await claimed_within(other, within(5)) == ["one"]


async def test_what_waits_is_handled_when_the_clock_went_back(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    queue = replicas.queue(debounce_seconds=0.2)
    with server.moved(0):
        await queue.put([event("a:m", "one")])
        assert await queue.claim(1) == []
        server.move(-HOUR)
        assert await claimed_within(queue, within(4)) == ["one"]


async def test_a_replica_that_did_not_see_the_clock_move_finds_it_by_the_audit(
    server: MovedValkey, replicas: Replicas
) -> None:
    queue = replicas.queue(debounce_seconds=0.2)
    with server.moved(HOUR):
        await queue.put([event(f"a{n}:m") for n in range(3)])
    fresh = replicas.queue()
    assert await fresh.claim(3) == []
    assert await fresh.audit() == 3
    assert len(await fresh.claim(3)) == 3
    assert await fresh.audit() == 0


async def test_a_put_is_taken_when_the_clock_has_moved_and_one_that_was_given_up_is_not(
    server: MovedValkey, replicas: Replicas
) -> None:
    queue = replicas.queue(put_timeout_seconds=0.5)
    await replicas.queue().put([event("a:m")])
    taken = [await queue.put([event("a:m")])]
    with server.moved(HOUR):
        taken.append(await queue.put([event("a:m")]))
    taken.append(await queue.put([event("a:m")]))
    assert taken == [PutResult(1, 0)] * 3
    before = await replicas.calls()
    server.pause()
    try:
        with pytest.raises(QueueUnavailable):
            await queue.put([event("a:m")])
    finally:
        server.resume()

    async def late_put_ran() -> bool:
        return await replicas.calls() > before

    await eventually(late_put_ran)
    assert (await queue.stats()).pending == 4


async def test_pacing_forgets_a_debt_that_no_burst_allows(server: MovedValkey, replicas: Replicas) -> None:
    pacer = Pacer(Door(replicas.redis), namespace="test", per_number=Limit(0.1, 10), per_pair=Limit(6, 45))
    with server.moved(HOUR):
        assert await pacer.ask("n", "p") == 0.0
    assert await pacer.ask("n", "p") == 0.0
    for _ in range(46):
        await pacer.ask("n", "q")
    assert 0 < await pacer.ask("n", "q") <= 6


async def test_a_hold_lasts_as_long_as_it_was_meant(server: MovedValkey, replicas: Replicas) -> None:
    pacer = Pacer(Door(replicas.redis), namespace="test", per_number=Limit(0.1, 10), per_pair=Limit(6, 45))
    with server.moved(HOUR):
        assert await pacer.hold("n", "p") == 4.0
    assert 3 < await pacer.ask("n", "p") <= 4
    assert 2 < await pacer.ask("n", "p") <= 4


async def test_a_circuit_that_opened_while_the_clock_was_ahead_is_probed_in_time(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    replica = BreakerReplica(server.url, "a")
    await replica.start()
    try:
        with server.moved(HOUR):
            replica.fails()
            for _ in range(5):
                await replica.call()
            await until(lambda: replica.state == "open")
        replica.recovers()
        async with asyncio.timeout(within(4)):
            while await replica.call() != "ok":
                await asyncio.sleep(0.05)
    finally:
        await replica.stop()


async def test_the_permit_of_a_probe_that_died_while_the_clock_was_ahead_is_given_again(
    server: MovedValkey, replicas: Replicas, within: Within
) -> None:
    dying, other = (
        BreakerReplica(server.url, "dying"),
        BreakerReplica(server.url, "other"),
    )
    await dying.start()
    await other.start()
    hang = asyncio.Event()
    try:
        with server.moved(HOUR):
            dying.fails()
            for _ in range(5):
                await dying.call()
            await until(lambda: other.state == "open")
            await asyncio.sleep(0.5)  # time itself: the circuit is open for 0.4 s
            probe = asyncio.create_task(dying.breaker.call_async(hang.wait))
            async with asyncio.timeout(within(3)):
                while not await replicas.redis.keys("test:breaker:*:p"):
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(within(4)):
            while await other.call() != "ok":
                await asyncio.sleep(0.05)
        hang.set()
        await asyncio.wait({probe})
    finally:
        await dying.stop()
        await other.stop()


async def reported(replicas: Replicas, failures_in_a_row: int) -> None:
    async def told() -> bool:
        (window,) = await replicas.redis.keys("test:breaker:*:w") or [None]
        return window is not None and int(await replicas.redis.hget(window, "run") or 0) == failures_in_a_row

    await eventually(told)


async def test_failures_of_the_moment_ahead_do_not_count_for_an_hour(server: MovedValkey, replicas: Replicas) -> None:
    replica = BreakerReplica(server.url, "a")
    await replica.start()
    try:
        with server.moved(HOUR):
            replica.fails()
            for _ in range(3):
                await replica.call()
            await reported(replicas, 3)
        replica.recovers()
        await replica.call()
        await reported(replicas, 0)
        replica.fails()
        for _ in range(3):
            await replica.call()
        await reported(replicas, 3)
        assert replica.state == "closed"
    finally:
        await replica.stop()


async def test_a_replica_that_died_while_the_clock_was_ahead_leaves_the_list(
    server: MovedValkey, replicas: Replicas
) -> None:
    dead = Registry(Door(replicas.redis), namespace="test", replica_id="dead")
    with server.moved(HOUR):
        await dead.beat({})
    living = Registry(Door(replicas.redis), namespace="test", replica_id="living")
    await living.beat({})
    assert all(0 <= replica.silent_seconds < 1 for replica in await living.replicas())


async def test_a_lease_of_the_moment_ahead_is_given_to_the_next(server: MovedValkey, replicas: Replicas) -> None:
    def lease(holder: str) -> Lease:
        return Lease(Door(replicas.redis), key="test:{fleet}:some", holder=holder, seconds=5)

    with server.moved(HOUR):
        assert await lease("dead").hold()
    assert await lease("living").hold()
    assert not await lease("dead").hold()


async def test_an_upstream_is_looked_at_again(server: MovedValkey, replicas: Replicas) -> None:
    def board(replica: str) -> ProbeBoard:
        return ProbeBoard(Door(replicas.redis), namespace="test", replica_id=replica)

    with server.moved(HOUR):
        assert (await board("dead").turn("gemini", fresh_seconds=30, looker_seconds=4)).is_mine
    assert (await board("living").turn("gemini", fresh_seconds=30, looker_seconds=4)).is_mine


async def test_a_cached_value_is_fresh_no_longer_than_its_time(
    server: MovedValkey, replicas: Replicas, cache_timings: CacheTimings, within: Within
) -> None:
    loads: list[int] = []

    async def load() -> int:
        loads.append(1)
        return len(loads)

    first, second = (Cache(timings=cache_timings) for _ in range(2))
    async with join_fleet(first, server.url, namespace="test"), join_fleet(second, server.url, namespace="test"):
        with server.moved(HOUR):
            assert await first.get_or_fetch("x:1", load, ttl_seconds=0.5) == 1
        async with asyncio.timeout(within(4)):
            while await second.get_or_fetch("x:1", load, ttl_seconds=0.5) == 1:
                await asyncio.sleep(0.05)
            while await first.get_or_fetch("x:1", load, ttl_seconds=0.5) == 1:
                await asyncio.sleep(0.05)


async def test_a_load_that_died_while_the_clock_was_ahead_does_not_hold_the_others_up(
    server: MovedValkey, replicas: Replicas
) -> None:
    lease = Script("cache_lease")

    async def ask(load: str) -> list[object]:
        args = ["x:1", "f", "x", load, round(CacheTimings().lease * 1000), "", 300_000, 15_000]
        answer: list[object] = await lease(replicas.redis, ["test:{c0}:"], args)
        return answer

    with server.moved(HOUR):
        assert await ask("a" * 16) == [2]
    assert await ask("b" * 16) == [2]
    assert (await ask("c" * 16))[0] == 3
