"""One worker or producer process of the queue benchmark. Standard library and uvloop only: the peers run it too."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager

import uvloop

from tests.bench.child import answer_commands

SLOTS = 50
"""Jobs that one worker process handles at a time."""
PAYLOAD = "x" * 1100
IDLE_SECONDS = 0.7
"""A worker that has heard of nothing for so long has no more to do."""
START_SECONDS = 10.0
REDIS_URL = os.environ["REDIS_URL"]

Put = Callable[[int], Awaitable[object]]


class Contender(ABC):
    """A way to queue. `PAYLOAD` goes in with every job; nothing is done with it."""

    @abstractmethod
    def producer(self) -> AbstractAsyncContextManager[Put]:
        """`await put(n)` returns when job n is stored."""

    @abstractmethod
    def worker(self, handled: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Works through what was put while the block lasts, calling `handled` once for each job."""


def main(contender: Contender) -> None:
    answer_commands(
        {
            "ready": dict,
            "put": lambda count, producers: uvloop.run(_put(contender, count, producers)),
            "work": lambda start_at: uvloop.run(_work(contender, start_at)),
        }
    )


async def _put(contender: Contender, count: int, producers: int) -> dict[str, float]:
    """`producers` loops share the jobs; seconds until the last one is stored."""
    numbers = iter(range(count))

    async def produce(put: Put, numbers: Iterator[int]) -> None:
        for n in numbers:
            await put(n)

    async with contender.producer() as put:
        started = time.monotonic()
        await asyncio.gather(*(produce(put, numbers) for _ in range(producers)))
        return {"seconds": time.monotonic() - started}


async def _work(contender: Contender, start_at: float) -> dict[str, float]:
    """How many jobs were handled here, and when the last one was, by the machine's monotonic clock."""
    handled, last = 0, start_at

    def count() -> None:
        nonlocal handled, last
        handled += 1
        last = time.monotonic()

    await asyncio.sleep(start_at - time.monotonic())
    async with contender.worker(count):
        while time.monotonic() - last < (IDLE_SECONDS if handled else START_SECONDS):
            await asyncio.sleep(IDLE_SECONDS / 10)
    return {"handled": handled, "last": last}
