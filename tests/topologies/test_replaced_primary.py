"""One address, as managed providers give: behind it the primary is replaced, and old connections stay with what is now
a read-only replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.core.cache import Cache, join_fleet
from app.core.queue import Event, Queue, QueuePolicy, QueueUnavailable
from app.core.redis.client import connect
from app.core.redis.door import Door
from tests.support.patience import Within
from tests.support.proxy import Proxy, proxied
from tests.support.redis_topologies import DATA, PASSWORD, Node, client, replicated, wait_until

BACK_SECONDS = 3.0


@dataclass
class Address:
    proxy: Proxy
    primary: Node
    replica: Node

    @property
    def url(self) -> str:
        return self.proxy.url

    def replace(self) -> None:
        """Nobody is killed and no connection is closed."""
        with client(self.primary.port) as old, client(self.replica.port) as new:
            replicated(old)
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", self.replica.port)
            wait_until(lambda: new.info("replication")["connected_slaves"] == 1, "the old primary does not follow")
        self.proxy.lead_to(self.replica.port)


@pytest.fixture
async def address(program: Path, tmp_path: Path) -> AsyncIterator[Address]:
    async with AsyncExitStack() as stack:
        primary = Node(program, tmp_path / "primary", DATA)
        replica = Node(program, tmp_path / "replica", f"{DATA}replicaof 127.0.0.1 {primary.port}\n")
        for node in (primary, replica):
            stack.callback(node.kill)
            await asyncio.to_thread(node.start)
        with client(primary.port) as connection:
            wait_until(lambda: connection.info("replication")["connected_slaves"] == 1, "no replica")
        proxy = await stack.enter_async_context(proxied(f"redis://:{PASSWORD}@127.0.0.1:{primary.port}"))
        yield Address(proxy, primary, replica)


async def test_the_queue_goes_on_with_the_new_primary(address: Address, within: Within) -> None:
    redis, blocking = connect(address.url), connect(address.url)
    queue = Queue(
        Door(redis), Door(blocking), policy=QueuePolicy(debounce_seconds=0, max_pending=100), namespace="test"
    )
    try:
        assert (await queue.put([Event("before", "mailbox", b"x")])).accepted == 1
        await asyncio.to_thread(address.replace)
        async with asyncio.timeout(within(BACK_SECONDS)):
            while True:
                try:
                    assert (await queue.put([Event("after", "mailbox", b"x")])).accepted == 1
                    break
                except QueueUnavailable:
                    await asyncio.sleep(0.02)
            [claim] = await queue.claim(1)
        assert [event.id for event in claim.events] == ["before", "after"]
        assert await queue.done(claim)
    finally:
        await queue.aclose()
        await redis.aclose()
        await blocking.aclose()


async def test_caches_go_on_with_the_new_primary(address: Address, within: Within) -> None:
    value = 0

    async def load() -> int:
        return value

    async with AsyncExitStack() as stack:
        caches = [Cache(), Cache()]
        for cache in caches:
            await stack.enter_async_context(join_fleet(cache, address.url, namespace="test"))
            await cache.get_or_fetch("user:1", load, ttl_seconds=300)
        await asyncio.to_thread(address.replace)
        for writer in (0, 1):
            value += 1
            await caches[writer].invalidate("user:1")
            async with asyncio.timeout(within(BACK_SECONDS)):
                while True:
                    stats = [cache.stats() for cache in caches]
                    seen = {await cache.get_or_fetch("user:1", load, ttl_seconds=300) for cache in caches}
                    if seen == {value} and all(each.trusted and not each.owed for each in stats):
                        break
                    await asyncio.sleep(0.02)
