"""Who usually writes, and has not for too long. The only sign of a delivery that was switched off elsewhere.

    arrivals.note(sender)            # from memory, for everything that arrives
    await arrivals.flush()           # every few seconds
    for each in await arrivals.silent(): each.sender, each.seconds, each.expected

1. For each sender Redis holds what an hour of its week usually brings; older weeks count half as much as the next one.
2. A sender is silent when, since its last arrival, `EXPECTED` arrivals would have been usual. That takes a busy one
   less than an hour, a quiet one days; a night or a weekend that is usually quiet takes no part.
3. So nothing is said of a sender in its first week, nor of one that has been quiet for `KEEP_SECONDS`.

What it does not do: know why, or count exactly: what was noted less than a flush before a crash is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from app.core.errors import Unavailable
from app.core.redis.door import Door
from app.core.redis.script import Script

EXPECTED = 20.0
"""By chance a usual 20 become 0 once in e^20; people write in bursts, so the real odds are worse, and still good."""
QUIET_SECONDS = 1800.0
KEEP_SECONDS = 14 * 86400.0
MAX_SENDERS = 10_000
PAGE = 200
NOTE, READ = Script("arrivals_note"), Script("arrivals_read")
_HOUR_MS = 3_600_000
_WEEK_HOURS = 168


class Silence(NamedTuple):
    sender: str
    seconds: float
    """Since its last arrival."""
    expected: float
    """Arrivals that would have been usual since then."""


class Arrivals:
    """One instance a process; `note` costs a dictionary's entry. What it knows is shared through Redis."""

    def __init__(self, door: Door, *, namespace: str) -> None:
        self._door = door
        self._keys = [f"{namespace}:{{arrivals}}:last", f"{namespace}:{{arrivals}}:h:"]
        self._noted: Counter[str] = Counter()

    def note(self, sender: str) -> None:
        """Something has arrived. Beyond `MAX_SENDERS` between two flushes new senders are passed over."""
        if sender in self._noted or len(self._noted) < MAX_SENDERS:
            self._noted[sender] += 1

    async def flush(self) -> None:
        """Tell Redis what was noted. Raises `Unavailable`; then it is told with the next flush."""
        noted, self._noted = self._noted, Counter()
        pairs = list(noted.items())
        for start in range(0, len(pairs), PAGE):
            page = pairs[start : start + PAGE]
            args = [MAX_SENDERS, round(KEEP_SECONDS * 1000), *(value for pair in page for value in pair)]
            try:
                await self._door.run(NOTE, self._keys, args)
            except Unavailable:
                self._noted.update(dict(pairs[start:]))
                raise

    async def silent(self) -> list[Silence]:
        """Every sender that is, the longest first. Raises `Unavailable`."""
        found: list[Silence] = []
        for start in range(0, MAX_SENDERS, PAGE):
            args = [round(QUIET_SECONDS * 1000), start, PAGE]
            now_ms, *rows = await self._door.run(READ, self._keys, args)
            for sender, last_ms, fields in rows:
                week = dict(zip(fields[::2], map(float, fields[1::2]), strict=True))
                expected = usual(week, int(float(last_ms)), now_ms)
                if expected >= EXPECTED:
                    found.append(Silence(sender.decode(), (now_ms - float(last_ms)) / 1000, round(expected, 1)))
            if len(rows) < PAGE:
                break
        return found


def usual(week: Mapping[bytes, float], since_ms: int, now_ms: int) -> float:
    """Arrivals that are usual between two times, by a sender's hash; the hour of `since_ms` is left out, because what
    arrived in it is counted already."""
    counted = int(week.get(b"week", 0))
    total = 0.0
    hour = since_ms // _HOUR_MS + 1
    while hour * _HOUR_MS < now_ms:
        share = min(1.0, (now_ms - hour * _HOUR_MS) / _HOUR_MS)
        weight = 0.5 ** max(0, hour // _WEEK_HOURS - counted)
        total += week.get(b"%d" % (hour % _WEEK_HOURS), 0.0) * share * weight
        hour += 1
    return total
