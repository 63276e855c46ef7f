"""Group commit for the outbox: what deliveries ask of it while a call is under way shares the next one.

An event on its own costs a transaction to load and one to settle; under load they are shared by all that is being
delivered. Who asks waits for the call that carries it, so nothing is taken as settled before its commit.

Receivers cost each other nothing here either: a call that waits for a lock does not keep the next one back, and what
fails together is tried once more, each on its own. (`core/queue/batcher.py` keeps calls in order instead: a slow one
holds the next.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from app.core.slots import Caller, Rank, calling_as
from app.domain.endpoints import Load, Loaded, Settled, Settlement
from app.domain.ports import OutboxStore

MAX_ITEMS = 50
"""Of one call."""
MAX_CALLS = 8
SLOW_SECONDS = 0.1
"""A call that has been out for longer keeps nothing back."""


class _Waiting(NamedTuple):
    asked: Load | Settlement
    answer: asyncio.Future[Any]


class OutboxCalls:
    """One call is under way at a time, or several slow ones. What a cancelled caller asked for is carried out all the
    same."""

    def __init__(self, store: OutboxStore) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def load(self, endpoint_id: str, ids: tuple[str, ...]) -> Loaded:
        """As `OutboxStore.outbox_work`."""
        loaded: Loaded = await self._submit(Load(endpoint_id, ids))
        return loaded

    async def settle(self, settlement: Settlement) -> Settled:
        """As `OutboxStore.outbox_work`."""
        settled: Settled = await self._submit(settlement)
        return settled

    def _submit(self, asked: Load | Settlement) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(asked, answer))
        if self._task is None:
            # Starts with the next turn of the loop: it finds all that was asked for in this one.
            self._task = asyncio.create_task(self._work(), name="outbox calls")
        return answer

    async def _work(self) -> None:
        try:
            with calling_as(Caller(Rank.BACKGROUND)):
                while self._waiting:
                    batch = [self._waiting.popleft() for _ in range(min(MAX_ITEMS, len(self._waiting)))]
                    call = asyncio.create_task(self._carry_out(batch), name="outbox call")
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                    await asyncio.wait([call], timeout=SLOW_SECONDS)
                    while len(self._calls) >= MAX_CALLS:
                        await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popleft().answer.cancel()

    async def _carry_out(self, batch: list[_Waiting]) -> None:
        loads = [each for each in batch if isinstance(each.asked, Load)]
        settlements = [each for each in batch if isinstance(each.asked, Settlement)]
        try:
            settled, loaded = await self._store.outbox_work(
                [each.asked for each in settlements if isinstance(each.asked, Settlement)],
                [each.asked for each in loads if isinstance(each.asked, Load)],
            )
        except Exception as exc:  # noqa: BLE001  those who wait must hear of it, also of a bug
            if len(batch) == 1:
                _end(batch, [exc])
            else:  # one of them waits for a lock, or cannot be carried out at all: the others can
                await asyncio.gather(*(self._carry_out([each]) for each in batch))
        else:
            _end(settlements, settled)
            _end(loads, loaded)
        finally:
            for each in batch:
                each.answer.cancel()


def _end(batch: list[_Waiting], answers: Any) -> None:
    for each, answer in zip(batch, answers, strict=True):
        if each.answer.done():
            continue
        if isinstance(answer, Exception):
            each.answer.set_exception(answer)
        else:
            each.answer.set_result(answer)
