"""Keeps a shard's channel: subscribes, follows, checks, and starts anew when anything looks wrong.

1. Subscribe on a connection of its own that is never repaired behind our back; wait for the acknowledgement.
2. Read the sequence: the same as before, memory stays warm; different, it is flushed. Now the channel is trusted.
3. Follow the messages. A gap in their chain flushes.
4. Once a second: read the sequence, then PING on the subscription. When its answer comes, everything published before
   has been received (on a cluster: a moment later), so the position must have reached that sequence; otherwise flush
   and start anew.
5. Any error, no answer to a PING within two beats: not trusted from that moment on, back to 1 after a jittered pause.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable
from typing import Protocol

from app.core.cache.policy import TIMINGS, CacheTimings
from app.core.cache.shard import Budget, Shard
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.redis.subscription import Subscription

logger = logging.getLogger("app.core.cache")


class Subscribe(Protocol):
    """`Door.subscribe`."""

    def __call__(self, channel: str, *, within_seconds: float) -> Awaitable[Subscription]: ...


class Listener:
    """One shard's. `run` never ends by itself."""

    def __init__(self, shard: Shard, subscribe: Subscribe, *, clock: Clock, timings: CacheTimings = TIMINGS) -> None:
        self._timings = timings
        self._shard = shard
        self._subscribe = subscribe
        self._clock = clock
        self.opened = asyncio.Event()
        """Trusted for the first time."""

    async def run(self) -> None:
        timings = self._timings
        pause = timings.first_pause
        while True:
            opened_at: float | None = None
            try:
                subscription = await self._subscribe(self._shard.topic, within_seconds=timings.connect)
                try:
                    await self._open()
                    opened_at = self._clock.monotonic()
                    channel = self._shard.channel
                    await subscription.follow(channel.receive, self._keep_checking(subscription), on_end=channel.lose)
                finally:
                    self._shard.channel.lose()
                    await subscription.aclose()
            except Unavailable as exc:
                if opened_at is not None:
                    logger.warning("cache channel lost", extra={"channel": self._shard.topic, "reason": str(exc)})
            except Exception:
                logger.exception("cache channel failed", extra={"channel": self._shard.topic})
            if opened_at is not None and self._clock.monotonic() - opened_at > timings.max_pause:
                pause = timings.first_pause
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(2 * pause, timings.max_pause)

    async def _open(self) -> None:
        channel = self._shard.channel
        before = channel.position
        sequence = await self._beat()
        channel.open(sequence)
        self.opened.set()
        logger.info(
            "cache channel trusted",
            extra={
                "channel": self._shard.topic,
                "position": sequence,
                "warm": sequence == before,
                "gaps": channel.gaps,
            },
        )

    async def _beat(self) -> int:
        asked = self._clock.monotonic()
        sequence, server_us = await self._shard.beat(Budget(self._timings.connect, urgent=True))
        # The server looked at its clock some time between question and answer.
        self._shard.channel.ahead_us = server_us - (asked + self._clock.monotonic()) / 2 * 1e6
        return sequence

    async def _keep_checking(self, subscription: Subscription) -> None:
        channel = self._shard.channel
        while True:
            await asyncio.sleep(self._timings.beat)
            reached = channel.reached
            sequence = await self._beat()
            await subscription.check(within_seconds=self._timings.answer)
            if channel.position is not None and channel.position < sequence:
                await asyncio.sleep(self._timings.grace)
            if not channel.check(reached, sequence):
                raise Unavailable("redis", "an invalidation was published and not received")
