"""To whom the keys of a Redis namespace belong: the first who asks, until an operator says otherwise.

    bound = await Binding(redis, namespace="chorus").bind(identity)     # whose it is: `identity`, or the one before us

What it does not do: keep others out. Who is told another identity must leave the namespace alone.
"""

from __future__ import annotations

from app.core.errors import Unavailable
from app.core.redis import Redis, RedisError, Script, within

CALL_SECONDS = 1.0


class Binding:
    """Of one namespace on one Redis. Identities are opaque. Raises `Unavailable`."""

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        self._key = f"{namespace}:{{fleet}}:database"
        self._script = Script("namespace_bind")

    async def read(self) -> str | None:
        """`None`: it belongs to none yet."""
        return await self._run("read", "") or None

    async def bind(self, identity: str) -> str:
        """Make it ours unless it is another's; whose it is."""
        return await self._run("bind", identity) or identity

    async def rebind(self, identity: str) -> str | None:
        """Make it ours, whosever it was; whose that was."""
        return await self._run("rebind", identity) or None

    async def _run(self, verb: str, identity: str) -> str:
        try:
            bound: bytes = await within(CALL_SECONDS, self._script(self._redis, [self._key], [verb, identity]))
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", str(exc) or type(exc).__name__) from exc
        return bound.decode()
