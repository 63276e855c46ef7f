"""Carries out what the database remembers of commits: invalidations of changes made elsewhere (SQL, Supabase Studio),
and of replicas that died between their commit and their invalidation; and accounts that are worth another try. One
replica of the fleet does it, on a lease. Two at a time do no harm: what is forgotten twice is read once more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from prometheus_client import Counter

from app.core.errors import Unavailable
from app.core.fleet.lease import Lease, LeaseLost
from app.domain.ports import InvalidationStore

logger = logging.getLogger(__name__)

PAGE = 500
LOOK_SECONDS = 2.0
"""Between two looks when no notification comes; also how often the lease is renewed."""

TRY_AGAIN = "account:try_again:"
"""As the database's trigger writes it. No cached key: to invalidate it does nothing."""

RELAYED = Counter("chorus_cache_relayed_total", "Invalidations taken from the database")


class CacheRelay:
    """`invalidate(*patterns)` raises `Unavailable` unless the whole fleet will have forgotten. `account_changed` is
    given the phone_number_id of an account that may be able to send again, after the caches have forgotten it."""

    def __init__(
        self,
        store: InvalidationStore,
        invalidate: Callable[..., Awaitable[None]],
        lease: Lease,
        *,
        account_changed: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._invalidate = invalidate
        self._account_changed = account_changed
        self._lease = lease

    async def run(self) -> None:
        """For ever: hold the lease, or look whether it is free; drain; wait for a notification."""
        try:
            while True:
                try:
                    if await self._lease.hold():
                        while await self.drain():
                            await self._lease.keep()
                        await self._store.wait_for_invalidations(LOOK_SECONDS)
                    else:
                        await self._store.ignore_invalidations()
                        await asyncio.sleep(LOOK_SECONDS)
                except LeaseLost as exc:
                    logger.warning("remembered invalidations are another replica's", extra={"reason": str(exc)})
                except Unavailable as exc:
                    logger.warning("remembered invalidations have to wait", extra={"reason": str(exc)})
                    await asyncio.sleep(LOOK_SECONDS / 2)
        finally:
            with suppress(Unavailable):  # it ends by itself
                await self._lease.release()

    async def drain(self) -> int:
        """One page; how many there were. Forgotten by the database only once carried out. Raises `Unavailable`."""
        pending = await self._store.pending_invalidations(limit=PAGE)
        if pending:
            patterns = {invalidation.pattern for invalidation in pending}
            await self._invalidate(*patterns)
            if self._account_changed is not None:
                for pattern in patterns:
                    if pattern.startswith(TRY_AGAIN):
                        await self._account_changed(pattern.removeprefix(TRY_AGAIN))
            await self._store.settle_invalidations([invalidation.id for invalidation in pending])
            RELAYED.inc(len(pending))
        return len(pending)
