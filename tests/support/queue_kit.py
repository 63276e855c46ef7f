"""Queues on a real Valkey, as several replicas would have them, with times short enough for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from app.core.queue import Claim, Event, Queue, QueuePolicy
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door, DoorTimings

_serial = count(1)


class Replicas:
    """Makes queues that share one server; closes them all at the end."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.redis = self.client()

    def client(self) -> Redis:
        client = connect(self._url)
        self._stack.push_async_callback(client.aclose)
        return client

    def door(self) -> Door:
        """One that waits for an answer longer than the product does: a busy machine is late sometimes."""
        door = Door.to(self._url, timings=DoorTimings(answer_seconds=10.0))
        self._stack.push_async_callback(door.aclose)
        return door

    def queue(self, *, door: Door | None = None, shards: int = 1, **given: Any) -> Queue:
        """`given`: of the policy, or other arguments of `Queue`."""
        others: dict[str, Any] = {name: given.pop(name) for name in ("ingest", "metrics", "namespace") if name in given}
        chosen: dict[str, Any] = {"debounce_seconds": 0.0, "max_pending": 10_000, "put_timeout_seconds": 10.0} | given
        whole: dict[str, Any] = {"policy": QueuePolicy(**chosen), "namespace": "test", "shards": shards, **others}
        queue = Queue(door or self.door(), self.door(), **whole)
        self._stack.push_async_callback(queue.aclose)
        return queue

    async def due_ms(self, mailbox: str) -> int:
        """When a waiting mailbox is due, by the server's clock."""
        score = await self.redis.zscore(f"test:{{q0}}:r:{Queue.group_of(mailbox)}", mailbox)
        assert score is not None, f"{mailbox} is not waiting"
        return int(score)

    async def calls(self, command: str = "evalsha") -> int:
        return int((await self.redis.info("commandstats")).get(f"cmdstat_{command}", {}).get("calls", 0))

    async def blocked(self, count: int) -> None:
        """Returns when the server knows of `count` waiting connections."""

        async def reached() -> bool:
            return int((await self.redis.info("clients"))["blocked_clients"]) >= count

        await eventually(reached)


def event(mailbox: str = "m", event_id: str | None = None, *, immediate: bool = False) -> Event:
    return Event(event_id or f"id{next(_serial)}", mailbox, b"payload", immediate)


def ids(claim: Claim) -> list[str]:
    return [event.id for event in claim.events]


def full_twentieth(ms: int) -> int:
    """As mailboxes that gather are due: of a second, that or before."""
    return ms - ms % 50


def accepted_ms(claim: Claim) -> list[int]:
    return [round(event.accepted_at * 1000) for event in claim.events]


async def claim_one(queue: Queue) -> Claim:
    """The next conversation that falls due."""
    async with asyncio.timeout(10):
        while not (claims := await queue.claim(1)):
            await queue.wait()
    return claims[0]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def waiting(replicas: Replicas, queue: Queue, *, blocked: int = 1) -> asyncio.Task[None]:
    """A replica that found nothing and waits; by now so many blocking pops are out, its own included."""
    assert await queue.claim(1) == []
    task = asyncio.create_task(queue.wait())
    await replicas.blocked(blocked)
    return task
