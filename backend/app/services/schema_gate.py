"""Does the database have the schema that this version of Chorus needs? Until it does, this replica does not work.

    away at the start      unknown, which is not wrong: the replica starts, and asks again
    no schema, or older    not ready, no conversation claimed; asked again every second
    newer                  ready: migrations let the version before them go on (a rollback, or a rolling deploy)

What it does not do: migrate, or look at what the tables really are; it believes the record of applied migrations.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import in_words
from app.domain.ports import Store

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Until it is known to be right."""
LOOK_SECONDS = 10.0
RIGHT_SECONDS = 15.0
"""A schema that was right is looked at again: the database may be exchanged for an older copy."""


class SchemaGate:
    """`required`: the names of the migrations this version carries, oldest first."""

    def __init__(self, store: Store, required: Sequence[str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._required = tuple(required)
        self._clock = clock
        self._known = False
        self._newer: tuple[str, ...] = ()
        self._open = asyncio.Event()
        self._open.set()
        self.reason: str | None = None
        """Why this replica must not work, in words; `None` while nothing speaks against it."""

    def is_open(self) -> bool:
        return self.reason is None

    async def look(self, *, timeout_seconds: float = LOOK_SECONDS) -> None:
        """Ask the database once. One that does not answer in time changes nothing."""
        try:
            async with asyncio.timeout(timeout_seconds):
                applied = await self._store.applied_migrations()
                missing = [name for name in self._required if name not in applied]
                reason = await self._explain(missing) if missing else None
        except (Unavailable, TimeoutError) as exc:
            logger.debug("schema not looked at", extra={"reason": in_words(exc)})
            return
        self._known = True
        self._settle(reason)
        newer = tuple(name for name in applied if name not in self._required)
        if newer and newer != self._newer:
            logger.warning("the database's schema is newer than this version", extra={"migrations": ", ".join(newer)})
        self._newer = newer

    async def run(self, beat: Callable[[], None]) -> None:
        """Until cancelled."""
        while True:
            beat()
            await self._clock.sleep(RIGHT_SECONDS if self._known and self.is_open() else AGAIN_SECONDS)
            await self.look()

    def guarded(self, loop: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`loop`, started only once nothing speaks against it."""

        async def waiting() -> None:
            await self._open.wait()
            await loop()

        return waiting

    async def _explain(self, missing: Sequence[str]) -> str:
        if len(missing) == len(self._required):
            # A schema from before it could name its migrations says at least how far it is.
            try:
                version = await self._store.schema_version()
            except Unavailable:
                version = None
            if version is None:
                return "the database has no schema of Chorus; run `chorus migrate`"
            missing = [name for name in missing if name[:14] > version] or missing
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return f"the database's schema is older than this version needs, {names} not applied; run `chorus migrate`"

    def _settle(self, reason: str | None) -> None:
        if reason != self.reason:
            if reason:
                logger.error("this replica does not work yet", extra={"reason": reason})
            else:
                logger.warning("the database's schema is right, this replica works")
        self.reason = reason
        if reason is None:
            self._open.set()
        else:
            self._open.clear()
