"""taskiq with taskiq-redis' stream broker, the one that acknowledges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from tests.bench.queue_child import PAYLOAD, REDIS_URL, SLOTS, Contender, Put, main


class Taskiq(Contender):
    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Put]:
        broker = RedisStreamBroker(REDIS_URL, consumer_id="0")
        task = broker.task(task_name="job")(_nothing)
        await broker.startup()
        yield lambda _: task.kiq(PAYLOAD)
        await broker.shutdown()

    @asynccontextmanager
    async def worker(self, handled: Callable[[], None]) -> AsyncIterator[None]:
        broker = RedisStreamBroker(REDIS_URL, consumer_id="0")

        @broker.task(task_name="job")
        async def job(_: str) -> None:
            handled()

        receiving = asyncio.create_task(run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True))
        yield
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving
        await broker.shutdown()


async def _nothing(_: str) -> None:
    """What a producer knows of the job."""


if __name__ == "__main__":
    logging.getLogger("taskiq").setLevel(logging.ERROR)  # it warns of our ending the round
    main(Taskiq())
