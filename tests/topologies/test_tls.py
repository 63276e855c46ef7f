"""rediss+cluster:// and rediss+sentinel://: everything that is said to a server is said by TLS."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.queue import Event, Queue, QueuePolicy, QueueUnavailable
from app.core.redis.client import connect
from app.core.redis.door import Door, DoorTimings
from tests.support.breaker_kit import BreakerReplica, until
from tests.support.redis_topologies import Cluster, Guarded, running_cluster, running_sentinels
from tests.support.tls import TlsFronts, running_fronts

BACK_SECONDS = 15


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[TlsFronts]:
    with running_fronts(tmp_path) as running:
        yield running


@pytest.fixture
def cluster(program: Path, tmp_path: Path, fronts: TlsFronts) -> Iterator[Cluster]:
    with running_cluster(program, tmp_path, fronts=fronts) as running:
        yield running


@pytest.fixture
def guarded(program: Path, tmp_path: Path, fronts: TlsFronts) -> Iterator[Guarded]:
    with running_sentinels(program, tmp_path, fronts=fronts) as running:
        yield running


@asynccontextmanager
async def queue_on(url: str, *, answer_seconds: float = 10.0) -> AsyncIterator[Queue]:
    redis = connect(url)
    door = Door(redis, timings=DoorTimings(answer_seconds=answer_seconds))
    queue = Queue(
        door,
        door,
        policy=QueuePolicy(debounce_seconds=0, max_pending=100, put_timeout_seconds=answer_seconds),
        namespace="test",
        shards=4,
    )
    try:
        yield queue
    finally:
        await queue.aclose()
        await redis.aclose()


async def everything_works(url: str, cache_timings: CacheTimings) -> None:
    """What queue, cache and circuits do, the subscriptions included."""
    events = [Event(secrets.token_hex(8), f"mailbox-{n}", b"x") for n in range(20)]
    async with queue_on(url) as queue:
        assert (await queue.put(events)).accepted == len(events)
        claims = await queue.claim(50)
        assert all([await queue.done(claim) for claim in claims])
    values = iter(range(100))

    async def load() -> int:
        return next(values)

    a, b = (Cache(timings=cache_timings) for _ in range(2))
    async with join_fleet(a, url, namespace="test"), join_fleet(b, url, namespace="test"):
        await until(lambda: a.stats().trusted and b.stats().trusted)  # joining waits for that only so long
        for pattern in ("user:1", "user:*", "us*"):
            seen = await a.get_or_fetch("user:1", load, ttl_seconds=60)
            assert await b.get_or_fetch("user:1", load, ttl_seconds=60) == seen
            await a.invalidate_everywhere(pattern)
            async with asyncio.timeout(10):
                while await b.get_or_fetch("user:1", load, ttl_seconds=60) == seen:
                    await asyncio.sleep(0.005)
    replicas = [BreakerReplica(url, f"replica-{n}", replicas=2) for n in range(2)]
    async with AsyncExitStack() as stack:
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.stop)
        await replicas[0].fleet.force("some_api", "open", who="operator", why="test")
        await until(lambda: all(replica.state == "open" for replica in replicas))
        await replicas[1].fleet.force("some_api", "auto", who="operator", why="test")
        await until(lambda: not any(replica.breaker.view.forced for replica in replicas))


async def is_refused(url: str, why: str) -> None:
    async with queue_on(url) as queue:
        with pytest.raises(QueueUnavailable, match=why):
            await queue.put([Event("e", "m", b"x")])


async def test_a_cluster_is_spoken_to_by_tls_alone(
    cluster: Cluster, fronts: TlsFronts, cache_timings: CacheTimings
) -> None:
    await everything_works(cluster.url, cache_timings)
    assert all(fronts.encrypted[node.public_port] for node in cluster.nodes), "each node was reached, by its front"
    unknown = cluster.url.partition("?")[0]
    await is_refused(unknown, "certificate verify failed")
    await is_refused(unknown.replace("rediss", "redis"), "onnect")


async def test_sentinels_and_the_primary_they_name_are_spoken_to_by_tls_through_a_failover(
    guarded: Guarded, fronts: TlsFronts, cache_timings: CacheTimings
) -> None:
    await everything_works(guarded.url, cache_timings)
    assert fronts.encrypted[guarded.primary.public_port]
    assert not fronts.encrypted[guarded.replica.public_port]
    await asyncio.to_thread(guarded.fail_over)
    async with asyncio.timeout(BACK_SECONDS), queue_on(guarded.url, answer_seconds=1.0) as queue:
        while True:
            try:
                await queue.put([Event("after", "mailbox", b"x")])
                break
            except QueueUnavailable:
                await asyncio.sleep(0.02)
    await everything_works(guarded.url, cache_timings)
    assert fronts.encrypted[guarded.replica.public_port]
    unknown = guarded.url.partition("&ssl_ca_certs")[0]
    await is_refused(unknown, "certificate verify failed")
    await is_refused(unknown.replace("rediss", "redis"), "onnect")
