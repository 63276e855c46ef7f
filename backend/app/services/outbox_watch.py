"""For how long events for other systems have waited to be moved into their queue, looked up by every replica: for the
alert, which must be true also while the one that moves them fails or is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.domain.ports import OutboxStore

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0

OLDEST_SECONDS = Gauge("chorus_outbox_oldest_seconds", "Age of the oldest event that was not moved into the queue")


class OutboxWatch:
    """While the database is away the last answer stays: there nothing is written, and nothing waits longer."""

    def __init__(self, store: OutboxStore, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock

    async def run(self, beat: Callable[[], None]) -> None:
        while True:
            beat()
            try:
                await self.look()
            except Unavailable as exc:
                logger.warning("how long events wait is unknown", extra={"reason": str(exc)})
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Raises `Unavailable`."""
        OLDEST_SECONDS.set(await self._store.outbox_oldest_seconds())
