"""What happens to real processes: killed, stopped, woken, and cut off from the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.localhost.servers import Valkey
from app.sandbox.webhooks import encode_like_meta
from tests.support.patience import Within

from . import outages
from .catalogue import EVERY_SCENARIO, LONG, place_of
from .scenarios import SETTINGS, Stage
from .traffic import Post, payload, sender
from .world import ChaosWorld, OneWorld

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds(request: pytest.FixtureRequest) -> AsyncIterator[OneWorld]:
    worlds = OneWorld(patience=request.config.getoption("--patience"), businesses=2, settings=SETTINGS)
    yield worlds
    await worlds.aclose()


MEASURED = {
    "locked_account", "frozen_while_sending", "slow_while_sending", "given_up_message_calls_a_person",
    "pooler_switched", "gemini_back", "database_slots_taken", "no_connection_left",
    "database_loses_seconds", *LONG,
}  # fmt: skip
"""Ratios of medians, and what takes long: for `make chaos`, on a machine that does nothing else. So is the scenario of
a clock that jumps (`MovedValkey`): tests/integration/test_moved_clock.py has each of its rules."""
PLAYED_ELSEWHERE = {outages.database_back_after_two_seconds.__name__}
"""By test_outages.py, where readiness needs the database too."""


@pytest.mark.parametrize(
    "name",
    [name for name in EVERY_SCENARIO if place_of(name).server is Valkey and name not in MEASURED | PLAYED_ELSEWHERE],
)
async def test_the_promise_holds(worlds: OneWorld, name: str) -> None:
    async with worlds.playing() as world:
        await EVERY_SCENARIO[name](world)


@pytest.mark.parametrize("fault", ["frozen", "gone"])
async def test_ingest_refuses_within_a_second_while_valkey_is_away_and_is_back_within_one(
    worlds: OneWorld, fault: str, within: Within
) -> None:
    async with worlds.playing() as world:
        await _refused_and_back(world, fault, within)


async def _refused_and_back(world: ChaosWorld, fault: str, within: Within) -> None:
    stage, valkey = Stage(world), world.servers.valkey
    urls = world.fleet.webhook_urls
    poster = sender(urls, app_secret=world.fleet.keys.app_secret)
    poster.timeout_seconds = 10
    (message,) = stage.conversation(1)
    raw = encode_like_meta(payload([message]))
    await asyncio.to_thread(valkey.pause if fault == "frozen" else valkey.kill)
    try:
        for _ in range(3):
            await asyncio.gather(*(poster.post(raw) for _ in urls))
    finally:
        away, poster.posts = poster.posts, []
        await asyncio.to_thread(valkey.start)
    back = time.monotonic()
    while not (await poster.post(raw)).succeeded:
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - back
    assert {post.status for post in away} == {503}, away
    assert _slowest(away) <= within(1.1), away
    assert seconds <= within(1.0), poster.posts
    stage.messages.append(message)
    await stage.ends_well()


def _slowest(posts: list[Post]) -> float:
    return max(post.seconds for post in posts)
