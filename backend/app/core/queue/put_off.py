"""Mailboxes that were put off until later, and what makes them due at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from app.core.queue.shards import Shards
from app.core.redis.script import Script

WAKE = Script("queue_wake")
MAILBOXES = 1000
"""Looked at in one call: bounds the time the server spends in the script."""
GROUPS = 200


async def wake(shards: Shards, groups: Sequence[str] | None, most: float) -> int:
    """See `Queue.wake`."""
    woken = 0
    for shard in range(len(shards)):
        if groups is not None:
            for group in groups:
                woken += await _wake(shards, shard, group, most - woken)
        else:
            async for waiting in _waiting(shards, shard):
                woken += await _wake(shards, shard, waiting, most - woken)
                if woken >= most:
                    return woken
    return woken


async def _wake(shards: Shards, shard: int, group: str | bytes, most: float) -> int:
    woken = passed_over = 0
    while woken < most:
        limit = int(min(MAILBOXES, most - woken))
        due, left_alone = await shards.call(WAKE, shard, (group, passed_over, limit))
        woken, passed_over = woken + int(due), passed_over + int(left_alone)
        if due + left_alone < limit:
            break
    return woken


async def _waiting(shards: Shards, shard: int) -> AsyncIterator[bytes]:
    """Every group that has something waiting from beginning to end; some may come twice."""
    key, cursor = f"{shards.prefixes[shard]}groups", 0
    while True:
        answer: Any = await shards.ask("groups", shard, "ZSCAN", key, cursor, "COUNT", GROUPS)
        cursor, page = answer
        for group, _ in page:
            yield group
        if cursor == 0:
            return
