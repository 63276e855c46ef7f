"""What an upstream answered, kept in Redis until the database can take it.

    await receipts.note("wamid.1#0", "wamid.2")     # the database did not take it
    await receipts.find("wamid.1#0")                # "wamid.2", by any replica

What it does not do: serve as the record. An ordinary call writes to the database alone, and a receipt is gone after
`KEEP_SECONDS`.
"""

from __future__ import annotations

from typing import Any

from app.core.errors import Unavailable
from app.core.redis import Redis, RedisError, within

KEEP_SECONDS = 86400
CALL_SECONDS = 1.0


class Receipts:
    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        self._prefix = f"{namespace}:receipt:"

    async def note(self, key: str, answer: str) -> None:
        """Raises `Unavailable`; whether it was written is then unknown."""
        try:
            await within(CALL_SECONDS, self._redis.set(self._prefix + key, answer, ex=KEEP_SECONDS))
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc

    async def find(self, key: str) -> str | None:
        """`None`: nobody noted one. Raises `Unavailable`."""
        try:
            found: Any = await within(CALL_SECONDS, self._redis.get(self._prefix + key))
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
        return None if found is None else str(found, "utf-8")
