"""Events that were given up on: listed, put back, or forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.core.event import Event
from app.core.queue.events import REASON_CHARACTERS, DeadLetter, decode_entry, decode_failure, encode_entry
from app.core.queue.shards import Shards, all_of
from app.core.redis.script import Script

REPLAY, DROP, BURY, FORGET = (
    Script(f"queue_{name}", prelude="queue_dead") for name in ("replay", "drop", "bury", "forget")
)

# Stream ids are two 64-bit numbers; 19 digits never exceed that.
_ID = re.compile(r"(\d{1,4})-(\d{1,19}-\d{1,19})", re.ASCII)


class DeadLetters:
    """One stream a shard, written by the scripts that park, the oldest dropped beyond a number and a size
    (`queue_dead.lua`). A letter's id is `<shard>-<stream id>`. Every method may raise `QueueUnavailable`."""

    def __init__(self, shards: Shards, *, limits: tuple[int, int]) -> None:
        """`limits`: most letters of a shard, and most bytes of them."""
        self._shards = shards
        self._limits = limits

    async def add(self, event: Event, reason: str) -> None:
        """Make one of an event that is in no mailbox."""
        entry = encode_entry(event, round(event.accepted_at * 1000))
        args = (*self._limits, event.mailbox, entry, reason[:REASON_CHARACTERS])
        await self._shards.call(BURY, self._shards.of(event.mailbox), args)

    async def untold(self, *, limit: int, since: float) -> list[DeadLetter]:
        """Letters that `told` has not passed yet, at most `limit` of each shard, oldest first; before the first `told`
        those parked since then (Unix seconds)."""
        letters: list[DeadLetter] = []
        for shard, place in enumerate(await self._shards.ask_each("GET", "dlqt")):
            start = f"({place.decode()}" if place else f"{round(since * 1000)}-0"
            letters += await self._read(shard, start, limit)
        return letters

    async def told(self, letter_id: str) -> None:
        """This letter, and every older one of its shard, has been dealt with."""
        place = self._place(letter_id)
        if place is not None:
            await self._shards.ask(place[0], "SET", "dlqt", place[1])

    async def page(self, *, limit: int, cursor: str | None = None) -> tuple[list[DeadLetter], str | None]:
        """`limit` letters after `cursor`, shard by shard, oldest first, and the cursor of the next page, `None` at the
        end. Raises `ValueError` for a cursor that is none; one of a shard that does not exist is behind the last
        letter."""
        shard, start = 0, "-"
        if cursor is not None:
            place = _ID.fullmatch(cursor)
            if place is None:
                raise ValueError("this is not a cursor of this list; take next_cursor of the page before")
            shard, start = int(place[1]), f"({place[2]}"
        letters: list[DeadLetter] = []
        for at in range(shard, len(self._shards)):
            letters += await self._read(at, start, limit + 1 - len(letters))
            if len(letters) > limit:
                return letters[:limit], letters[limit - 1].id
            start = "-"
        return letters, None

    async def replay(self, ids: Sequence[str]) -> int:
        """Put them back at the tail of their mailboxes, in this order, as if accepted now: no dedupe check, no failed
        attempts. Returns how many; ids that do not exist (any more) are skipped."""
        return await self._take(REPLAY, ids)

    async def drop(self, ids: Sequence[str]) -> int:
        """Forget them for good. Returns how many there were."""
        return await self._take(DROP, ids)

    async def forget(self, *, older_than_seconds: float, limit: int) -> int:
        """Those that were parked so long ago by the server's clock, at most `limit` of each shard, the oldest first.
        Returns how many."""
        return sum(await self._shards.call_each(FORGET, (round(older_than_seconds * 1000), limit)))

    async def _take(self, script: Script, ids: Sequence[str]) -> int:
        parts: dict[int, list[str]] = {}
        for place in map(self._place, ids):
            if place is not None:
                parts.setdefault(place[0], []).append(place[1])
        return sum(await all_of(self._shards.call(script, shard, part) for shard, part in parts.items()))

    async def _read(self, shard: int, start: str, count: int) -> list[DeadLetter]:
        rows = await self._shards.ask(shard, "XRANGE", "dlq", start, "+", "COUNT", count)
        return [
            DeadLetter(
                id=f"{shard}-{stream_id.decode()}",
                event=decode_entry(row[b"mailbox"].decode(), row[b"entry"]),
                reason=row[b"reason"].decode(errors="replace"),
                attempts=int(row[b"attempts"]),
                parked_at=int(stream_id.partition(b"-")[0]) / 1000,
                history=tuple(decode_failure(text) for name, text in row.items() if name.startswith(b"failure")),
            )
            for stream_id, row in rows
        ]

    def _place(self, letter_id: str) -> tuple[int, str] | None:
        match = _ID.fullmatch(letter_id)
        if match is None or int(match[1]) >= len(self._shards):
            return None
        return int(match[1]), match[2]
