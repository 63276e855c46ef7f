"""The mailbox queue: one event for each of as many conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from app.core.queue import Claim, Event, Queue, QueuePolicy
from app.core.redis.door import Door
from tests.bench.queue_child import PAYLOAD, REDIS_URL, SLOTS, Contender, Put, main


@asynccontextmanager
async def _queue() -> AsyncIterator[Queue]:
    async with AsyncExitStack() as stack:
        doors = [Door.to(REDIS_URL), Door.to(REDIS_URL)]
        for door in doors:
            stack.push_async_callback(door.aclose)
        queue = Queue(
            *doors, policy=QueuePolicy(debounce_seconds=0, max_pending=1_000_000, max_bytes=10**10), namespace="bench"
        )
        stack.push_async_callback(queue.aclose)
        yield queue


class Chorus(Contender):
    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Put]:
        async with _queue() as queue:
            yield lambda n: queue.put([Event(f"wamid.{n}", f"conversation:{n}", PAYLOAD.encode())])

    @asynccontextmanager
    async def worker(self, handled: Callable[[], None]) -> AsyncIterator[None]:
        async with _queue() as queue:
            working = asyncio.create_task(_work(queue, handled))
            yield
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


async def _work(queue: Queue, handled: Callable[[], None]) -> None:
    """As `InboxWorker` does it: claims for free slots only, a task for each conversation, its verdict on its own."""
    held: set[asyncio.Task[None]] = set()

    async def handle(claim: Claim) -> None:
        if not await queue.done(claim):
            raise RuntimeError("the claim was lost")
        handled()

    while True:
        if len(held) >= SLOTS:
            await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        claims = await queue.claim(SLOTS - len(held))
        for claim in claims:
            task = asyncio.create_task(handle(claim))
            held.add(task)
            task.add_done_callback(held.discard)
        if not claims:
            await queue.wait()


if __name__ == "__main__":
    main(Chorus())
