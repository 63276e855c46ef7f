"""How long reads take that find nothing cached, without what the machine took meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

TICK_SECONDS = 0.001
OWN_SECONDS = 0.003
"""A read of our own blocks the loop for less than this. What is longer is another process' doing."""


class Stalls:
    """Seconds for which this process could not go on, in all, while `run` runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def run(self) -> None:
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            late = time.monotonic() - asleep - TICK_SECONDS
            if late > OWN_SECONDS:
                self.seconds += late


async def worst_cold_read(read: Callable[[str], Awaitable[Any]], reads: int = 20) -> float:
    """Seconds, of the longest of several reads one after the other, each of a key that no replica has."""
    stalls, longest = Stalls(), 0.0
    watching = asyncio.create_task(stalls.run())
    try:
        for number in range(reads):
            started, stalled = time.monotonic(), stalls.seconds
            await read(f"cold:{started}:{number}")
            longest = max(longest, time.monotonic() - started - (stalls.seconds - stalled))
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return longest
