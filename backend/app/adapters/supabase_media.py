"""Files in a private bucket of Supabase Storage (MEDIA_STORE=supabase), through storage3: `<bucket>/<id>`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from io import FileIO
from typing import TypeVar

from storage3 import AsyncStorageClient
from storage3._async.file_api import AsyncBucketProxy
from storage3.exceptions import StorageApiError
from storage3.utils import StorageException

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.deadline import Deadline
from app.core.errors import Overloaded, Unavailable
from app.core.http_client import AsyncClient, is_network_error, is_pool_full
from app.core.resilience import ResiliencePolicy
from app.core.slots import Slots
from app.domain.errors import NotFound
from app.domain.ports import MediaStore

T = TypeVar("T")

DEPENDENCY = "supabase_storage"
BUCKET = "chorus-media"
PIECE_BYTES = 786_432
"""A multiple of 3, as `MediaStore.read` promises."""
ATTEMPT_SECONDS = 30.0
CALL_SECONDS = 60.0
MAX_CALLS = 4
_TRANSIENT = frozenset({408, 429})


class SupabaseMediaStore(MediaStore):
    """`key` is the secret (service) key. `http_client` is the shared one for media; it is not ours to close. The bucket
    is made with the first file if it is not there, and it is not public."""

    def __init__(self, url: str, key: str, http_client: AsyncClient) -> None:
        self._headers = {"apikey": key, "authorization": f"Bearer {key}"}
        self._url, self._http_client = f"{url}/storage/v1/", http_client
        self._policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=CircuitBreaker(DEPENDENCY, BreakerPolicy(5, 5.0, max_open_seconds=30.0)),
            attempt_timeout_seconds=ATTEMPT_SECONDS,
            max_attempts=3,
            slots=Slots(MAX_CALLS),
            patience_seconds=CALL_SECONDS,
        )

    async def put(self, media_id: str, pieces: AsyncIterator[bytes], *, mime: str) -> None:
        """Through a file of this machine, so that neither memory nor a failed upload asks for the pieces again. It has
        no name: a worker that is killed leaves nothing of it."""
        with tempfile.TemporaryFile() as file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.flush)
            try:
                await self._call(self._upload, media_id, file.fileno(), mime)
            except NotFound:
                await self._call(self._make_bucket)
                await self._call(self._upload, media_id, file.fileno(), mime)

    async def size(self, media_id: str) -> int | None:
        try:
            info = await self._call(self._bucket().info, media_id)
        except NotFound:
            return None
        size = info.get("size", info.get("contentLength"))
        return int(size) if size is not None else None

    async def read(self, media_id: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        size = await self.size(media_id)
        if size is None:
            raise NotFound("media")
        end = size if end is None else min(end, size)
        while start < end:
            stop = min(end, start + PIECE_BYTES)
            piece = await self._call(self._download, media_id, start, stop)
            if len(piece) != stop - start:
                raise Unavailable(DEPENDENCY, "supabase storage: a part of a file of another length than asked for")
            yield piece
            start = stop

    async def delete(self, media_ids: Sequence[str]) -> None:
        if media_ids:
            await self._call(self._bucket().remove, list(media_ids))

    async def _upload(self, media_id: str, descriptor: int, mime: str) -> None:
        with FileIO(descriptor, closefd=False) as file:
            file.seek(0)  # each attempt from the start
            await self._bucket().upload(media_id, file, {"content-type": mime, "upsert": "true"})

    async def _download(self, media_id: str, start: int, stop: int) -> bytes:
        return await self._bucket({"range": f"bytes={start}-{stop - 1}"}).download(media_id)

    def _bucket(self, headers: Mapping[str, str] | None = None) -> AsyncBucketProxy:
        """storage3 has no headers for one call of a download: they belong to the client, which holds nothing else."""
        client = AsyncStorageClient(self._url, {**self._headers, **(headers or {})}, http_client=self._http_client)
        return client.from_(BUCKET)

    async def _make_bucket(self) -> None:
        try:
            storage = AsyncStorageClient(self._url, self._headers, http_client=self._http_client)
            await storage.create_bucket(BUCKET, options={"public": False})
        except StorageApiError as exc:
            if _status(exc) != 409:  # another replica made it
                raise

    async def _call(self, fn: Callable[..., Awaitable[T]], *args: object) -> T:
        return await self._policy.call(_translated, fn, args, deadline=Deadline.after(CALL_SECONDS))


async def _translated(fn: Callable[..., Awaitable[T]], args: tuple[object, ...]) -> T:
    """Its errors as ours. The texts are Storage's own and stay out of logs."""
    try:
        return await fn(*args)
    except StorageApiError as exc:
        status = _status(exc)
        if status == 404 or "not found" in exc.message.lower():
            raise NotFound("media") from exc
        if status is None or status >= 500 or status in _TRANSIENT:
            raise Unavailable(DEPENDENCY, f"supabase storage: HTTP {status}") from exc
        if status in (401, 403):
            raise Unavailable(DEPENDENCY, f"supabase storage: HTTP {status}, check SUPABASE_KEY") from exc
        raise
    except StorageException as exc:
        raise Unavailable(DEPENDENCY, f"supabase storage: {type(exc).__name__}") from exc
    except Exception as exc:
        if is_pool_full(exc):
            raise Overloaded(DEPENDENCY, "supabase storage: no connection free") from exc
        if not is_network_error(exc):
            raise
        raise Unavailable(DEPENDENCY, f"supabase storage: {type(exc).__name__}") from exc


def _status(exc: StorageApiError) -> int | None:
    return int(exc.status) if str(exc.status).isdecimal() else None
