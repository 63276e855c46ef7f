"""Forgets the cache when the database's history is another one: a fail-over that lost the last seconds, a backup put in
place. What was cached may then never have been, and no invalidation tells of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from app.core.redis.door import Door
from app.domain.models import DatabaseHistory
from app.domain.ports import WaitingStore

logger = logging.getLogger(__name__)


class DatabaseWatch:
    """`invalidate(*patterns)` raises `Unavailable` unless the whole fleet will have forgotten. What was seen last is in
    Redis, so that it does not matter which replica looked before; lost with it, the next look is the first one."""

    def __init__(
        self, store: WaitingStore, invalidate: Callable[..., Awaitable[None]], door: Door, *, namespace: str
    ) -> None:
        self._store = store
        self._invalidate = invalidate
        self._door = door
        self._key = f"{namespace}:{{fleet}}:database_position"

    async def look(self) -> bool:
        """Always `False`: once in a round is enough. Raises `Unavailable`, and looks again then."""
        # What is known first: what another replica notes between the two would seem to be lost.
        before = _read(await self._door.ask("GET", self._key))
        now = await self._store.database_history()
        if now is None:
            return False
        if before is not None and (now.identity != before.identity or now.position < before.position):
            logger.warning("the database has another history: the cache is forgotten", extra={
                "before": before.identity, "now": now.identity, "lost": max(0, before.position - now.position),
            })  # fmt: skip
            await self._invalidate("*")
        await self._door.ask("SET", self._key, f"{now.position} {now.identity}")
        return False


def _read(seen: bytes | None) -> DatabaseHistory | None:
    position, _, identity = (seen or b"").decode().partition(" ")
    return DatabaseHistory(identity, int(position)) if position.isdigit() else None
