"""Counts of the whole fleet by the minute, for a look at the last hour without Prometheus.

    minutes = Minutes(door, namespace="chorus")
    await minutes.add({"answers": 3})        # to the present minute, by Redis' clock
    await minutes.read(60)                   # [Minute(at, {"answers": 7}), …], the oldest first, the present one last

Few names: a minute is one small hash. What it does not do: keep them for longer than two hours, or count exactly what a
replica counted in the seconds before it died.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from app.core.redis.door import Door
from app.core.redis.script import Script

MINUTES = Script("minutes")
KEEP_SECONDS = 7200


@dataclass(frozen=True, slots=True)
class Minute:
    at: datetime
    """When it began."""
    counts: Mapping[str, int]


class Minutes:
    """Raises `Unavailable` when Redis does not answer."""

    def __init__(self, door: Door, *, namespace: str) -> None:
        self._door = door
        self._prefix = f"{namespace}:{{minutes}}:"

    async def add(self, counts: Mapping[str, int]) -> None:
        pairs = [value for pair in counts.items() for value in pair]
        if pairs:
            await self._door.run(MINUTES, [self._prefix], ["add", KEEP_SECONDS * 1000, *pairs])

    async def read(self, count: int) -> list[Minute]:
        present, *rows = await self._door.run(MINUTES, [self._prefix], ["read", count])
        return [
            Minute(
                datetime.fromtimestamp((present - ago) * 60, UTC),
                {name.decode(): int(value) for name, value in zip(row[::2], row[1::2], strict=True)},
            )
            for ago, row in reversed(list(enumerate(rows)))
        ]
