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

from app.core.cache.shard import Shard, Spend
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.redis.subscription import Subscription

logger = logging.getLogger("app.core.cache")

BEAT_SECONDS = 1.0
ANSWER_SECONDS = 2 * BEAT_SECONDS
GRACE_SECONDS = 0.2
"""On a cluster the answer to a PING can overtake a message, which comes over the bus from another node."""
CONNECT_SECONDS = 1.0
BEAT_LIMIT_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 0.8
"""Back within two seconds: this, a connection and a beat."""


class Subscribe(Protocol):
    """`Door.subscribe`."""

    def __call__(self, channel: str, *, within_seconds: float) -> Awaitable[Subscription]: ...


class Listener:
    """One shard's. `run` never ends by itself."""

    def __init__(self, shard: Shard, subscribe: Subscribe, *, clock: Clock) -> None:
        self._shard = shard
        self._subscribe = subscribe
        self._clock = clock
        self.opened = asyncio.Event()
        """Trusted for the first time."""

    async def run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            opened_at: float | None = None
            try:
                subscription = await self._subscribe(self._shard.topic, within_seconds=CONNECT_SECONDS)
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
            if opened_at is not None and self._clock.monotonic() - opened_at > MAX_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

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
        sequence, server_us = await self._shard.beat(Spend(BEAT_LIMIT_SECONDS, urgent=True))
        # The server looked at its clock some time between question and answer.
        self._shard.channel.ahead_us = server_us - (asked + self._clock.monotonic()) / 2 * 1e6
        return sequence

    async def _keep_checking(self, subscription: Subscription) -> None:
        channel = self._shard.channel
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            reached = channel.reached
            sequence = await self._beat()
            await subscription.check(within_seconds=ANSWER_SECONDS)
            if channel.position is not None and channel.position < sequence:
                await asyncio.sleep(GRACE_SECONDS)
            if not channel.check(reached, sequence):
                raise Unavailable("redis", "an invalidation was published and not received")
