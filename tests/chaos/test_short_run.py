"""The short run of the chaos schedule: three replicas, real servers, every promise checked from outside."""

from __future__ import annotations

import pytest

from .run import Plan, run
from .world import running_world


@pytest.mark.timeout(110)
async def test_nothing_is_lost_or_sent_twice_while_everything_is_killed_frozen_and_restarted() -> None:
    async with running_world(businesses=3) as world:
        report = await run(world, Plan(messages=400, conversations=40, seconds=22, seed=5, full=False))
    assert report.verdict.problems == [], report.table()
