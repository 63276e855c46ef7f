"""The loop of a worker of one queue: claim what is due for free slots, keep the leases, drain."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Counts
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from app.core.errors import Unavailable
from app.core.queue import Claim, Queue

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
QUEUE_RETRY_SECONDS = 0.5
"""Pause after the queue itself could not be reached; work resumes within a second of its return."""


class ClaimLoop:
    """At most `slots` claims at a time, `per_group` of them of one group, and fewer when few slots are free: no more
    than an eighth of these, and half of them in one go. So groups that hang, however many, leave some to the others."""

    def __init__(
        self,
        queue: Queue,
        handle: Callable[[Claim], Awaitable[None]],
        *,
        slots: int,
        per_group: int,
        taken: Callable[[], Mapping[str, int]],
        may_claim: Callable[[], bool],
        on_beat: Callable[[], None],
    ) -> None:
        """`handle` ends its claim in every case. `taken`: slots of groups that are not to be used now. `may_claim`:
        while it says no, nothing new is taken."""
        self._queue = queue
        self._handle = handle
        self._slots = slots
        self._per_group = per_group
        self._taken = taken
        self._may_claim = may_claim
        self._on_beat = on_beat
        self._held: dict[asyncio.Task[None], Claim] = {}
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def active(self) -> int:
        """Claims being handled right now."""
        return len(self._held)

    async def run(self) -> None:
        """Claim and dispatch until `drain`."""
        while not self._stopping.is_set():
            self._on_beat()
            if not self._may_claim():
                await self._pause(QUEUE_RETRY_SECONDS)
                continue
            try:
                await self._claim_once()
            except Unavailable as exc:
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
        """Take nothing new; let what is held finish for `grace_seconds`, then cancel it. Idempotent."""
        self._stopping.set()
        self._slot_freed.set()
        if self._held:
            await asyncio.wait(self._held, timeout=grace_seconds)
        for task in list(self._held):
            task.cancel("drain")
        if self._held:
            await asyncio.wait(self._held, timeout=self._queue.lease_seconds)

    async def _claim_once(self) -> None:
        self._slot_freed.clear()
        free = self._slots - len(self._held)
        if free <= 0:
            with suppress(TimeoutError):  # a beat now and then also while everything is busy
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._slot_freed.wait()
            return
        per_group = max(1, min(self._per_group, free // 8))
        held = Counts(Queue.group_of(claim.mailbox) for claim in self._held.values())
        held.update(self._taken())
        claims = await self._queue.claim(max(1, free // 2), held=held, per_group=per_group)
        for claim in claims:
            task = asyncio.create_task(self._run_one(claim), name=f"handle {claim.token}")
            self._held[task] = claim
            task.add_done_callback(self._release)
        if not claims:
            await self._wait(also_for_a_slot=max(held.values(), default=0) >= per_group)

    async def _run_one(self, claim: Claim) -> None:
        await self._handle(claim)

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
