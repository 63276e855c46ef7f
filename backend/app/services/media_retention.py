"""Files go when their time is over, and when their message goes; what they said stays with the message."""

from __future__ import annotations

import logging

from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.ports import MediaRecordStore, MediaStore

logger = logging.getLogger(__name__)

ROUND_SECONDS = 60.0
PAGE = 100
LOOSE_SECONDS = 3_600.0
"""A file that a person uploaded and that became part of no message. Much longer than it takes to become one."""
DAY_SECONDS = 86_400.0


class MediaRetention:
    def __init__(self, store: MediaRecordStore, files: MediaStore, *, days: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._files = files
        self._keep_seconds = days * DAY_SECONDS
        self._clock = clock
        self._next = 0.0

    async def tidy(self) -> bool:
        """One page, once a minute; returns whether there is more at once. Harmless when two replicas do it: a file is
        deleted before it is forgotten that it is to be."""
        if self._clock.monotonic() < self._next:
            return False
        found = await self._store.expire_media(keep_seconds=self._keep_seconds, loose_seconds=LOOSE_SECONDS, limit=PAGE)
        leftovers = await self._store.media_leftovers(limit=PAGE)
        if leftovers:
            await self._files.delete(leftovers)
            await self._store.settle_leftovers(leftovers)
            logger.debug("files deleted", extra={"count": len(leftovers)})
        has_more = PAGE in (found, len(leftovers))
        if not has_more:
            self._next = self._clock.monotonic() + ROUND_SECONDS
        return has_more
