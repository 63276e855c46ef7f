"""How long the conversations of a dead replica wait, seen in the queue's own keys."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from .world import PREFIX

POLL_SECONDS = 0.05


class LeaseWatch:
    """Reads only. `own` is mailbox -> fencing token, `lease` mailbox -> end of the lease in ms (facts: queue keys)."""

    def __init__(self, server: redis.asyncio.Redis) -> None:
        self._redis = server

    async def held(self) -> dict[bytes, tuple[bytes, float]]:
        owners: Any = await self._redis.hgetall(f"{PREFIX}own")
        leases: Any = await self._redis.zrange(f"{PREFIX}lease", 0, -1, withscores=True)
        ends = dict(leases)
        return {box: (token, ends[box]) for box, token in owners.items() if box in ends}

    async def orphans_taken_over(self, died_at: float, *, within_seconds: float) -> list[float]:
        """Seconds from `died_at` (monotonic) until each conversation of the dead replica was claimed again.

        An orphan is told by its lease: nobody extends or ends it, it runs out. One that nobody claims in time counts
        as endless.
        """
        waiting, taken = await self.held(), []
        deadline = died_at + within_seconds
        while waiting:
            await asyncio.sleep(POLL_SECONDS)
            server_ms = await self._now_ms()
            held = await self.held()
            for box, (token, ends) in list(waiting.items()):
                now_token, now_ends = held.get(box, (b"", 0.0))
                if now_token == token and now_ends <= ends:
                    continue
                del waiting[box]
                if now_token != token and server_ms >= ends - POLL_SECONDS * 1000:
                    taken.append(time.monotonic() - died_at)
            if waiting and time.monotonic() > deadline:
                return [*taken, math.inf]
        return taken

    async def until_work_resumes(self, *, within_seconds: float) -> float | None:
        """Seconds until the next claim; `None` when nothing was due in that time."""
        started, before = time.monotonic(), None
        while before is None:
            before = await self._token()
        while time.monotonic() - started < within_seconds:
            if await self._token() not in (None, before):
                return time.monotonic() - started
            await asyncio.sleep(0.02)
        return None

    async def _token(self) -> bytes | None:
        try:
            token: Any = await self._redis.get(f"{PREFIX}tok")
        except RedisError:
            return None
        return None if token is None else bytes(token)

    async def _now_ms(self) -> float:
        seconds, micros = await self._redis.time()
        return float(seconds) * 1000 + float(micros) / 1000
