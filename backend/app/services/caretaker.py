"""What one replica does for the fleet every two seconds, on a lease: its duties in order, each a page at a time. While
Redis, which keeps the lease, is away, every replica does those that need no Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import in_words
from app.core.fleet.lease import Lease, LeaseLost

logger = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
DUTY_SECONDS = 10.0
"""For one page of one duty: less than the lease."""
PAGES = 20
"""Of one duty in a round, so that the others have their turn."""

Duty = Callable[[], Awaitable[bool]]
"""Does one page; returns whether there is more at once. Must be harmless when two replicas do it. May raise
`Unavailable`."""


class Caretaker:
    def __init__(
        self,
        duties: Mapping[str, Duty],
        lease: Lease,
        *,
        without_lease: Sequence[str] = (),
        round_seconds: float = ROUND_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`without_lease`: duties that every replica does while the lease cannot be asked for."""
        self._duties = duties
        self._without_lease = {name: duties[name] for name in without_lease}
        self._round_seconds = round_seconds
        self._lease = lease
        self._clock = clock

    async def run(self) -> None:
        """For ever. A replica that cannot do a duty gives up the lease: perhaps another one can."""
        try:
            while True:
                try:
                    if await self._lease.hold() and not await self.round():
                        await self._lease.release()
                        await self._clock.sleep(self._round_seconds)
                except LeaseLost as exc:
                    logger.warning("the rest of the round is another replica's", extra={"reason": str(exc)})
                except Unavailable:  # the lease: asked for again in the next round
                    for name, duty in self._without_lease.items():
                        await self._do(name, duty)
                await self._clock.sleep(self._round_seconds)
        finally:
            with suppress(Unavailable):  # it ends by itself
                await self._lease.release()

    async def round(self) -> bool:
        """Every duty, as long as the lease is ours: it is asked for before each page that follows another. Returns
        whether all went well. Raises `LeaseLost`, or `Unavailable` if the lease could not be renewed."""
        went_well = True
        for name, duty in self._duties.items():
            went_well &= await self._do(name, duty, between_pages=self._lease.keep)
            await self._lease.keep()
        return went_well

    async def _do(self, name: str, duty: Duty, between_pages: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Returns whether nothing that it needs was away."""
        try:
            for _ in range(PAGES):
                async with asyncio.timeout(DUTY_SECONDS):
                    more = await duty()
                if not more:
                    break
                if between_pages:
                    await between_pages()
        except LeaseLost:
            raise
        except (Unavailable, TimeoutError) as exc:
            logger.warning("a duty has to wait", extra={"duty": name, "reason": in_words(exc)})
            return False
        except Exception as exc:  # a bug in one duty must not stop the others
            logger.error("a duty failed", exc_info=exc, extra={"duty": name})
        return True
