"""Waiting for work without polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from app.core.errors import Unavailable
from app.core.redis.door import Door

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 1.0
"""Longest time a worker waits without looking. The scripts push a wake token for what falls due within it."""
_PAUSE_SECONDS = 0.2
"""Between two tries while Redis is away."""
_ANSWER_SECONDS = 2.0
"""A pop that found nothing is answered so much later than it should be, at most, before its connection is given up."""


class Waker:
    """One blocking pop per wake list, kept from one wait to the next.

    Kept, because ending a blocked command costs its connection, and a wait often ends early: at the next due time, or
    with a token of another shard. A token that arrives while no call waits here is passed on to the other replicas.
    """

    def __init__(self, door: Door, blocking: Door, keys: Sequence[str]) -> None:
        self._door = door
        self._blocking = blocking
        self._keys = keys
        self._pops: dict[str, asyncio.Task[bool]] = {}
        self._popped: list[str] = []
        self._waiting = 0
        self._pushes: set[asyncio.Task[None]] = set()

    async def wait(self, seconds: float) -> None:
        """Until a token arrives, at most `seconds`. A Redis that is away looks like no token."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self._waiting += 1
        try:
            while (left := end - loop.time()) > 0:
                pops = [self._armed(key) for key in self._keys]
                done, _ = await asyncio.wait(pops, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if self._popped:
                    self._popped.clear()
                    return
                if any(pop.cancelled() or pop.exception() for pop in done):
                    await asyncio.sleep(min(_PAUSE_SECONDS, max(0.0, end - loop.time())))
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._hand_on()

    async def aclose(self) -> None:
        """Stop popping. The server may have popped tokens that never got here: let other workers look instead."""
        pops = dict(self._pops)
        for pop in pops.values():
            pop.cancel()
        if pops:
            await asyncio.wait(pops.values())
            self._popped.extend(pops)
        self._hand_on()
        if self._pushes:
            await asyncio.wait(self._pushes)

    def _armed(self, key: str) -> asyncio.Task[bool]:
        pop = self._pops.get(key)
        if pop is None:
            pop = self._pops[key] = asyncio.create_task(self._pop(key))
            pop.add_done_callback(lambda finished: self._finished(key, finished))
        return pop

    async def _pop(self, key: str) -> bool:
        popped = await self._blocking.ask(
            "BLPOP", key, BLOCK_SECONDS, within_seconds=BLOCK_SECONDS + _ANSWER_SECONDS, urgent=True
        )
        return popped is not None

    def _finished(self, key: str, pop: asyncio.Task[bool]) -> None:
        del self._pops[key]
        if pop.cancelled():
            return
        if (exc := pop.exception()) is not None:
            expected = isinstance(exc, Unavailable)  # `claim` reports it
            logger.log(logging.DEBUG if expected else logging.ERROR, "waiting for work failed", exc_info=exc)
        elif pop.result():
            self._popped.append(key)
            if not self._waiting:
                self._hand_on()

    def _hand_on(self) -> None:
        if self._popped:
            keys, self._popped = self._popped, []
            push = asyncio.create_task(self._push(keys))
            self._pushes.add(push)
            push.add_done_callback(self._pushes.discard)

    async def _push(self, keys: Sequence[str]) -> None:
        try:
            for key in keys:
                await self._door.ask("RPUSH", key, 1)
        except Unavailable as exc:
            logger.debug("wake token not passed on; the other workers look within %s s", BLOCK_SECONDS, exc_info=exc)
