"""Load above our own limits, on one replica of real processes."""

from __future__ import annotations

import pytest

from .own_limits import answers_of_one_moment
from .scenarios import SETTINGS
from .world import running_world


@pytest.mark.timeout(120)
async def test_more_answers_at_once_than_connections_to_redis_cost_nobody_anything() -> None:
    async with running_world(replicas=1, settings=SETTINGS) as world:
        await answers_of_one_moment(world)
