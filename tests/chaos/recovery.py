"""How long the conversations of a dead replica wait, seen in the queue's own keys and by the server's clock."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import RedisError

from .world import PREFIX

POLL_SECONDS = 0.05
RESUME_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A conversation of a dead replica that another one claimed. `inf`: nobody did."""

    seconds: float
    """From the death to the claim."""
    after_lease: float
    """From the end of its lease to the claim: the part that is ours to shorten."""
    free_slots: int
    """Of the workers that lived, the most that any look saw free between the end of the lease and the claim."""


@dataclass(frozen=True, slots=True)
class _Look:
    at_ms: float
    held: dict[bytes, tuple[bytes, float]]
    """mailbox -> fencing token, end of the lease in ms"""


@dataclass(frozen=True, slots=True)
class _Due:
    at_ms: float
    token: int
    due_ms: float
    """When the first conversation is, or was, due or its lease ends."""


class LeaseWatch:
    """Reads only. `own` is mailbox -> fencing token, `lease` mailbox -> end of the lease in ms (facts: queue keys)."""

    def __init__(self, server: redis.asyncio.Redis, *, lease_seconds: float, slots: int) -> None:
        self._redis = server
        self._lease_ms = lease_seconds * 1000
        self._slots = slots

    async def orphans_taken_over(self, died_at: float, *, within_seconds: float) -> list[TakeOver]:
        """Of each conversation of the replica that died at `died_at` (Unix seconds).

        An orphan is told by its lease: nobody extends or ends it, it runs out. A token starts at its claim's time in µs
        (queue_claim.lua), so it tells the time of a claim whenever we come to see it.
        """
        look = await self._look()
        waiting, taken, free = dict(look.held), [], dict.fromkeys(look.held, 0)
        deadline = time.monotonic() + within_seconds
        while waiting:
            await asyncio.sleep(POLL_SECONDS)
            before, look = look, await self._look()
            busy = len(look.held.items() - waiting.items())
            for box, (token, ends) in list(waiting.items()):
                now_token, now_ends = look.held.get(box, (b"", 0.0))
                if now_token == token and now_ends > ends:  # extended: its holder lives
                    del waiting[box]
                elif now_token == token or (not now_token and await self._is_only_reaped(box, ends)):
                    if look.at_ms >= ends:
                        free[box] = max(free[box], self._slots - busy)
                else:
                    del waiting[box]
                    # Claimed and finished between two looks: no later than this one.
                    claimed_ms = int(now_token) / 1000 if now_token else look.at_ms
                    # Before its end a lease is ended by a holder that lives.
                    if (claimed_ms if now_token else before.at_ms) >= ends:
                        taken.append(TakeOver(claimed_ms / 1000 - died_at, (claimed_ms - ends) / 1000, free[box]))
            if waiting and time.monotonic() > deadline:
                return [*taken, *(TakeOver(math.inf, math.inf, free[box]) for box in waiting)]
        return taken

    async def until_work_resumes(self, *, within_seconds: float) -> float | None:
        """From the first answer of a server that was away, or from when something is due if that is later, to the next
        claim; `None` when nothing was due in that time."""
        back = look = await self._due()
        while look.at_ms - back.at_ms < within_seconds * 1000:
            await asyncio.sleep(RESUME_POLL_SECONDS)
            before, look = look, await self._due()
            if look.token != back.token:
                late_ms = look.token / 1000 - max(back.at_ms, before.due_ms)
                return None if before.due_ms == math.inf else max(0.0, late_ms) / 1000
        return math.inf if look.due_ms < back.at_ms else None

    async def _due(self) -> _Due:
        """Asks until the server answers."""
        while True:
            try:
                async with self._redis.pipeline(transaction=True) as pipe:
                    pipe.time().get(f"{PREFIX}tok")
                    for schedule in ("groups", "lease"):
                        pipe.zrange(f"{PREFIX}{schedule}", 0, 0, withscores=True)
                    (seconds, micros), token, *firsts = await pipe.execute()
            except RedisError:
                continue
            due = min((float(score) for first in firsts for _, score in first), default=math.inf)
            return _Due(seconds * 1000 + micros / 1000, int(token or 0), due)

    async def _look(self) -> _Look:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.time().hgetall(f"{PREFIX}own").zrange(f"{PREFIX}lease", 0, -1, withscores=True)
            (seconds, micros), owners, leases = await pipe.execute()
        ends = dict(leases)
        held = {box: (token, float(ends[box])) for box, token in owners.items() if box in ends}
        return _Look(float(seconds) * 1000 + float(micros) / 1000, held)

    async def _is_only_reaped(self, box: bytes, ends: float) -> bool:
        """Back in the schedule, at the place its ended lease gave it, and not claimed yet."""
        group = box.rpartition(b":")[0].decode()
        due = await self._redis.zscore(f"{PREFIX}r:{group}", box)
        return due is not None and due == ends - self._lease_ms
