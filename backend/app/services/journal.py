"""REDIS_DURABILITY=none: Redis may forget everything at any moment, so Postgres keeps each event until it is handled.

    1. put: into the journal, a table. Only then 200. Nothing goes into the queue past it. An account may hold at most
       as much of the journal as is still free (docs/adr/0010); what exceeds that is diverted, as the queue does it.
    2. The mover of every replica, told by its puts and once a second: ask the queue for its *life*, a text that changes
       when its data is lost or another server takes over. Rows that went into another life count as not moved. Move
       what is not moved, oldest first: put into the queue, then mark with the life.
    3. The queue's id of an event ends in its row: a mover that crashed before the mark, and several movers at once, do
       no harm. A delivery that Meta repeats after the row is gone is handled again, which finds what was done.
    4. A worker deletes the row when the event is handled, before it tells the queue (`settle`). A crash in between, or
       a queue that is lost in between, costs a repetition, never a message.
    5. A dead letter keeps its row: with a lost queue its letter is lost too, and it is tried again. The row is marked
       when a person is called (services/dead_letter_watch.py) and from then on takes no room of what waits; of each
       account the newest 1,000 stay. Rows go after eight days, as what the queue remembers of ids does. The mark of a
       letter that is replayed goes with its row, or with the queue.

Order within a conversation is that of the rows, also after a loss: what is new waits behind what is moved again. The
window: the queue's data is lost between the look at its life and the put, some milliseconds. A newer message of a
conversation may then be handled before an older one. None is lost, and none answered twice: no two replies cover the
same message (`ReplyStore.open_reply`).

What it does not do: take anything while the database is away. Webhooks are then refused, and Meta delivers them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.queue import QUEUE, Event, PutResult, Queue, QueueFull
from app.domain.errors import Conflict, Unavailable
from app.domain.ports import JournalStore

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MOVE_ROWS = 500
KEEP_SECONDS = 8 * 86400.0
KEEP_DEAD = 1000
"""Dead letters of one account."""
ROW = "#"

UNMOVED = Gauge("chorus_journal_unmoved", "Accepted events that the queue did not take in the last round")


class Journal:
    """Stands in for the queue's `put`. `run` is its mover: a background loop of every replica."""

    def __init__(
        self,
        queue: Queue,
        store: JournalStore,
        *,
        max_rows: int,
        max_bytes: int,
        put_timeout_seconds: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`max_rows`, and `max_bytes` of payload, bound what waits."""
        self._queue = queue
        self._store = store
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._put_timeout_seconds = put_timeout_seconds
        self._clock = clock
        self._news = asyncio.Event()
        self._life: str | None = None
        self._is_away = False

    async def put(self, events: Sequence[Event]) -> PutResult:
        """As `Queue.put`, within `put_timeout_seconds`. Raises `QueueFull`, or `Unavailable` if the database does not
        take it in time; put the same events again, the ids make it safe."""
        try:
            async with asyncio.timeout(self._put_timeout_seconds):
                stored, diverted = await self._store.journal_put(
                    events, max_rows=self._max_rows, max_bytes=self._max_bytes
                )
        except Conflict as exc:
            raise QueueFull("queue", str(exc), retry_after=LOOK_SECONDS) from exc
        except TimeoutError as exc:
            raise Unavailable("database", "the journal did not take it in time", retry_after=LOOK_SECONDS) from exc
        except Unavailable as exc:
            raise Unavailable(exc.dependency, str(exc), retry_after=LOOK_SECONDS) from exc
        self._news.set()
        QUEUE.diverted.inc(len(diverted))
        return PutResult(stored, len(events) - stored - len(diverted), diverted)

    async def settle(self, events: Sequence[Event]) -> None:
        """They are handled. Raises `Unavailable`; to settle again does nothing."""
        rows = [row for event in events if (row := _row_of(event)) is not None]
        if rows:
            await self._store.journal_settle(rows)

    async def bury(self, events: Sequence[Event], *, life: str) -> None:
        """They were among the dead letters of the queue when it had this `life`, or later. Raises `Unavailable`; to
        bury again does nothing."""
        rows = [row for event in events if (row := _row_of(event)) is not None]
        if rows:
            await self._store.journal_bury(rows, life=life, keep=KEEP_DEAD)

    async def run(self) -> None:
        """Move what is new, at once; look for what others left, every second."""
        while True:
            self._news.clear()
            try:
                await self._move()
                self._is_away = False
            except Unavailable as exc:
                if not self._is_away:
                    self._is_away = True
                    logger.warning("what is accepted waits in the journal", extra={"reason": str(exc)})
                await self._clock.sleep(LOOK_SECONDS)
                continue
            await self._pause()

    async def _pause(self) -> None:
        news, look = asyncio.ensure_future(self._news.wait()), asyncio.ensure_future(self._clock.sleep(LOOK_SECONDS))
        try:
            await asyncio.wait({news, look}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            look.cancel()

    async def _move(self) -> None:
        life = await self._queue.life()
        again = await self._store.journal_begin(life=life, keep_seconds=KEEP_SECONDS)
        if again or (self._life is not None and life != self._life):
            numbers = {"events": again, "life": life}
            logger.warning("the queue is another one: what was not handled goes into it again", extra=numbers)
        self._life = life
        after = left = 0
        while rows := await self._store.journal_next(after=after, limit=MOVE_ROWS):
            left += await self._put(rows, life)
            after = rows[-1][0]
        UNMOVED.set(left)

    async def _put(self, rows: Sequence[tuple[int, Event]], life: str) -> int:
        """Each conversation's by itself, so that one that is full stops no other. Returns how many found no room: they
        stay here until there is some."""
        parts: dict[str, list[tuple[int, Event]]] = {}
        for row, event in rows:
            parts.setdefault(event.mailbox, []).append((row, event._replace(id=f"{event.id}{ROW}{row}")))
        puts = [self._queue.put([event for _, event in part]) for part in parts.values()]
        results = await asyncio.gather(*puts, return_exceptions=True)
        moved, failures = [], []
        for part, result in zip(parts.values(), results, strict=True):
            if isinstance(result, BaseException):
                failures.append(result)
            else:
                moved += [row for row, event in part if event not in result.diverted]
        if moved:
            await self._store.journal_moved(moved, life=life)
        for failure in failures:
            if not isinstance(failure, QueueFull):
                raise failure
        return len(rows) - len(moved)


def _row_of(event: Event) -> int | None:
    """The journal's row of an event from the queue; `None` if it did not come by the journal."""
    _, mark, row = event.id.rpartition(ROW)
    return int(row) if mark and row.isdecimal() else None
