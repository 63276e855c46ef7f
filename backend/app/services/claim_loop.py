"""The loop of a worker of one queue: claim what is due for free slots, keep the leases, drain.

    loop = ClaimLoop(queue, handle, room=room, may_claim=may_claim, on_beat=on_beat)
    start("worker", loop.run); start("lease_renewal", loop.renew)      # two tasks: leases are kept while Redis is slow
    await loop.drain(grace_seconds)

What it does not do: judge. The handler tells the queue how a claim went, through `tell`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Counts
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from app.core.errors import Unavailable
from app.core.queue import Claim, Queue

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
QUEUE_RETRY_SECONDS = 0.5
"""Pause after the queue itself could not be reached; work resumes within a second of its return."""


class Room(NamedTuple):
    """What may be claimed now: `free` claims, none if it is not above 0, and so many that one group holds no more than
    `per_group`. `taken`: slots of groups that are not to be used."""

    free: int
    per_group: int
    taken: Mapping[str, int] = {}


class ClaimLoop:
    """Claims what there is room for and runs a handler for each claim. It never waits for one that hangs."""

    def __init__(
        self,
        queue: Queue,
        handle: Callable[[Claim], Coroutine[Any, Any, None]],
        *,
        room: Callable[[int], Room],
        may_claim: Callable[[], bool],
        on_beat: Callable[[], None],
        on_queue_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`handle` ends its claim in every case. `room`: asked before every claim, with the number of claims that are
        held. `may_claim`: while it says no, nothing new is taken."""
        self._queue = queue
        self._handle = handle
        self._room = room
        self._may_claim = may_claim
        self._on_beat = on_beat
        self._on_queue_away = on_queue_away
        self._held: dict[asyncio.Task[None], Claim] = {}
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def active(self) -> int:
        """Claims being handled right now."""
        return len(self._held)

    def stop_claiming(self) -> None:
        """Finish what is held, take nothing new. `run` returns soon after; idempotent."""
        self._stopping.set()
        self._slot_freed.set()

    async def run(self) -> None:
        """Claim and dispatch until `stop_claiming`."""
        while not self._stopping.is_set():
            self._on_beat()
            if not self._may_claim():
                await self._pause(QUEUE_RETRY_SECONDS)
                continue
            try:
                await self._claim_once()
            except Unavailable as exc:
                self._on_queue_away()
                logger.warning("queue unavailable", extra={"reason": str(exc)})
                await self._pause(QUEUE_RETRY_SECONDS)

    async def renew(self) -> None:
        """Extend every held lease, three times per lease; one that is lost ends its handling."""
        while True:
            await asyncio.sleep(self._queue.lease_seconds / 3)
            if not self._held:
                continue
            try:
                lost = await self._queue.extend(list(self._held.values()))
            except Unavailable as exc:
                # Handlers check `held_until` before every side effect, so they stop by themselves in time.
                logger.warning("could not extend leases", extra={"held": len(self._held), "reason": str(exc)})
                continue
            for task, claim in list(self._held.items()):
                if claim in lost:
                    task.cancel("lease lost")

    async def drain(self, grace_seconds: float) -> None:
        """Let what is held finish for `grace_seconds`, then cancel it: handlers give it back, attempt not counted."""
        self.stop_claiming()
        if self._held:
            await asyncio.wait(self._held, timeout=grace_seconds)
        for task in list(self._held):
            task.cancel("drain")
        if self._held:
            await asyncio.wait(self._held, timeout=self._queue.lease_seconds)

    def cancel(self, reason: str, which: Callable[[Claim], bool]) -> None:
        """The handlers of those claims, unless they are cancelled already."""
        for task, claim in list(self._held.items()):
            if which(claim) and not task.cancelling():
                task.cancel(reason)

    async def tell(self, verdict: Callable[[], Awaitable[bool]]) -> bool:
        """Deliver a verdict, also to a queue that is away for a moment: one that is lost costs the event an attempt
        when the lease runs out, and it was not the event's fault. To repeat one that was carried out does nothing.
        Raises `Unavailable` after a lease's time."""
        deadline = time.monotonic() + self._queue.lease_seconds
        while True:
            try:
                return await verdict()
            except Unavailable:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(QUEUE_RETRY_SECONDS)

    async def _claim_once(self) -> None:
        self._slot_freed.clear()
        free, per_group, taken = self._room(len(self._held))
        if free <= 0:
            with suppress(TimeoutError):  # a beat now and then also while everything is busy
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._slot_freed.wait()
            return
        held = Counts(Queue.group_of(claim.mailbox) for claim in self._held.values())
        held.update(taken)
        claims = await self._queue.claim(free, held=held, per_group=per_group)
        for claim in claims:
            task = asyncio.create_task(self._handle(claim), name=f"handle {claim.token}")
            self._held[task] = claim
            task.add_done_callback(self._release)
        if len(claims) < free:  # nothing else was due: to ask at once would cost as much as the claim
            held.update(Queue.group_of(claim.mailbox) for claim in claims)
            await self._wait(also_for_a_slot=max(held.values(), default=0) >= per_group)

    async def _wait(self, *, also_for_a_slot: bool) -> None:
        """For work; also for a slot if a group has all it may have: what it left in the queue is not waited for."""
        if not also_for_a_slot:
            await self._queue.wait()
            return
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(self._queue.wait()), group.create_task(self._slot_freed.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def _release(self, task: asyncio.Task[None]) -> None:
        del self._held[task]
        self._slot_freed.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("a handler failed outside its own error handling", exc_info=exc)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
