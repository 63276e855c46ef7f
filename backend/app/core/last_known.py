"""One short text that the replicas share: what the last one to look has seen. Lost with Redis; then it is `None`."""

from __future__ import annotations

from app.core.errors import Unavailable
from app.core.redis import Redis, RedisError, within

CALL_SECONDS = 1.0


class LastKnown:
    def __init__(self, redis: Redis, *, key: str) -> None:
        self._redis = redis
        self._key = key

    async def read(self) -> str | None:
        """Raises `Unavailable`."""
        try:
            found = await within(CALL_SECONDS, self._redis.get(self._key))
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
        return found.decode() if isinstance(found, bytes) else found

    async def write(self, text: str) -> None:
        """Raises `Unavailable`."""
        try:
            await within(CALL_SECONDS, self._redis.set(self._key, text))
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
