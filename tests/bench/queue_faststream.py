"""FastStream on a Redis stream with a consumer group: one job a message, acknowledged after it was handled."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from tests.bench.queue_child import PAYLOAD, REDIS_URL, SLOTS, Contender, Put, main

STREAM, GROUP = "jobs", "workers"


class FastStream(Contender):
    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Put]:
        async with Redis.from_url(REDIS_URL) as client:
            # From the stream's beginning; a group that FastStream creates skips what was put before.
            await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        async with RedisBroker(REDIS_URL, logger=None) as broker:
            yield lambda _: broker.publish(PAYLOAD, stream=STREAM)

    @asynccontextmanager
    async def worker(self, handled: Callable[[], None]) -> AsyncIterator[None]:
        broker = RedisBroker(REDIS_URL, logger=None)
        jobs = StreamSub(STREAM, group=GROUP, consumer=str(os.getpid()), max_records=SLOTS)

        @broker.subscriber(stream=jobs, max_workers=SLOTS, ack_policy=AckPolicy.ACK)
        async def handle(_: str) -> None:
            handled()

        async with broker:
            await broker.start()
            yield


if __name__ == "__main__":
    main(FastStream())
