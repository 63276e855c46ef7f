"""Time as a dependency, so that a test can hold it still."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Three views of time. Only `monotonic` may be compared or subtracted."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware UTC; for people and for WhatsApp's timestamps."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real one."""

    monotonic = staticmethod(time.monotonic)  # read on every hit of the cache

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        import asyncio  # noqa: PLC0415  takes 45 ms to import, and the vocabulary, which knows of clocks, needs none of it

        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
