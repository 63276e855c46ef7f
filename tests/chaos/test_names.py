"""Look-ups that hang, in a real process with a name server of its own."""

from __future__ import annotations

import pytest

from .name_server import why_not
from .names import names_that_hang
from .scenarios import SETTINGS
from .world import running_world


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.timeout(120)
async def test_no_webhook_is_refused_while_the_look_ups_of_upstreams_hang() -> None:
    async with running_world(replicas=1, settings=SETTINGS) as world:
        await names_that_hang(world)
