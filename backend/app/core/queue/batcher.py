"""Group commit: what is asked for while a call is under way shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.clock import Clock
from app.core.queue.events import QueueUnavailable

BACKLOG_CALLS = 16
"""More waiting work than this many calls could carry is refused at once: Redis is not keeping up."""


@dataclass(slots=True)
class _Item:
    args: Sequence[Any]
    weight: int
    deadline: float
    future: asyncio.Future[Any]


class Batcher:
    """Collects items of one kind for one shard; one call is under way at a time, in the order of `submit`.

    A round trip costs the client some 200 µs of CPU whatever it carries, so concurrent callers share it: those of one
    turn of the event loop, and those that come while the call before is out. Each has its own answer and its own
    future; a cancelled caller stops waiting, its item is carried out all the same and the others notice nothing.
    """

    def __init__(
        self, send: Callable[[list[object], float], Awaitable[Sequence[object]]], *, max_weight: int, clock: Clock
    ) -> None:
        """`send(args, timeout_seconds)` makes the call with the items' args one after the other, and returns one
        answer an item. `max_weight` bounds a call; an item heavier than that goes alone."""
        self._send = send
        self._max_weight = max_weight
        self._clock = clock
        self._waiting: deque[_Item] = deque()
        self._weight = 0
        self._task: asyncio.Task[None] | None = None

    def submit(self, args: Sequence[Any], *, weight: int, timeout_seconds: float) -> asyncio.Future[Any]:
        """The future answer; fails with what `send` raises, `timeout_seconds` from now at the latest."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._weight >= BACKLOG_CALLS * self._max_weight:
            future.set_exception(QueueUnavailable("queue", "too much is waiting for Redis", retry_after=1.0))
            return future
        self._waiting.append(_Item(args, weight, self._clock.monotonic() + timeout_seconds, future))
        self._weight += weight
        if self._task is None:
            # Starts with the next turn of the loop, so it finds all that was asked for in this one.
            self._task = asyncio.create_task(self._drain())
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._flush(self._take())
        finally:
            self._task = None
            for item in self._take_all():
                item.future.cancel()

    async def _flush(self, batch: list[_Item]) -> None:
        try:
            # The oldest item's deadline; the younger ones would only repeat what just took too long.
            remaining = batch[0].deadline - self._clock.monotonic()
            answers = await self._send([arg for item in batch for arg in item.args], remaining)
            for item, answer in zip(batch, answers, strict=True):
                if not item.future.done():
                    item.future.set_result(answer)
        except Exception as exc:  # noqa: BLE001  those who wait must hear of it, also of a bug
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(exc)
        finally:
            for item in batch:
                item.future.cancel()

    def _take(self) -> list[_Item]:
        batch = [self._waiting.popleft()]
        weight = batch[0].weight
        while self._waiting and weight + self._waiting[0].weight <= self._max_weight:
            batch.append(self._waiting.popleft())
            weight += batch[-1].weight
        self._weight -= weight
        return batch

    def _take_all(self) -> list[_Item]:
        items = list(self._waiting)
        self._waiting.clear()
        self._weight = 0
        return items
