"""One replica does the fleet's duties; one that cannot lets another try."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import cast

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.errors import Unavailable
from app.core.fleet.lease import Lease
from app.core.lifecycle import Supervisor
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.domain.models import DatabaseHistory
from app.domain.ports import WaitingStore
from app.localhost.servers import Valkey
from app.services.caretaker import Caretaker, Duty
from app.services.database_watch import DatabaseWatch

Start = Callable[..., Caretaker]


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = connect(valkey_url)
    yield client
    await client.aclose()


@pytest.fixture
async def start(redis: Redis) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        def start(holder: str, *, without_lease: tuple[str, ...] = (), **duties: Duty) -> Caretaker:
            lease = Lease(Door(redis), key="test:{fleet}:caretaker", holder=holder, seconds=5)
            made = Caretaker(duties, lease, without_lease=without_lease, round_seconds=0.02)
            supervisor = Supervisor()
            supervisor.start("caretaker", made.run)
            stack.push_async_callback(supervisor.stop)
            return made

        yield start


class Counted:
    """A duty that has `pages` to do and says how often it was asked."""

    def __init__(self, *, pages: int = 1, error: Exception | None = None) -> None:
        self.pages = pages
        self.error = error
        self.calls = 0
        self.done = asyncio.Event()

    async def __call__(self) -> bool:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.calls >= self.pages:
            self.done.set()
        return self.calls < self.pages


async def within(seconds: float, awaitable: Awaitable[object]) -> None:
    async with asyncio.timeout(seconds):
        await awaitable


async def test_one_replica_does_every_page_of_every_duty_while_the_other_waits(start: Start) -> None:
    many, next_one, idle = Counted(pages=5), Counted(), Counted()
    start("a", many=many, next_one=next_one)
    await within(5, next_one.done.wait())
    assert many.calls >= 5
    start("b", idle=idle)
    rounds = many.calls + 3
    async with asyncio.timeout(5):
        while many.calls < rounds:
            await asyncio.sleep(0.01)
    assert idle.calls == 0


async def test_a_replica_that_lost_the_lease_leaves_the_rest_to_the_one_that_has_it(start: Start, redis: Redis) -> None:
    key = "test:{fleet}:caretaker"
    pages, after = Counted(pages=5), Counted()

    async def page() -> bool:
        more = await pages()
        if pages.calls == 2:  # it took longer than the lease lasts, and another replica came
            await redis.set(key, "b", px=5000)
        return more

    start("a", page=page, after=after)
    async with asyncio.timeout(5):
        while await redis.get(key) != b"b":
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # time itself: nothing is done meanwhile
    assert (pages.calls, after.calls) == (2, 0)
    await redis.delete(key)
    await within(5, after.done.wait())


@pytest.mark.parametrize("error", [Unavailable("database"), RuntimeError("a bug")])
async def test_a_duty_that_fails_stops_no_other(start: Start, error: Exception) -> None:
    good = Counted()
    start("a", bad=Counted(error=error), good=good)
    await within(5, good.done.wait())


async def test_a_replica_that_cannot_lets_another_do_it(start: Start) -> None:
    able = Counted()
    start("a", work=Counted(error=Unavailable("database")))
    start("b", work=able)
    await within(5, able.done.wait())


async def test_without_redis_every_replica_does_what_needs_none(start: Start, valkey: Valkey) -> None:
    valkey.kill()
    try:
        needs_redis, pages, broken = Counted(), [Counted(pages=3) for _ in range(2)], Counted(error=RuntimeError())
        for holder, needs_none in zip("ab", pages, strict=True):
            duties = {"needs_redis": needs_redis, "broken": broken, "needs_none": needs_none}
            start(holder, without_lease=("broken", "needs_none"), **duties)
        for needs_none in pages:
            await within(10, needs_none.done.wait())
        assert broken.calls
        assert not needs_redis.calls
    finally:
        valkey.start()


@pytest.mark.parametrize(
    ("before", "forgets"),
    [
        (None, False),
        ("{position} {identity}", False),
        ("0 {identity}", False),
        ("99{position} {identity}", True),
        ("0 another-server:00000001", True),
    ],
)
async def test_the_cache_is_forgotten_when_the_databases_history_is_another_one(
    redis: Redis, store_url: str, before: str | None, forgets: bool
) -> None:
    store = PostgresStore(store_url)
    history = await store.database_history()
    assert history is not None
    if before is not None:
        seen = before.format(position=history.position, identity=history.identity)
        await redis.set("test:{fleet}:database_position", seen)
    forgotten: list[str] = []

    async def invalidate(*patterns: str) -> None:
        forgotten.extend(patterns)

    watch = DatabaseWatch(store, invalidate, Door(redis), namespace="test")
    assert not await watch.look()
    assert forgotten == (["*"] if forgets else [])
    await watch.look()
    assert len(forgotten) == int(forgets), "once"
    await store.aclose()


class SlowStore:
    """Between what the database says and the caller's next step another replica has a whole look."""

    def __init__(self, store: PostgresStore, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._meanwhile = meanwhile

    async def database_history(self) -> DatabaseHistory | None:
        history = await self._store.database_history()
        await self._meanwhile()
        return history


async def test_two_replicas_that_look_at_the_database_forget_nothing(redis: Redis, store_url: str) -> None:
    store, door = PostgresStore(store_url), Door(redis)
    forgotten: list[str] = []

    async def invalidate(*patterns: str) -> None:
        forgotten.extend(patterns)

    other = DatabaseWatch(store, invalidate, door, namespace="test")

    async def meanwhile() -> None:
        sql = await asyncpg.connect(store_url)
        await sql.execute("create table if not exists written_meanwhile (); drop table written_meanwhile")
        await sql.close()
        await other.look()

    await other.look()
    slow = cast("WaitingStore", SlowStore(store, meanwhile))
    await DatabaseWatch(slow, invalidate, door, namespace="test").look()
    assert not forgotten
    await store.aclose()
