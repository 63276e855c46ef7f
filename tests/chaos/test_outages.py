"""Outages of one replica and of all: who answers meanwhile, and how soon the end is noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from . import bad_way, outages
from .bad_way import DEPENDENCIES, one_bad_replica
from .outages import database_away, within_bar
from .world import OneWorld

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds(request: pytest.FixtureRequest) -> AsyncIterator[OneWorld]:
    patience = request.config.getoption("--patience")
    worlds = OneWorld(patience=patience, settings=bad_way.SETTINGS | outages.SETTINGS)
    yield worlds
    await worlds.aclose()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dependency", DEPENDENCIES)
async def test_no_outage_of_one_replica_is_contagious(worlds: OneWorld, dependency: str) -> None:
    """The README's promise: everything is answered, the replica says what it lacks, and works again when it is back.
    That answers are as fast as with two healthy replicas is held by `make chaos` (`…_lost_by_one`), on a quiet machine.
    Here a healthy replica may be slow as well, and the fleet's circuit open for up to a minute: meanwhile the bad
    replica lacks nothing that the others have.
    """
    seconds = {"compared": False, "bad_seconds": 8, "answered_seconds": 100, "said_seconds": 75}
    async with worlds.playing() as world:
        seen = await one_bad_replica(world, dependency, **seconds)
    print(f"\n{dependency}: {seen}")


async def test_a_short_restart_of_the_database_costs_its_own_length(worlds: OneWorld) -> None:
    """Within two seconds on a machine that does nothing else: `make chaos` (`database_back_after_two_seconds`)."""
    async with worlds.playing() as world:
        seen = await database_away(world, 2.0)
        print(f"\nPostgres away for 2 s: {seen}")
        within_bar(seen, patience=world.patience)


@pytest.mark.timed
@pytest.mark.timeout(300)
async def test_the_return_of_the_database_is_noticed_as_soon_after_two_minutes(worlds: OneWorld) -> None:
    async with worlds.playing() as world:
        seen = await database_away(world, 115.0)
        print(f"\nPostgres away for 115 s: {seen}")
        within_bar(seen)
