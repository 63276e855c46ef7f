"""One replica of the fleet does it: a lease in Redis, on the server's clock.

    lease = Lease(door, key="chorus:{fleet}:cache_relay", holder=replica_id, seconds=6)
    if await lease.hold(): ...                  # ours until `seconds` from the call

    ...; await lease.keep()         # work of several pages asks again before each

What it does not do: fence. Two replicas may believe they hold it while one of them is paused, so what is done under it
must be harmless when done twice.
"""

from __future__ import annotations

from app.core.errors import Expected
from app.core.redis.door import Door
from app.core.redis.script import Script

HOLD = Script("lease_hold")


class LeaseLost(Expected):
    """Another replica holds it by now: what is left of the work is that one's."""


class Lease:
    """`hold` takes or renews it; a holder that does not renew it in time loses it to the first that asks."""

    def __init__(self, door: Door, *, key: str, holder: str, seconds: float) -> None:
        self._door = door
        self._key = key
        self._holder = holder
        self._seconds = seconds

    async def hold(self) -> bool:
        """Is it ours from now on? Raises `Unavailable`."""
        return await self._call(round(self._seconds * 1000))

    async def keep(self) -> None:
        """Renew it in the middle of work. Raises `LeaseLost`, `Unavailable`."""
        if not await self.hold():
            raise LeaseLost(f"{self._key} is another replica's")

    async def release(self) -> None:
        """Give it up, if it is ours. Raises `Unavailable`."""
        await self._call(0)

    async def _call(self, milliseconds: int) -> bool:
        return bool(await self._door.run(HOLD, [self._key], [self._holder, milliseconds]))
