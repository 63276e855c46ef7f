"""One account that fills the queue: nobody else is refused, and nobody else waits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from . import shares
from .world import ChaosWorld, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[ChaosWorld]:
    async with running_world(replicas=2, businesses=2, settings=shares.SETTINGS) as world:
        yield world


async def test_an_account_that_fills_the_queue_has_nobody_elses_webhook_refused(world: ChaosWorld) -> None:
    found = await shares.measure(world, seconds=2)
    assert set(found.refused.values()) == {0}, found.table()
    assert all(found.diverted.values()), found.table()
