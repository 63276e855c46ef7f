"""So many times an hour: a count per name in Redis, for the whole fleet together.

    tries = Allowance(door, namespace="chorus", name="signup_tries", limit=10, window_seconds=3600)
    wait = await tries.take(user_id)      # 0.0: counted, go on; else the seconds until the next one is allowed
    await tries.give_back(user_id)        # what was counted did not happen after all

The window is fixed and starts with the first `take`. What it does not do: let anything pass while Redis is away.
"""

from __future__ import annotations

import hashlib

from app.core.redis.door import Door
from app.core.redis.script import Script

ALLOWANCE = Script("allowance")


class Allowance:
    """At most `limit` per window of `window_seconds` for each name. Raises `Unavailable` when Redis is away."""

    def __init__(self, door: Door, *, namespace: str, name: str, limit: int, window_seconds: float) -> None:
        self._door = door
        self._prefix = f"{namespace}:allowance:{name}"
        self._limit = limit
        self._window_ms = round(window_seconds * 1000)

    async def take(self, who: str) -> float:
        """Count one more for `who`; the seconds to wait if there is none left, and then nothing is counted."""
        return await self._run("take", who) / 1000

    async def give_back(self, who: str) -> None:
        """Count one less, if the window is still the same."""
        await self._run("give_back", who)

    async def _run(self, verb: str, who: str) -> int:
        # Of any length and with any characters: a key of our own size.
        key = f"{self._prefix}:{{{hashlib.sha256(who.encode()).hexdigest()[:32]}}}"
        return int(await self._door.run(ALLOWANCE, [key], [verb, self._limit, self._window_ms]))
