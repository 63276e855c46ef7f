"""Events for other systems, from the outbox into the queue. One replica of the fleet does it, on a lease.

    1. a page of the oldest rows that were not moved: for each endpoint of a row one event of the queue, in the mailbox
       of that endpoint and conversation. Put, then noted as moved; a crash in between puts again, which changes nothing
    2. an endpoint has at most `WINDOW` events in the queue. The rest waits in the database until half of them are gone:
       a receiver that is down for days fills a table and takes no room from others. So does what the queue diverts
    3. a queue that lost data has another life: what was moved into an earlier one and not told is moved again

While Redis is away the outbox waits. The queue holds ids only: what is told stays in Postgres.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from contextlib import suppress

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.fleet.lease import Lease, LeaseLost
from app.core.queue import Event, Queue, QueueMetrics
from app.domain.endpoints import Waybill
from app.domain.ports import OutboxStore

logger = logging.getLogger(__name__)

PAGE = 200
WINDOW = 1000
"""Most events of one endpoint in the queue."""
LOOK_SECONDS = 1.0
"""Between two looks when the database does not notify; also how often the lease is renewed."""
PACE_SECONDS = 0.05
"""From one page to the next: under load several events share one. What comes after a silence does not wait."""
BUSY_EVENTS = 3
"""Of one look, and more will follow: those need not be announced. Commits that announce something do so one after the
other, on the whole server."""
UPKEEP_SECONDS = 60.0
KEEP_SECONDS = 12 * 86400.0
"""Longer than an event is tried (3 days) and then kept as a dead letter (8 days): a replay finds what to tell."""
UPKEEP_PAGE = 5000

EVENT_KIND = "event"
"""The first part of the mailboxes' names."""

EVENTS_QUEUE = QueueMetrics("chorus_events_queue")


class OutboxRelay:
    """Two at a time do no harm: what is put twice is stored once."""

    def __init__(
        self,
        store: OutboxStore,
        queue: Queue,
        lease: Lease,
        *,
        window: int = WINDOW,
        page: int = PAGE,
        upkeep_page: int = UPKEEP_PAGE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._queue = queue
        self._lease = lease
        self._window = window
        self._page = page
        self._upkeep_page = upkeep_page
        self._clock = clock
        self._life = ""
        self._upkeep_at = 0.0
        self._seen = 0
        """By the last look."""
        self._is_muted = False

    async def run(self) -> None:
        """For ever: hold the lease, or look whether it is free; move; wait for a notification."""
        try:
            while True:
                try:
                    if await self._lease.hold():
                        await self.begin()
                        await self._move_for(LOOK_SECONDS)
                    else:
                        self._rest()
                        self._is_muted = False
                        await self._store.ignore_events()
                        await asyncio.sleep(LOOK_SECONDS)
                except LeaseLost as exc:
                    self._rest()
                    logger.warning("events for other systems are another replica's", extra={"reason": str(exc)})
                except Unavailable as exc:
                    self._rest()
                    logger.warning("events for other systems have to wait", extra={"reason": str(exc)})
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            with suppress(Unavailable):  # it ends by itself
                await self._lease.release()

    def _rest(self) -> None:
        self._life = ""

    async def _move_for(self, seconds: float) -> None:
        """Then the lease is to be renewed; an event that comes meanwhile waits for no more calls than its own."""
        ends = self._clock.monotonic() + seconds
        while (left := ends - self._clock.monotonic()) > 0:
            next_at = self._clock.monotonic() + PACE_SECONDS
            if not await self.round():
                if not await self._looks_again():
                    await self._store.wait_for_events(left)
                if (pause := next_at - self._clock.monotonic()) > 0:
                    await self._clock.sleep(pause)

    async def _looks_again(self) -> bool:
        """Under load without being told to: then the database announces nothing, until a look finds nothing, and once
        more. What takes longer than `PACE_SECONDS` to commit may be found by the next look only."""
        was_muted = self._is_muted
        if self._seen >= (1 if was_muted else BUSY_EVENTS):
            self._is_muted = await self._store.mute_events()
        elif was_muted:
            self._is_muted = False
            await self._store.unmute_events()
        return was_muted or self._is_muted

    async def round(self) -> bool:
        """Move a page, and what was held back. Returns whether there may be more. Raises `Unavailable`,
        `LeaseLost`."""
        page = await self._store.outbox_next(limit=self._page)
        self._seen = page.seen
        if not page.rows and not page.held:
            return page.seen >= self._page
        if await self._queue.life() != self._life:
            await self.begin()  # what the queue lost goes before this page
            return True
        depths = await self._depths({*page.held, *(each for row in page.rows for each in row.endpoints)})
        if page.rows:
            await self._move(page.rows, depths, behind=set(page.held))
        filled = [await self._fill(each, depths[each]) for each in page.held]
        return page.seen >= self._page or any(filled)

    async def begin(self) -> None:
        """Look which life the queue has, and now and then what has become too old. Raises `Unavailable`,
        `LeaseLost`."""
        life = await self._queue.life()
        if life == self._life and self._clock.monotonic() < self._upkeep_at:
            return
        page, moved_again = self._upkeep_page, 0
        while True:
            again, gone = await self._store.outbox_begin(life=life, keep_seconds=KEEP_SECONDS, limit=page)
            moved_again += again
            if gone:
                logger.warning("events that were not told in time are forgotten", extra={"events": gone})
            if again < page:
                break
            await self._lease.keep()  # all pages together may take longer than it lasts
        if moved_again:
            logger.warning("the queue of events began anew: they are moved again", extra={"events": moved_again})
        await self._queue.stats()  # sets the gauges
        self._life = life
        self._upkeep_at = self._clock.monotonic() + (0.0 if gone >= page else UPKEEP_SECONDS)

    async def _depths(self, endpoints: Iterable[str]) -> dict[str, int]:
        names = sorted(endpoints)
        return dict(zip(names, await self._queue.depths([group_of(each) for each in names]), strict=True))

    async def _move(self, rows: Iterable[Waybill], depths: dict[str, int], *, behind: set[str]) -> None:
        """What follows an event that is held back is held back, too: the order stays."""
        events: list[Event] = []
        held: list[tuple[str, str]] = []
        for row in rows:
            for endpoint in row.endpoints:
                if endpoint in behind or depths[endpoint] >= self._window:
                    behind.add(endpoint)
                    held.append((row.id, endpoint))
                else:
                    depths[endpoint] += 1
                    events.append(queued(row, endpoint))
        diverted = (await self._queue.put(events)).diverted if events else ()
        held += [(event.payload.decode(), endpoint_of(event.mailbox)) for event in diverted]
        await self._store.outbox_moved([row.id for row in rows], life=self._life, held=held)

    async def _fill(self, endpoint: str, depth: int) -> bool:
        """Returns whether it had room, and took some."""
        if depth > self._window // 2:
            return False
        rows = await self._store.outbox_held(endpoint, limit=min(self._page, self._window - depth))
        if not rows:
            return False
        result = await self._queue.put([queued(row, endpoint) for row in rows])
        stay = {event.payload.decode() for event in result.diverted}
        moved = [row.id for row in rows if row.id not in stay]
        if moved:
            await self._store.outbox_unhold(endpoint, moved)
        return bool(moved)


def group_of(endpoint: str) -> str:
    """The queue's group of one endpoint: it has its own turn and its own share."""
    return f"{EVENT_KIND}:{endpoint}"


def endpoint_of(mailbox: str) -> str:
    return mailbox.split(":")[1]


def queued(row: Waybill, endpoint: str) -> Event:
    """As the queue holds it. The mailbox has a digest of the conversation: no id of a customer's stays in Redis."""
    about = row.conversation_id or row.account_id
    digest = hashlib.blake2b(about.encode(), digest_size=12).hexdigest()
    return Event(f"{row.id}:{endpoint}", f"{group_of(endpoint)}:{digest}", row.id.encode(), immediate=True)
