"""A channel that is opened anew whenever it is lost: the cache, the circuits and the live events follow theirs with it.

1. Subscribe, on a connection that is never repaired behind our back; wait for the acknowledgement.
2. `on_open`: read what was published before, because it is not repeated. What is published meanwhile is heard after it.
3. `hear` each message.
4. Every second, or as the timings say: `check`, which asks the subscription whether it still lives.
5. Any error, from the four above as well: `on_lost` from that moment on, and back to 1 after a jittered pause, which
   doubles until the channel has stayed open for longer than the longest one.

What it does not do: tell whether a message was missed while the channel was open. The cache's messages are numbered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from app.core.errors import Unavailable
from app.core.redis.door import Door

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
"""Returns when everything published before on this connection's server has been heard. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class ListenTimings:
    """Seconds."""

    subscribe: float = 1.0
    check: float = 1.0
    """Between two checks."""
    answer: float = 2.0
    """To a check."""
    first_pause: float = 0.05
    longest_pause: float = 0.8
    """Before the channel is opened anew."""


LISTEN_TIMINGS = ListenTimings()


async def _nothing() -> None: ...


async def listen(
    door: Door,
    channel: str,
    hear: Callable[[bytes], object],
    *,
    on_open: Callable[[], Awaitable[None]] = _nothing,
    check: Callable[[Check], Awaitable[None]] = lambda ask: ask(),
    on_lost: Callable[[], object] = lambda: None,
    beat: Callable[[], object] = lambda: None,
    timings: ListenTimings = LISTEN_TIMINGS,
) -> NoReturn:
    """Follow `channel` until cancelled. Whatever the four raise is logged, and the channel is opened anew. That it
    cannot be opened is logged once.

    `on_open` and `check` bound their own calls; `check` gets the question to the subscription, which it must await.
    `on_lost` is idempotent. `beat`: called in each round and before each check (lifecycle.py).
    """
    pause, is_lost = timings.first_pause, False
    while True:
        beat()
        opened_at: float | None = None
        try:
            subscription = await door.subscribe(channel, within_seconds=timings.subscribe)
            try:
                await on_open()
                opened_at, is_lost = time.monotonic(), False
                ask = partial(subscription.check, within_seconds=timings.answer)
                checking = _keep_checking(partial(check, ask), beat, every=timings.check)
                await subscription.follow(hear, checking, on_end=on_lost)
            finally:
                on_lost()
                await subscription.aclose()
        except Unavailable as exc:
            if not is_lost:  # not for each attempt while Redis is away
                logger.warning("channel lost", extra={"channel": channel, "reason": str(exc)})
            is_lost = True
        except Exception:
            logger.exception("channel failed", extra={"channel": channel})
        if opened_at is not None and time.monotonic() - opened_at > timings.longest_pause:
            pause = timings.first_pause
        await asyncio.sleep(pause * (0.5 + random.random() / 2))
        pause = min(2 * pause, timings.longest_pause)


async def _keep_checking(check: Callable[[], Awaitable[None]], beat: Callable[[], object], *, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        beat()
        await check()
