"""The shared cache in real processes: killed, frozen and woken, cut off, and editing all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.cache import CacheTimings
from tests.support.cache_child import COLD_SOURCE_SECONDS
from tests.support.cache_kit import BACK_SECONDS, EXTRA_SECONDS
from tests.support.cache_processes import CacheProcess
from tests.support.patience import Within

BUSY_EXTRA_SECONDS = 0.15
"""Where three suites share two cores, a process waits for one."""


@dataclass
class Fleet:
    a: CacheProcess
    b: CacheProcess
    store: PostgresStore
    account: str


@pytest.fixture
async def fleet(valkey_url: str, store_url: str) -> AsyncIterator[Fleet]:
    """Two replicas, both with the account's first profile in memory."""
    async with AsyncExitStack() as stack:
        store = PostgresStore(store_url)
        stack.push_async_callback(store.aclose)
        account = await new_account(store, 0)
        await store.update_profile(account, {"hours": "old"})
        a, b = await asyncio.gather(*(CacheProcess.start(stack, valkey_url, store_url) for _ in range(2)))
        fleet = Fleet(a, b, store, account)
        for replica in (a, b):
            await replica.until_read(account, "old", seconds=15)
        yield fleet


async def new_account(store: PostgresStore, number: int) -> str:
    account = await store.create_account(
        name=f"n{number}", slug=f"s{number}", phone_number_id=f"p{number}", access_token="t", verify_token=f"v{number}"
    )
    return account.id


async def test_an_edit_is_read_by_the_other_process(fleet: Fleet, within: Within):
    await fleet.a.ask("edit", account=fleet.account, hours="new")
    await fleet.b.until_read(fleet.account, "new", seconds=within(0.5))
    assert await fleet.a.read(fleet.account) == "new"


async def test_a_process_killed_between_commit_and_invalidation_leaves_nobody_behind(fleet: Fleet, within: Within):
    fleet.a.tell("commit_and_hang", account=fleet.account, hours="new")
    assert await fleet.a.event() == "committed"
    await fleet.a.kill()
    # Its lease of the relay may be its own; another process takes over within that lease.
    await fleet.b.until_read(fleet.account, "new", seconds=within(9))
    again = await fleet.b.ask("stats")
    assert (again["trusted"], again["gaps"]) == (True, 0)


async def test_a_loader_that_was_killed_costs_the_others_its_lease_once(fleet: Fleet, within: Within):
    cold = await new_account(fleet.store, 1)
    fleet.a.tell("load_and_hang", account=cold)
    assert await fleet.a.event() == "loading"
    await fleet.a.kill()
    started = time.monotonic()
    await asyncio.gather(*(fleet.b.read(cold) for _ in range(20)))
    assert time.monotonic() - started < CacheTimings().lease + within(1)
    async with asyncio.timeout(BACK_SECONDS):  # soon it is kept
        loads = None
        while loads != (loads := (await fleet.b.ask("stats"))["loads"]):
            await fleet.b.read(cold)


async def test_a_frozen_process_wakes_up_and_is_in_step(fleet: Fleet, within: Within):
    for hours in ("new", "newer"):
        fleet.a.freeze()
        await fleet.b.ask("edit", account=fleet.account, hours=hours)
        fleet.a.thaw()
        await fleet.a.until_read(fleet.account, hours, seconds=within(0.5))


async def test_a_process_that_was_cut_off_during_an_edit_forgets_and_rejoins(fleet: Fleet, within: Within):
    fleet.a.proxy.refusing = True
    fleet.a.proxy.cut()
    await fleet.a.until_trusted(False, seconds=within(1))
    await fleet.b.ask("edit", account=fleet.account, hours="new")
    assert await fleet.a.read(fleet.account) == "new", "memory is bypassed"
    fleet.a.proxy.refusing = False
    await fleet.a.until_trusted(True, seconds=within(BACK_SECONDS))
    assert (await fleet.a.ask("stats"))["gaps"] == 1
    assert await fleet.a.read(fleet.account) == "new"


async def test_a_half_open_link_costs_reads_little_and_is_noticed(fleet: Fleet, within: Within):
    fleet.a.proxy.freeze()
    assert await fleet.a.ask("worst_cold_read", reads=20) < COLD_SOURCE_SECONDS + within(EXTRA_SECONDS)
    await fleet.b.ask("edit", account=fleet.account, hours="new")
    await fleet.a.until_trusted(False, seconds=within(4))
    assert await fleet.a.read(fleet.account) == "new"
    fleet.a.proxy.thaw()
    await fleet.a.until_trusted(True, seconds=within(BACK_SECONDS))
    assert await fleet.a.read(fleet.account) == "new"


@pytest.mark.parametrize("fault", ["frozen", "killed"])
@pytest.mark.parametrize("extra", [BUSY_EXTRA_SECONDS, pytest.param(EXTRA_SECONDS, marks=pytest.mark.timed)])
async def test_redis_away_costs_reads_little_and_leaves_nothing_stale(
    fleet: Fleet, valkey, fault: str, extra: float, within: Within
):
    valkey.pause() if fault == "frozen" else valkey.kill()
    try:
        for replica in (fleet.a, fleet.b):
            assert await replica.ask("worst_cold_read", reads=20) < COLD_SOURCE_SECONDS + extra
        await fleet.a.until_trusted(False, seconds=within(4))
        await fleet.b.until_trusted(False, seconds=within(4))
        await fleet.a.ask("edit", account=fleet.account, hours="new")
        assert [await replica.read(fleet.account) for replica in (fleet.a, fleet.b)] == ["new", "new"]
    finally:
        await asyncio.to_thread(valkey.resume if fault == "frozen" else valkey.start)
    for replica in (fleet.a, fleet.b):
        await replica.until_trusted(True, seconds=within(BACK_SECONDS))
    # What is in Redis is from before the edit: it is owed an invalidation, by process `a` and by the database's memory.
    for replica in (fleet.a, fleet.b):
        await replica.until_read(fleet.account, "new", seconds=within(BACK_SECONDS))


async def test_two_processes_edit_fifty_profiles_at_once_and_nobody_stays_behind(fleet: Fleet):
    """500 edits on each, with readers on both: one second later everybody has what the database has."""
    accounts = [await new_account(fleet.store, number) for number in range(1, 51)]
    replicas = (fleet.a, fleet.b)
    reads = await asyncio.gather(
        *(
            replica.ask("storm", accounts=accounts, edits=500, mark=mark)
            for replica, mark in zip(replicas, "ab", strict=True)
        )
    )
    assert min(reads) > 50, "they do read meanwhile"
    await asyncio.sleep(1)  # time itself: the bar
    stale = []
    for account in accounts:
        profile = await fleet.store.get_profile(account)
        assert profile is not None
        stale += [account for replica in replicas if await replica.read(account) != profile.hours]
    assert stale == []
