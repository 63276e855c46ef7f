"""Who else lives, as a replica sees it while Redis does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.errors import Unavailable
from app.core.fleet.registry import STALE_AFTER_SECONDS, Registry
from app.core.redis.door import Door


class OneOfThree(Door):
    """Redis knows three replicas, while it answers."""

    def __init__(self) -> None:
        self.is_down = False

    async def run(self, *_call: Any, **_options: Any) -> Any:
        if self.is_down:
            raise Unavailable("redis", "no answer within 1 s")
        return [part for name in (b"a", b"b", b"c") for part in (name, 0, b"{}")]


async def test_one_lost_heartbeat_does_not_make_a_replica_the_only_one() -> None:
    """It would open the fleet's circuit with its own failures, and leave no work to the others."""
    door, now = OneOfThree(), [1000.0]
    registry = Registry(door, namespace="test", replica_id="a", clock=lambda: now[0])
    await registry.beat({})
    door.is_down = True
    for later, living in ((0, 3), (STALE_AFTER_SECONDS, 3), (STALE_AFTER_SECONDS + 0.1, 1)):
        now[0] = 1000.0 + later
        with pytest.raises(Unavailable):
            await registry.beat({})
        assert (max(1, len(registry.living)), registry.count) == (living, 3)
    door.is_down = False
    await registry.beat({})
    assert [other.id for other in registry.others] == ["b", "c"]
