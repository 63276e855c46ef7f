"""What the stand-ins received and what became of it, so that a test asserts what really arrived, and waits for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MAX_WAITERS = 1000
_ENTRY_OVERHEAD_BYTES = 400


@dataclass(slots=True, eq=False)
class Entry:
    """One request (`send`, `read`, `media`, `generate`) or one `webhook` POST of ours.

    `processed`: it had its effect, whatever the caller heard. `state`: `open` (no answer yet), `answered` (with
    `status`), `closed` (the connection ended without an answer).
    """

    seq: int
    kind: str
    body: bytes
    phone_number_id: str | None = None
    to: str | None = None
    text: str | None = None
    wamid: str | None = None
    callback_data: str | None = None
    model: str | None = None
    url: str | None = None
    processed: bool = False
    state: str = "open"
    status: int | None = None
    code: str | None = None
    fault: int | None = None
    at: float = field(default_factory=time.time)
    monotonic: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in _JSON_FIELDS} | {"body": _embed(self.body)}


_JSON_FIELDS = tuple(name for name in Entry.__slots__ if name != "body")


def _embed(body: bytes) -> object:
    """The body as it came if it is JSON, else as text."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
    return orjson.Fragment(body)


@dataclass(frozen=True, slots=True)
class Filter:
    """Entries after sequence number `after` whose attributes equal `wanted`."""

    wanted: Mapping[str, Any] = field(default_factory=dict)
    after: int = 0

    def matches(self, entry: Entry) -> bool:
        return entry.seq > self.after and all(getattr(entry, name) == value for name, value in self.wanted.items())


class _Waiter:
    __slots__ = ("count", "done", "filter", "found")

    def __init__(self, wanted: Filter, count: int) -> None:
        self.filter = wanted
        self.count = count
        self.found: dict[int, Entry] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def offer(self, entry: Entry) -> None:
        if self.filter.matches(entry):
            self.found[entry.seq] = entry
            if len(self.found) >= self.count and not self.done.done():
                self.done.set_result(None)


class TooManyWaiters(Exception):
    """More than `MAX_WAITERS` long polls at once."""


class Record:
    """The newest entries, bounded by number and by bytes; older ones are forgotten and counted in `evicted`."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._entries: deque[Entry] = deque()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._seq = 0
        self._waiters: set[_Waiter] = set()
        self._received: Counter[str] = Counter()
        self._processed: Counter[str] = Counter()
        self._answers: dict[str, Counter[str]] = {}
        self.evicted = 0

    def open(self, kind: str, body: bytes, **attributes: Any) -> Entry:
        """Note an arrival, before anything is done about it."""
        self._seq += 1
        entry = Entry(self._seq, kind, body, **attributes)
        self._entries.append(entry)
        self._bytes += len(body) + _ENTRY_OVERHEAD_BYTES
        while len(self._entries) > self._max_entries or (self._bytes > self._max_bytes and len(self._entries) > 1):
            self._bytes -= len(self._entries.popleft().body) + _ENTRY_OVERHEAD_BYTES
            self.evicted += 1
        self._received[kind] += 1
        self._notify(entry)
        return entry

    def process(self, entry: Entry) -> None:
        """It has had its effect."""
        if not entry.processed:
            entry.processed = True
            self._processed[entry.kind] += 1
            self._notify(entry)

    def answer(self, entry: Entry, status: int) -> None:
        entry.state, entry.status = "answered", status
        self._answers.setdefault(entry.kind, Counter())[str(status)] += 1
        self._notify(entry)

    def close(self, entry: Entry) -> None:
        """The connection ended without an answer."""
        entry.state = "closed"
        self._answers.setdefault(entry.kind, Counter())["none"] += 1
        self._notify(entry)

    def find(self, wanted: Filter, limit: int | None = None) -> list[Entry]:
        """Oldest first, at most `limit`."""
        found: list[Entry] = []
        for entry in self._entries:
            if limit is not None and len(found) >= limit:
                break
            if wanted.matches(entry):
                found.append(entry)
        return found

    async def wait(self, wanted: Filter, count: int, timeout_seconds: float) -> list[Entry]:
        """Those found once there are `count`, or what there is after `timeout_seconds`; oldest first."""
        if len(self._waiters) >= MAX_WAITERS:
            raise TooManyWaiters
        waiter = _Waiter(wanted, count)
        for entry in self._entries:
            waiter.offer(entry)
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter.done], timeout=timeout_seconds)
        finally:
            self._waiters.discard(waiter)
        return [waiter.found[seq] for seq in sorted(waiter.found)]

    def clear(self) -> None:
        """Forget the entries and the counts; sequence numbers go on."""
        self._entries.clear()
        self._bytes = self.evicted = 0
        self._received.clear()
        self._processed.clear()
        self._answers.clear()

    def summary(self) -> dict[str, object]:
        """Counts since the start or the last `clear`, evicted entries included."""
        kinds = {
            kind: {"received": n, "processed": self._processed[kind], "answers": dict(self._answers.get(kind, {}))}
            for kind, n in self._received.items()
        }
        return {"last_seq": self._seq, "held": len(self._entries), "evicted": self.evicted, "kinds": kinds}

    def _notify(self, entry: Entry) -> None:
        for waiter in self._waiters:
            waiter.offer(entry)
