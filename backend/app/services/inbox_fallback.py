"""INGEST_FALLBACK=database: while the queue is away, events wait in Postgres, and join it in order when it is back.

The inbox has a state in the database, changed under the lock of its writers: `closed` (not in use, empty), `open`
(events go in), `closing` (the rest is moved, nothing goes in).

    1. put: into the queue. It is away: into the inbox, which that opens. From then on everything goes there
       (*diverted*), so that no event overtakes an older one of its conversation.
    2. Every replica looks at the state once a second, and is diverted while it is not `closed`.
    3. Once the queue answers, the mover of any replica moves the rows, oldest first: put into the queue, then delete.
       With less than a batch left it sets `closing`: what is left is finite however much comes in. Nothing left:
       `closed`. Several movers do no harm: the queue knows the ids. What one that crashes leaves, another finishes.
    4. A diverted put is stored only while `open`. `closing`: it waits, within its budget. `closed`: this replica is no
       longer diverted, and puts directly.
    5. The queue fails during `closing`: the mover that notices, or a put that is not diverted, opens the inbox again.
    6. A failed call to the queue (a put, the worker's claim, the mover's look), a start and the end of a diversion are
       reasons to suspect: for `SUSPECT_SECONDS` each direct put first asks the database for the state. If that does
       not answer, it puts directly: a suspicion is not worth a refused webhook. The queue may be away for one replica
       alone, or that replica be too slow: the put that diverts it also leaves a mark in the queue. While the mark is
       there, a direct put that has not asked is refused; it asks, and this is a reason to suspect, too.
    7. An account may hold at most as much of the inbox as is still free. What exceeds that goes into the overflow.
    8. The database does not take a diverted put: `Unavailable`, to be repeated soon. If it has said that the inbox is
       in use, webhooks are refused until it is back: the queue may be, but to put directly would overtake. If it has
       not, this replica has put nothing aside: it is no longer diverted, only suspicious (6.), and a queue that is back
       takes what comes although the database is gone.

What is given up and put into the inbox instead does not get into the queue later, past what waits in the inbox: each
put has a deadline in the server's time, after which a server that was frozen refuses it (core/lua/queue_put.lua).

The windows: where the mark does not get into the queue, a replica whose every call to it goes well does not know of an
outage that others see, until it looks (a second at most); nor does one that reaches neither queue nor database, and
then the queue, while others reach both. Meanwhile it may put a message directly that is newer than one in the inbox. So
may a server whose clock goes back while it is frozen, or stands still with it, as that of a paused virtual machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.queue import QUEUE, Event, PutResult, Queue, QueueAside, QueueFull, QueueUnavailable
from app.domain.errors import Conflict, Unavailable
from app.domain.models import InboxState
from app.domain.ports import InboxStore
from app.services.overflow import Overflow

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.015
SUSPECT_SECONDS = 3.0
ASK_SECONDS = 0.2
"""A suspicious put has the queue's own time left after that."""
TELL_SECONDS = 0.1
MOVE_ROWS = 500

DIVERTED = Gauge("chorus_inbox_diverted", "1 while webhooks are stored in the database instead of the queue")


class InboxFallback:
    """Stands in for the queue's `put`. `run` is its mover: a background loop of every replica."""

    def __init__(
        self,
        queue: Queue,
        overflow: Overflow,
        store: InboxStore,
        *,
        max_rows: int,
        max_bytes: int,
        put_timeout_seconds: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`overflow`: that of `queue`. `max_rows`, and `max_bytes` of payload, bound the inbox."""
        self._queue = queue
        self._overflow = overflow
        self._store = store
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._put_timeout_seconds = put_timeout_seconds
        self._clock = clock
        self._diverted = False
        self._told = False
        """By the database, since it was diverted: there may be events in the inbox."""
        self._announced = False
        self._news = 0
        self._waiting = asyncio.Lock()
        self._suspect_until = clock.monotonic() + SUSPECT_SECONDS

    def suspect(self) -> None:
        """A call to the queue has failed: there may be an outage, and a put would not notice a short one."""
        self._suspect_until = self._clock.monotonic() + SUSPECT_SECONDS

    async def put(self, events: Sequence[Event]) -> PutResult:
        """As `Queue.put`, within `put_timeout_seconds`. Raises `QueueFull`, or `Unavailable` if the database is away
        too or the inbox takes too long to close. After an error put the same events again, the ids make it safe."""
        try:
            async with asyncio.timeout(self._put_timeout_seconds):
                return await self._put(events)
        except TimeoutError as exc:
            self._give_up_aside()
            raise Unavailable("queue", "neither queue nor inbox took it in time", retry_after=LOOK_SECONDS) from exc

    async def _put(self, events: Sequence[Event]) -> PutResult:
        has_asked = not self._diverted and self._clock.monotonic() < self._suspect_until
        if has_asked:
            await self._ask_soon()
        while True:
            reopen = False
            if not self._diverted:
                try:
                    return await self._put_directly(events, unless_aside=not has_asked)
                except QueueAside:
                    self.suspect()
                    await self._ask_soon()
                    has_asked = True
                    continue
                except QueueUnavailable as exc:
                    self.suspect()
                    self._divert(str(exc))
                    reopen = True
            putting = self._put_aside(events, reopen=reopen)
            if reopen:
                found, _ = await asyncio.gather(putting, self._tell_others())
            else:
                found = await putting
            state, stored, diverted = found
            has_asked = True
            if state is InboxState.OPEN:
                if diverted:
                    QUEUE.diverted.inc(len(diverted))
                    await self._overflow.keep(diverted)
                return PutResult(stored, len(events) - stored - len(diverted), diverted)
            if state is InboxState.CLOSING:
                await self._wait_until_closed()

    async def _put_directly(self, events: Sequence[Event], *, unless_aside: bool) -> PutResult:
        result = await self._queue.put(events, unless_aside=unless_aside)
        if result.diverted:
            await self._overflow.keep(result.diverted)
        return result

    async def _tell_others(self) -> None:
        """Those for whom the queue is there."""
        with suppress(QueueUnavailable, TimeoutError):
            async with asyncio.timeout(TELL_SECONDS):
                await self._queue.mark_aside(SUSPECT_SECONDS)

    async def _ask_soon(self) -> None:
        """A database that does not answer says nothing."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                await self._ask()

    async def _put_aside(self, events: Sequence[Event], *, reopen: bool) -> tuple[InboxState, int, tuple[Event, ...]]:
        news = self._news
        try:
            state, stored, diverted = await self._store.inbox_put(
                events, max_rows=self._max_rows, max_bytes=self._max_bytes, reopen=reopen
            )
        except Conflict as exc:
            raise QueueFull("queue", str(exc), retry_after=LOOK_SECONDS) from exc
        except Unavailable as exc:
            self._give_up_aside()
            raise Unavailable(exc.dependency, str(exc), retry_after=LOOK_SECONDS) from exc
        self._learn(state, news)
        return state, stored, diverted

    async def _wait_until_closed(self) -> None:
        async with self._waiting:  # one asks for all
            while self._diverted and await self._ask() is InboxState.CLOSING:
                await self._clock.sleep(POLL_SECONDS)

    async def run(self) -> None:
        """Look, move, and look again at once while there is more."""
        while True:
            more = False
            try:
                more = await self._move()
            except Unavailable as exc:
                logger.warning("inbox not moved", extra={"reason": str(exc)})
            if not more:
                await self._clock.sleep(LOOK_SECONDS)

    async def _move(self) -> bool:
        """One round of 2., 3. and 5. Returns whether another one is due at once."""
        is_back = await self._queue_is_back()
        state = await self._ask()
        if state is InboxState.CLOSED:
            return False
        try:
            moved = await self._move_rows() if is_back else None
        except (QueueUnavailable, QueueFull) as exc:
            self.suspect()
            logger.warning("the queue did not take the inbox", extra={"reason": str(exc)})
            moved = None
        if moved is None:
            if state is InboxState.CLOSING:
                await self._put_aside([], reopen=True)
            return False
        if moved < MOVE_ROWS:
            news = self._news
            state = await self._store.inbox_close()
            self._learn(state, news)
        return state is not InboxState.CLOSED

    async def _move_rows(self) -> int:
        rows = await self._store.inbox_peek(limit=MOVE_ROWS)
        if rows:
            await self._overflow.put([event for _, event in rows])
            await self._store.inbox_delete([row for row, _ in rows])
            logger.warning("inbox moved into the queue", extra={"events": len(rows)})
        return len(rows)

    async def _queue_is_back(self) -> bool:
        try:
            await self._queue.stats()
        except QueueUnavailable:
            self.suspect()
            return False
        return True

    async def _ask(self) -> InboxState:
        news = self._news
        state = await self._store.inbox_state()
        self._learn(state, news)
        return state

    def _learn(self, state: InboxState, news: int) -> None:
        """Act on an answer of the database to a question asked when `_news` was `news`."""
        if state is not InboxState.CLOSED:
            self._news += 1
            self._divert(f"the inbox is {state}")
            self._told = True
        elif self._news == news:
            # Nothing else was heard here since the question was asked: it is not an old answer come late.
            self._go_direct()
            if self._announced:
                self._announced = False
                logger.warning("webhooks go into the queue again")

    def _give_up_aside(self) -> None:
        """The database did not take it."""
        if not self._told:
            self._go_direct()

    def _go_direct(self) -> None:
        if self._diverted:
            self._diverted = self._told = False
            DIVERTED.set(0)
            self.suspect()

    def _divert(self, reason: str) -> None:
        if not self._diverted:
            self._diverted = True
            DIVERTED.set(1)
        if not self._announced:
            self._announced = True
            logger.warning("webhooks go into the database", extra={"reason": reason})
