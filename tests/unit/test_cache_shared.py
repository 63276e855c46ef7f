"""What a replica does with leases and debts when its server or its channel is in trouble; servers are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.core.cache import Cache, CacheTimings
from app.core.cache.invalidation import MAX_PENDING
from app.core.cache.membership import Listener
from app.core.cache.policy import TIMINGS
from app.core.cache.shard import BUMP, FILL, INVALIDATE, JSON, LEASE, RENEW, Answer, Shard
from app.core.cache.shared import GIVING_BACK_AT_ONCE, SharedTier
from app.core.clock import SYSTEM_CLOCK
from app.core.errors import Unavailable
from app.core.redis.door import NotAsked
from app.core.redis.listening import ListenTimings
from app.core.redis.script import Script
from tests.support.fakes import Source


class Server:
    """Grants every lease, unless a script is in `failing`; renewals wait for `gate`."""

    def __init__(self) -> None:
        self.failing: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.renewing = self.most_renewing = 0
        self.gate = asyncio.Event()
        self.gate.set()

    distance_seconds = 0.0

    async def ask(self, _mget: str, *keys: str, within_seconds: float, urgent: bool) -> list[bytes | None]:
        return [None for _ in keys]

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], *, within_seconds: float, urgent: bool
    ) -> Any:
        self.calls.append(script.name)
        if script.name in self.failing:
            raise self.failing[script.name]
        if script is RENEW:
            self.renewing += 1
            self.most_renewing = max(self.most_renewing, self.renewing)
            await self.gate.wait()
            self.renewing -= 1
        return {LEASE.name: [Answer.LOAD], INVALIDATE.name: [0, b"1"], "cache_beat": [b"5", b"5"]}.get(script.name, 1)

    async def scan(self, match: str, *, page: int, within_seconds: float) -> AsyncIterator[list[bytes]]:
        yield []


def joined(server: Server, shards: int = 1, timings: CacheTimings = TIMINGS) -> tuple[Cache, SharedTier]:
    cache = Cache(timings=timings)
    parts = [Shard(server, prefix=f"t:{{c{n}}}:", origin="0" * 16) for n in range(shards)]
    shared = SharedTier(parts, timings=timings)
    cache.join(shared)
    return cache, shared


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("failing", "error", "given_back"),
    [
        (LEASE, Unavailable("redis", "late"), 1),
        (LEASE, NotAsked("redis", "away a moment ago"), 0),
        (FILL, Unavailable("redis", "late"), 1),
        (FILL, NotAsked("redis", "away a moment ago"), 1),
    ],
)
async def test_a_lease_that_may_be_held_is_given_back(failing: Script, error: Exception, given_back: int) -> None:
    server = Server()
    server.failing[failing.name] = error
    cache, _ = joined(server)
    assert await cache.get_or_fetch("k", Source(), ttl_seconds=300) == "value"
    await settle()
    assert server.calls.count(RENEW.name) == given_back


async def test_few_leases_are_given_back_at_once() -> None:
    """Each takes one of the connections that are kept for the heartbeat."""
    server = Server()
    server.failing[FILL.name] = Unavailable("redis", "late")
    server.gate.clear()
    cache, _ = joined(server)
    await asyncio.gather(*(cache.get_or_fetch(f"k{n}", Source(), ttl_seconds=300) for n in range(50)))
    await settle()
    assert server.most_renewing == GIVING_BACK_AT_ONCE
    server.gate.set()
    for _ in range(10):
        await settle()
    assert server.calls.count(RENEW.name) == 50


async def test_a_gap_is_made_up_for_in_its_own_shard() -> None:
    cache, shared = joined(Server(), shards=8)
    keys = [f"k{n}" for n in range(50)]
    await cache.invalidate(*keys, "user:*")
    shard = shared.of("k0")
    shard.channel.open(1)
    shard.channel.open(2)
    assert {key for key in keys if shared.pending.covers(key)} == {key for key in keys if shared.of(key) is shard}
    assert shared.pending.covers("user:1"), "a group is in every shard"


async def test_the_retry_of_what_is_owed_survives_a_bug() -> None:
    server = Server()
    server.failing[INVALIDATE.name] = ValueError("a bug")
    cache, shared = joined(server, timings=CacheTimings(retry=0.001))
    recovering = asyncio.create_task(shared.recover())
    with pytest.raises(ValueError, match="a bug"):
        await cache.invalidate("k")
    async with asyncio.timeout(10):
        while server.calls.count(INVALIDATE.name) < 3:
            await asyncio.sleep(0.001)
        server.failing.clear()
        while shared.pending:
            await asyncio.sleep(0.001)
    recovering.cancel()


@pytest.mark.parametrize("comes", [True, False])
async def test_a_message_that_the_answer_to_a_ping_overtook_is_not_missed(*, comes: bool) -> None:
    """As on a cluster, where it takes the way over another node."""
    timings = CacheTimings(listening=ListenTimings(check=0.01), grace=0.05)
    shard = Shard(Server(), prefix="t:", origin="0" * 16)

    class Subscription:
        async def follow(self, hear: Any, checking: Any, *, on_end: Any) -> None:
            try:
                await checking
            finally:
                on_end()

        async def check(self, *, within_seconds: float) -> None:
            if comes:
                asyncio.get_running_loop().call_later(0.01, shard.channel.receive, b"4|5|another|k|user:1")

        async def aclose(self) -> None: ...

    class Door:
        async def subscribe(self, _: str, *, within_seconds: float) -> Any:
            if shard.channel.position is None:
                shard.channel.open(4)
            return Subscription()

    class Opened(Listener):
        async def _open(self) -> None:
            shard.channel.trusted = True

    running = asyncio.create_task(Opened(shard, clock=SYSTEM_CLOCK, timings=timings).run(Door()))
    async with asyncio.timeout(10):
        while shard.channel.position != 5:
            await asyncio.sleep(0.001)
    assert shard.channel.gaps == (0 if comes else 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_value_that_cannot_be_read_is_loaded_from_the_source() -> None:
    """The lease offers it again; its readers must not be told of it until its TTL ends."""

    class Unreadable(Server):
        async def run(self, script: Script, *args: Any, **options: Any) -> Any:
            if script is not LEASE:
                return await super().run(script, *args, **options)
            return [Answer.VALUE, b"0" * JSON.start + b"not what the codec reads"]

    cache, _ = joined(Unreadable())
    source = Source()
    assert await cache.get_or_fetch("user:1", source, ttl_seconds=60) == source.value


async def test_more_keys_than_are_remembered_one_by_one_are_settled_with_their_group() -> None:
    server = Server()
    cache, shared = joined(server)
    await cache.invalidate(*(f"user:{number}" for number in range(MAX_PENDING + 1)))
    assert server.calls[-1] == BUMP.name, "their group is pending in their place, and carried out too"
    assert not shared.pending
