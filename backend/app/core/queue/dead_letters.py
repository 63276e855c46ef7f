"""Events that were given up on: listed, put back, or forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from app.core.queue.events import DeadLetter, decode_entry, decode_failure
from app.core.queue.shards import Shards, all_of, bounded
from app.core.redis import Script

REPLAY, DROP = (Script(f"queue_{name}", prelude="queue_dead") for name in ("replay", "drop"))

# Stream ids are two 64-bit numbers; 19 digits never exceed that.
_ID = re.compile(r"(\d{1,4})-(\d{1,19}-\d{1,19})", re.ASCII)


class DeadLetters:
    """One stream a shard, written by the scripts that park, the oldest dropped beyond a number and a size
    (`queue_dead.lua`). A letter's id is `<shard>-<stream id>`."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    async def page(self, *, limit: int, cursor: str | None) -> tuple[list[DeadLetter], str | None]:
        """`limit` letters after `cursor`, and the next cursor. Raises `ValueError` for a cursor that is none; one of a
        shard that does not exist is behind the last letter."""
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
        parts = self._by_shard(ids)
        return sum(await all_of(self._shards.call(REPLAY, shard, part) for shard, part in parts.items()))

    async def drop(self, ids: Sequence[str]) -> int:
        parts = self._by_shard(ids)
        return sum(await all_of(self._shards.call(DROP, shard, part) for shard, part in parts.items()))

    async def _read(self, shard: int, start: str, count: int) -> list[DeadLetter]:
        rows: Any = await bounded(self._shards.redis.xrange(self._key(shard), min=start, count=count), "dead")
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

    def _key(self, shard: int) -> str:
        return f"{self._shards.prefixes[shard]}dlq"

    def _place(self, letter_id: str) -> tuple[int, str] | None:
        match = _ID.fullmatch(letter_id)
        if match is None or int(match[1]) >= len(self._shards):
            return None
        return int(match[1]), match[2]

    def _by_shard(self, ids: Sequence[str]) -> dict[int, list[str]]:
        parts: dict[int, list[str]] = {}
        for letter_id in ids:
            place = self._place(letter_id)
            if place is not None:
                parts.setdefault(place[0], []).append(place[1])
        return parts
