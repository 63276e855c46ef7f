"""One short text that the replicas share: what the last one to look has seen. Lost with Redis; then it is `None`."""

from __future__ import annotations

from app.core.redis.door import Door


class LastKnown:
    def __init__(self, door: Door, *, key: str) -> None:
        self._door = door
        self._key = key

    async def read(self) -> str | None:
        """Raises `Unavailable`."""
        found = await self._door.ask("GET", self._key)
        return None if found is None else str(found, "utf-8")

    async def write(self, text: str) -> None:
        """Raises `Unavailable`."""
        await self._door.ask("SET", self._key, text)
