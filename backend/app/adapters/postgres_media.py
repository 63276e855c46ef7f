"""Files in the database itself (MEDIA_STORE=postgres): chunks in a table, one call each, over either way to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from app.core.errors import Unavailable
from app.domain.errors import NotFound
from app.domain.ports import MediaRecordStore, MediaStore

CHUNK_BYTES = 393_216
"""384 KB, a multiple of 3: what is read of a file in pieces can be made base64 piece by piece."""
MAX_CALLS = 2
"""At once: the database's connections are there for the messages."""


class PostgresMediaStore(MediaStore):
    def __init__(self, store: MediaRecordStore) -> None:
        self._store = store
        self._calls = asyncio.Semaphore(MAX_CALLS)

    async def put(self, media_id: str, pieces: AsyncIterator[bytes], *, mime: str) -> None:
        """The row of the file must be there and pending: else nothing is written."""
        position = 0
        async for chunk in _in_chunks(pieces):
            async with self._calls:
                if not await self._store.put_media_chunk(media_id, position, chunk):
                    return
            position += 1

    async def size(self, media_id: str) -> int | None:
        return await self._store.media_chunks_size(media_id)

    async def read(self, media_id: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        position, left = start // CHUNK_BYTES, None if end is None else end - start
        skip = start % CHUNK_BYTES
        while left is None or left > 0:
            async with self._calls:
                chunk = await self._store.get_media_chunk(media_id, position)
            if chunk is None and position == start // CHUNK_BYTES:
                raise NotFound("media")
            if chunk is None:
                if left:
                    raise Unavailable("database", "a file in the database ends too early")
                return
            piece = chunk[skip:] if left is None else chunk[skip : skip + left]
            if piece:
                yield piece
            if len(chunk) < CHUNK_BYTES:
                return
            left = None if left is None else left - len(piece)
            position, skip = position + 1, 0

    async def delete(self, media_ids: Sequence[str]) -> None:
        await self._store.delete_media_chunks(media_ids)


async def _in_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At least one, of `CHUNK_BYTES` all but the last."""
    waiting = bytearray()
    is_first = True
    async for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
            is_first = False
    if waiting or is_first:
        yield bytes(waiting)
