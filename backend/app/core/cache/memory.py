"""What one process holds of the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.core.cache.channel import Channel
from app.core.cache.codec import Codec

ENTRY_OVERHEAD_BYTES = 300
"""An entry's bookkeeping, so that many tiny values are not free."""


@dataclass(slots=True)
class Entry:
    """Fresh until `expires_at`, a stand-in for a failing source until `stale_until`; a reader after `refresh_at` has it
    renewed (`due`). All monotonic seconds. Worth nothing while `channel` is not trusted."""

    value: Any
    codec: Codec
    refresh_at: float
    expires_at: float
    stale_until: float
    size: int
    channel: Channel
    due: bool = False
    used: bool = False
    """Since it came, or since it was last spared from eviction."""


class Memory:
    """Keys to entries; entries that were not used lately go first. Bounded by entries and by bytes. Sizes are of the
    JSON; the objects take a few times as much."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.bytes = 0
        self.evictions = 0
        self.find = self._entries.get
        """The entry of a key, whatever its age. A reader that uses it sets `used`."""

    def put(self, key: str, entry: Entry) -> None:
        """Store it, at the cost of the oldest that were not used since they were last considered. One larger than the
        whole bound is not stored."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.bytes -= before.size
        if entry.size > self._max_bytes or self._max_entries < 1:
            return
        while self.bytes + entry.size > self._max_bytes or len(self._entries) >= self._max_entries:
            oldest, candidate = self._entries.popitem(last=False)
            if candidate.used:  # a second chance: cheaper for every hit than keeping the exact order
                candidate.used = False
                self._entries[oldest] = candidate
                continue
            self.bytes -= candidate.size
            self.evictions += 1
        self._entries[key] = entry
        self.bytes += entry.size

    def drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self.bytes -= entry.size
        return True

    def drop_if(self, condition: Callable[[str, Entry], bool]) -> int:
        """Drop every entry that meets the condition; how many did."""
        doomed = [key for key, entry in self._entries.items() if condition(key, entry)]
        for key in doomed:
            self.drop(key)
        return len(doomed)

    def __len__(self) -> int:
        return len(self._entries)
