"""Whole replicas on a cluster, and through a failover that Sentinel decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from app.core.cache import Cache, CacheTimings
from app.core.cache.membership import join_fleet
from app.core.queue import Event, Queue, QueuePolicy, QueueUnavailable
from app.core.redis.client import connect
from app.core.redis.door import Door, DoorTimings
from app.doctor import examine
from app.main import create_app
from app.sandbox import webhooks as wa
from app.sandbox.app import running_sandbox
from app.sandbox.config import SandboxConfig
from app.services.redis_health import describe
from tests.support.redis_topologies import Cluster, Guarded, client
from tests.support.serving import APP_SECRET, OPERATOR_KEY, OutsideWorld, served, settings_of

SHARDS = 16
BACK_WITHIN_SECONDS = 15


@asynccontextmanager
async def queue_on(url: str, *, shards: int, answer_seconds: float = 10.0) -> AsyncIterator[Queue]:
    redis, blocking = connect(url), connect(url)
    timings = DoorTimings(answer_seconds=answer_seconds)
    queue = Queue(
        Door(redis, timings=timings),
        Door(blocking, timings=timings),
        policy=QueuePolicy(debounce_seconds=0, max_pending=10_000, put_timeout_seconds=answer_seconds),
        namespace="test",
        shards=shards,
    )
    try:
        yield queue
    finally:
        await queue.aclose()
        await redis.aclose()
        await blocking.aclose()


async def _claimed(queue: Queue, mailboxes: int) -> dict[str, list[str]]:
    """Handles everything that is due; mailbox -> ids in the order they came out."""
    seen: dict[str, list[str]] = {}
    async with asyncio.timeout(20):
        while sum(map(len, seen.values())) < mailboxes:
            for claim in await queue.claim(50):
                seen.setdefault(claim.mailbox, []).extend(event.id for event in claim.events)
                assert await queue.done(claim)
    return seen


async def test_sixteen_shards_spread_over_the_primaries_and_keep_every_promise(
    cluster: Cluster, valkey_url: str
) -> None:
    events = [Event(f"e{m}-{n}", f"mailbox-{m}", b"x") for m in range(60) for n in range(3)]
    async with queue_on(valkey_url, shards=SHARDS) as queue, queue_on(valkey_url, shards=SHARDS) as other:
        assert (await queue.put(events)).accepted == len(events)
        assert (await other.put(events)).duplicates == len(events)
        for node in cluster.nodes:
            with client(node.port) as connection:
                assert connection.dbsize() > 0
        claims = await queue.claim(10)
        assert await queue.extend(claims) == []
        assert not {c.mailbox for c in await other.claim(100)} & {c.mailbox for c in claims}
        for claim in claims:
            await queue.park(claim, 1, "bad")
        letters, _ = await other.dead_letters.page(limit=100, cursor=None)
        assert await other.dead_letters.replay([letter.id for letter in letters]) == 10
        assert (await queue.stats()).pending == len(events)
        waiting = asyncio.create_task(other.wait(1.0))
        await queue.put([Event("late", "late", b"x")])
        await asyncio.wait_for(waiting, 5)


async def test_a_replica_on_a_cluster_does_all_it_does(valkey_url: str, store_url: str, outside: OutsideWorld) -> None:
    app = create_app(settings_of(outside.url, valkey_url, store_url, debounce_seconds=0))
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with served(app) as base, httpx.AsyncClient(base_url=base, headers=operator) as http:
        raw = wa.encode_like_meta(wa.dashboard_test())
        sent = await http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
        assert sent.status_code == 200
        async with asyncio.timeout(20):
            while (await http.get("/admin/queue")).json()["pending"]:
                await asyncio.sleep(0.02)
            while (full := (await http.get("/health")).json())["status"] != "ok":
                await asyncio.sleep(0.05)
        assert full["dependencies"]["redis"]["role"] == "cluster"
        assert full["dependencies"]["redis"]["primaries"] == 3
        opened = await http.post("/admin/breakers/gemini", json={"action": "open"})
        assert opened.json()["state"] == "open"
        await http.post("/admin/breakers/gemini", json={"action": "auto"})
        for path in ("/admin/fleet", "/admin/breakers", "/admin/cache", "/admin/dead-letters"):
            assert (await http.get(path)).status_code == 200, path


async def test_doctor_examines_a_cluster(valkey_url: str, store_url: str) -> None:
    async with running_sandbox(SandboxConfig()) as sandbox:
        findings = await examine(settings_of(sandbox.url, valkey_url, store_url), {})
    assert [finding for finding in findings if finding.is_bad] == []
    assert any(", cluster," in finding.detail for finding in findings if finding.subject == "redis")


async def test_caches_on_a_cluster_share_values_and_invalidations(valkey_url: str, cache_timings: CacheTimings) -> None:
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        return loads

    async with AsyncExitStack() as stack:
        caches = [Cache(timings=cache_timings) for _ in range(2)]
        for cache in caches:
            await stack.enter_async_context(join_fleet(cache, valkey_url, namespace="test"))
        values = [await cache.get_or_fetch("user:1", load, ttl_seconds=60) for cache in caches]
        assert values == [1, 1]
        for pattern in ("user:1", "user:*", "user:1*"):
            await caches[0].invalidate(pattern)
            before = loads
            async with asyncio.timeout(5):  # the other one hears of it within milliseconds
                while {await cache.get_or_fetch("user:1", load, ttl_seconds=60) for cache in caches} != {before + 1}:
                    await asyncio.sleep(0.005)
            assert loads == before + 1, pattern


async def test_nothing_is_lost_and_everything_resumes_through_a_failover(
    guarded: Guarded, store_url: str, outside: OutsideWorld
) -> None:
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    settings = settings_of(outside.url, guarded.url, store_url, app_role="api")
    async with (
        queue_on(guarded.url, shards=1, answer_seconds=1.0) as queue,
        served(create_app(settings)) as base,
        httpx.AsyncClient(base_url=base, headers=operator) as http,
    ):
        events = [Event(f"e{n}", f"mailbox-{n % 7}", b"x") for n in range(50)]
        await queue.put(events)
        assert (await http.get("/health")).json()["dependencies"]["redis"]["replication"]["replicas"] == 1
        await asyncio.to_thread(guarded.replicate)
        failed_over = await asyncio.to_thread(guarded.fail_over)
        started = time.monotonic()
        await _until_taken(queue, Event("after", "mailbox-0", b"x"))
        resumed = time.monotonic() - started
        assert resumed < BACK_WITHIN_SECONDS
        seen = await _claimed(queue, len(events) + 1)
        assert sorted(id_ for ids in seen.values() for id_ in ids) == sorted([e.id for e in events] + ["after"])
        assert seen["mailbox-1"] == [e.id for e in events if e.mailbox == "mailbox-1"]
        async with asyncio.timeout(BACK_WITHIN_SECONDS):
            while (full := (await http.get("/health")).json())["status"] != "ok":
                await asyncio.sleep(0.05)
        assert full["dependencies"]["redis"]["role"] == "master"
        assert len((await http.get("/admin/fleet")).json()["replicas"]) == 1
    print(f"\nfailover {failed_over:.1f} s, first put {resumed:.2f} s later")


async def _until_taken(queue: Queue, event: Event) -> None:
    while True:
        try:
            await queue.put([event])
        except QueueUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_cluster_that_is_away_is_an_unavailable_redis(valkey_url: str) -> None:
    redis: Any = connect("redis+cluster://127.0.0.1:1")
    queue = Queue(Door(redis), Door(redis), policy=QueuePolicy(debounce_seconds=0, max_pending=10), namespace="test")
    with pytest.raises(QueueUnavailable):
        await queue.put([Event("e", "m", b"x")])
    await queue.aclose()
    await redis.aclose()
    there = connect(valkey_url)
    try:
        # A busy machine may take more than a second to connect to three servers.
        patient = Door(there, timings=DoorTimings(answer_seconds=20.0))
        assert (await describe(patient))["eviction"] == "noeviction"
    finally:
        await there.aclose()
