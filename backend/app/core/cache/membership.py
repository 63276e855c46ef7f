"""Connects a cache with the others of the fleet."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.cache.link import RedisLink
from app.core.cache.listener import Listener
from app.core.cache.shard import Shard
from app.core.cache.shared import SharedTier
from app.core.cache.tiers import Cache
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.redis import Redis, Subscription, connect

logger = logging.getLogger("app.core.cache")

JOIN_SECONDS = 1.0
"""How long a start waits for the channel. Later is fine too: until then reads go past memory."""
MAX_CONNECTIONS = 50


@asynccontextmanager
async def join_fleet(
    cache: Cache, url: str, *, namespace: str, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[SharedTier]:
    """`cache` shares what it holds with every cache joined under the same `namespace`, until the end of the block.

    A Redis that is away delays the start by a second and prevents nothing.
    """
    # Every call is bounded in the link; a time limit in the client as well costs 30 µs a call.
    commands = connect(url, timeout_seconds=None, max_connections=MAX_CONNECTIONS, name="chorus-cache")
    channels = connect(url, timeout_seconds=None, name="chorus-cache-channel", protocol=2, any_node=True)
    origin = secrets.token_hex(8)
    shard = Shard(RedisLink(commands, clock=clock), prefix=f"{namespace}:{{c0}}:", origin=origin)
    shared = SharedTier([shard], clock=clock)
    listeners = [Listener(shard, lambda topic: Subscription.open(channels, topic), clock=clock)]
    cache.join(shared)
    tasks = [asyncio.create_task(listener.run(), name="cache channel") for listener in listeners]
    tasks.append(asyncio.create_task(shared.recover(), name="cache recovery"))
    try:
        opening = [asyncio.create_task(listener.opened.wait()) for listener in listeners]
        _, late = await asyncio.wait(opening, timeout=JOIN_SECONDS)
        for waiting in late:
            waiting.cancel()
        yield shared
    finally:
        cache.leave()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _close(commands)
        await _close(channels)


async def _close(client: Redis) -> None:
    try:
        await client.aclose()
    except OSError as exc:
        logger.debug("closing a connection to Redis failed", exc_info=exc)
