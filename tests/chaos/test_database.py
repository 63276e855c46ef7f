"""The database goes away while sends are on their way: the short version of `tests/chaos/database.py`."""

from __future__ import annotations

import pytest

from .database import DATABASE_SCENARIOS, SETTINGS
from .world import running_world


@pytest.mark.timeout(180)
async def test_nothing_is_lost_sent_twice_or_handed_over_while_the_database_is_away() -> None:
    async with running_world(businesses=2, settings=SETTINGS) as world:
        for name in ("gone_while_sending", "frozen_while_sending"):
            await DATABASE_SCENARIOS[name](world)
