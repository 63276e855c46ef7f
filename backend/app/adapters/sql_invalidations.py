"""What the database remembers for the caches, over the SQL functions of `sql_store`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from app.domain.models import Invalidation
from app.domain.ports import InvalidationStore

_INVALIDATIONS = TypeAdapter(tuple[Invalidation, ...])


class SqlInvalidations(InvalidationStore):
    @abstractmethod
    async def _call(self, operation: str, /, **p: Any) -> Any: ...

    async def pending_invalidations(self, *, limit: int) -> tuple[Invalidation, ...]:
        return _INVALIDATIONS.validate_python(await self._call("pending_invalidations", limit=limit))

    async def settle_invalidations(self, ids: Sequence[int]) -> None:
        await self._call("settle_invalidations", ids=ids)

    async def wait_for_invalidations(self, timeout_seconds: float) -> None:
        """Nobody notifies over REST."""
        await asyncio.sleep(timeout_seconds)

    async def ignore_invalidations(self) -> None:
        """Nobody listens."""
