"""Group commit without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.core.clock import SYSTEM_CLOCK
from app.core.queue import QueueUnavailable
from app.core.queue.batcher import BACKLOG_CALLS, Batcher


class Server:
    """Answers each item with its own argument, when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.timeouts: list[float] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def send(self, args: list[Any], timeout_seconds: float) -> Sequence[int]:
        self.calls.append(args)
        self.timeouts.append(timeout_seconds)
        await self.open.wait()
        if self.error:
            raise self.error
        return args

    def batcher(self, *, max_weight: int = 4) -> Batcher:
        return Batcher(self.send, max_weight=max_weight, clock=SYSTEM_CLOCK)


async def test_items_of_one_turn_and_of_one_call_share_the_next_call_in_order() -> None:
    server = Server()
    batcher = server.batcher()
    first = [batcher.submit([n], weight=1, timeout_seconds=1) for n in (1, 2)]
    server.open.clear()
    await asyncio.sleep(0)
    later = [batcher.submit([n], weight=1, timeout_seconds=1) for n in (3, 4, 5)]
    server.open.set()
    assert await asyncio.gather(*first, *later) == [1, 2, 3, 4, 5]
    assert server.calls == [[1, 2], [3, 4, 5]]


async def test_call_carries_at_most_its_weight_but_at_least_one_item() -> None:
    server = Server()
    batcher = server.batcher(max_weight=4)
    futures = [batcher.submit([w], weight=w, timeout_seconds=1) for w in (3, 1, 9, 2, 3)]
    assert await asyncio.gather(*futures) == [3, 1, 9, 2, 3]
    assert server.calls == [[3, 1], [9], [2], [3]]


async def test_call_has_the_time_that_its_oldest_item_has_left() -> None:
    server = Server()
    batcher = server.batcher()
    futures = [batcher.submit([1], weight=1, timeout_seconds=t) for t in (5, 90)]
    await asyncio.gather(*futures)
    assert 4 < server.timeouts[0] <= 5


async def test_failure_reaches_every_caller_and_the_next_call_is_tried_afresh() -> None:
    server = Server()
    batcher = server.batcher()
    server.error = QueueUnavailable("queue", "away")
    futures = [batcher.submit([n], weight=1, timeout_seconds=1) for n in (1, 2)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert results == [server.error] * 2
    server.error = None
    assert await batcher.submit([3], weight=1, timeout_seconds=1) == 3


async def test_backlog_is_bounded() -> None:
    server = Server()
    server.open.clear()
    batcher = server.batcher(max_weight=2)
    taken = [batcher.submit([n], weight=1, timeout_seconds=1) for n in range(2 * BACKLOG_CALLS)]
    with pytest.raises(QueueUnavailable, match="too much"):
        await batcher.submit([0], weight=1, timeout_seconds=1)
    server.open.set()
    assert await asyncio.gather(*taken) == list(range(2 * BACKLOG_CALLS))
