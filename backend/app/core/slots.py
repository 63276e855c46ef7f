"""A limited number of places for calls to one dependency, and who gets the next one.

    with calling_as(Caller(Rank.BACKGROUND, "account 7")):             # what the calls of this task are for
        caller = CALLER.get()
        await slots.enter(caller, timeout_seconds)                     # in order, or `TimeoutError`
        try: ...
        finally: slots.leave(caller)

1. A free place is taken at once. Otherwise a call waits: more urgent ranks first, within a rank in order of arrival.
2. No rank but URGENT gets the last `kept` places, and neither of the others more than `per_rank`: people who look at a
   page never wait for work in the background, and the other way round.
3. One group (an account) has at most `per_group` places, whatever its rank: when its calls are stuck, those of the
   others go on. A call whose group has all it may have is passed over by those behind it.

What it does not do: bound the call itself, or say anything about the dependency.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import IntEnum
from typing import NamedTuple


class Rank(IntEnum):
    """What a call is for. The lower number goes first."""

    URGENT = 0
    """What must not wait for anything else."""
    INTERACTIVE = 1
    """A person or a webhook waits for it."""
    BACKGROUND = 2


class Caller(NamedTuple):
    """`group` `""`: none."""

    rank: Rank = Rank.INTERACTIVE
    group: str = ""


CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039  a tuple: it cannot be changed


@contextmanager
def calling_as(caller: Caller) -> Iterator[None]:
    """What is called in this block, and by the tasks that it starts, is for `caller`."""
    token = CALLER.set(caller)
    try:
        yield
    finally:
        CALLER.reset(token)


class _Waiting(NamedTuple):
    caller: Caller
    admitted: asyncio.Future[None]


class Slots:
    """`total` places; the other numbers default to no limit of their own."""

    def __init__(self, total: int, *, kept: int = 0, per_rank: int | None = None, per_group: int | None = None) -> None:
        if not 0 <= kept < total or min(per_rank or 1, per_group or 1) < 1:
            raise ValueError(f"{total} places cannot be shared with kept={kept}")
        self.total = total
        self._kept = kept
        self._per_rank = per_rank or total
        self._per_group = per_group or total
        self.taken = 0
        self._by_rank = [0] * len(Rank)
        self._by_group: Counter[str] = Counter()
        self._waiting: dict[Rank, deque[_Waiting]] = {rank: deque() for rank in Rank}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def try_enter(self, caller: Caller) -> bool:
        """Take a place if `caller` may have one now. It overtakes no call: one that waits may not have it."""
        if not self._may_enter(caller):
            return False
        self._take(caller)
        return True

    async def enter(self, caller: Caller, timeout_seconds: float) -> None:
        """Take a place; `leave` gives it back. Raises `TimeoutError`, then there is none to give back."""
        if self.try_enter(caller):
            return
        waiting = _Waiting(caller, asyncio.get_running_loop().create_future())
        self._waiting[caller.rank].append(waiting)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiting.admitted
        except BaseException:
            if waiting.admitted.done() and not waiting.admitted.cancelled():
                self.leave(caller)  # the place came at the moment when the caller was cancelled
            with suppress(ValueError):
                self._waiting[caller.rank].remove(waiting)
            raise

    def leave(self, caller: Caller) -> None:
        """Give the place back to whom it is due."""
        self.taken -= 1
        self._by_rank[caller.rank] -= 1
        if caller.group:
            self._by_group[caller.group] -= 1
            if not self._by_group[caller.group]:
                del self._by_group[caller.group]
        self._admit()

    def _admit(self) -> None:
        for rank, queue in self._waiting.items():
            for waiting in list(queue):
                if not self._has_room(rank):
                    break  # none of those behind it may have one either, whatever their groups
                if self._may_enter(waiting.caller):
                    queue.remove(waiting)
                    if not waiting.admitted.done():  # else its time is up, and it has not run yet
                        self._take(waiting.caller)
                        waiting.admitted.set_result(None)

    def _may_enter(self, caller: Caller) -> bool:
        rank, group = caller
        if group and self._by_group[group] >= self._per_group:
            return False
        return self._has_room(rank)

    def _has_room(self, rank: Rank) -> bool:
        if rank is Rank.URGENT:
            return self.taken < self.total
        return self.taken < self.total - self._kept and self._by_rank[rank] < self._per_rank

    def _take(self, caller: Caller) -> None:
        self.taken += 1
        self._by_rank[caller.rank] += 1
        if caller.group:
            self._by_group[caller.group] += 1
