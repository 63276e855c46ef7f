"""The cache's own clients: one for commands, wherever the keys live, and one for its channels."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.core.redis import Express, Redis, RedisError, connect, is_cluster, is_single, scan

CLOSE_SECONDS = 1.0
SPARE_CONNECTIONS = 20


class Servers:
    """One server, a primary behind Sentinel, or a Cluster: what the URL says (core/redis_url.py).

    The clients have no time limit of their own: every call is bounded where it is made, and a second limit would cost
    30 µs a call. Whoever holds one of the `slots` gets a connection; a few are kept for what must not wait.
    More slots would not be faster: one process keeps a handful of connections busy at most, and opening them costs a
    millisecond of its time each.
    """

    def __init__(self, url: str, *, name: str, slots: int = 16) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.is_cluster = is_cluster(url)
        self._client: Redis = connect(url, timeout_seconds=None, max_connections=slots + SPARE_CONNECTIONS, name=name)
        # Behind Sentinel a connection must be asked again and again whether it still leads to the primary.
        self._express = Express(self._client) if is_single(url) else None
        self.commands: Redis | Express = self._express or self._client
        self.closed = False
        self.channels: Redis = connect(url, timeout_seconds=None, name=f"{name}-channel", protocol=2, any_node=True)

    async def scan(self, cursor: int, *, match: str, count: int) -> tuple[int, list[bytes]]:
        """A page of keys; `match` carries the shard's hash tag."""
        return await scan(self._client, cursor, match=match, count=count)

    async def distrust(self, *, silent_since: float) -> None:
        """A call was not answered in time: idle connections that have not answered since then may lead nowhere too."""
        if self._express is not None:
            await self._express.drop_idle(silent_since=silent_since)

    async def aclose(self) -> None:
        """From now on nobody may use them: redis-py would open connections that nobody closes."""
        self.closed = True
        if self._express is not None:
            await self._express.aclose()
        for client in (self._client, self.channels):
            # A server that hangs does not keep us from leaving.
            with suppress(OSError, RedisError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.aclose()
