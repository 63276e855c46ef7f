"""What an upstream answered, kept in Redis until the database can take it.

    await receipts.note("wamid.1#0", "wamid.2")     # the database did not take it
    await receipts.find("wamid.1#0")                # "wamid.2", by any replica

What it does not do: serve as the record. An ordinary call writes to the database alone, and a receipt is gone after
`KEEP_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.core.redis.door import Door

KEEP_SECONDS = 86400


class Receipts:
    """Asks also while Redis is known to be away: a receipt that is lost may be a message that is sent twice."""

    def __init__(self, door: Door, *, namespace: str) -> None:
        self._door = door
        self._prefix = f"{namespace}:receipt:"

    async def note(self, key: str, answer: str) -> None:
        """Raises `Unavailable`; whether it was written is then unknown."""
        await self._door.ask("SET", self._prefix + key, answer, "EX", KEEP_SECONDS, urgent=True)

    async def forget(self, keys: Sequence[str]) -> None:
        """Raises `Unavailable`."""
        for key in keys:  # one by one: on a cluster they live on different nodes
            await self._door.ask("DEL", self._prefix + key)

    async def find(self, key: str) -> str | None:
        """`None`: none was noted. Raises `Unavailable`."""
        found = await self._door.ask("GET", self._prefix + key, urgent=True)
        return None if found is None else str(found, "utf-8")
