"""What goes into the mailbox queue, what comes out of it, and the bytes in between."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Expected, Unavailable
from app.core.event import Event

REASON_CHARACTERS = 500
"""Of the reason of a dead letter."""


class QueueUnavailable(Unavailable):
    """Redis could not be asked, or its answer was lost. A `put` may have been stored, and is safe to repeat."""


class QueueAside(QueueUnavailable):
    """Events are put aside elsewhere, and the put was to be refused then. Nothing of it was stored on that shard."""


class QueueFull(Unavailable):
    """The queue holds as much as it may. Nothing of the refused events was stored on that shard."""


class LeaseLost(Expected):
    """The claim's token is no longer valid: another worker has, or had, the conversation."""


@dataclass(slots=True, eq=False)
class Claim:
    """A conversation held by this worker. `refresh` and `extend` update it; `done`, `park` and `retry_later` end it."""

    mailbox: str
    token: int
    """Fencing token: higher than that of every earlier holder of this mailbox."""
    events: tuple[Event, ...]
    """From the head of the mailbox, at least one; exactly one when the head has failed before."""
    attempts: int
    """Failed attempts of the head so far."""
    held_until: float
    """Monotonic seconds, on the safe side of the server's lease. Check before every side effect."""
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    def is_held(self) -> bool:
        """`True`: certainly no other worker holds the conversation now. `False`: another one may."""
        return self.clock.monotonic() < self.held_until


@dataclass(frozen=True, slots=True)
class PutResult:
    accepted: int
    duplicates: int
    diverted: tuple[Event, ...] = ()
    """Not stored, and not remembered: their mailbox, or its share, has as much as it may. The caller must keep them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt."""

    at: float
    """Unix seconds by the server's clock."""
    reason: str
    """Its first 200 bytes."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up on, kept until it is replayed or dropped."""

    id: str
    """`<shard>-<stream id>`."""
    event: Event
    reason: str
    attempts: int
    """Including the one that parked it."""
    parked_at: float
    """Unix seconds by the server's clock."""
    history: tuple[Failure, ...]
    """The last five failed attempts, oldest first; the last one parked it."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    pending: int
    """Events waiting or in flight."""
    bytes: int
    """What they take, without the server's overhead."""
    ready: int
    """Conversations waiting: due, debounced or in back-off."""
    leased: int
    """Conversations held by a worker."""
    oldest_seconds: float
    """Age of the oldest event, waiting or in flight."""
    dead: int
    dead_bytes: int
    """Of all dead letters."""
    dead_lost: int
    """Dead letters that had to go, the oldest first, because of the limits; since the queue began."""
    is_full: bool
    """A shard has no room for one more event: `put` refuses."""


# An entry in Redis: 13 digits of milliseconds, written by the script, then the frame: flag, length of id, id, payload.
_STAMP_BYTES = 13
_FRAME = struct.Struct(">BI")


def encode_frame(event: Event) -> bytes:
    """`event` without its mailbox, which is the key, and its time, which is the server's to give."""
    event_id = event.id.encode()
    return _FRAME.pack(event.immediate, len(event_id)) + event_id + event.payload


def encode_entry(event: Event, at_ms: int) -> bytes:
    """As the scripts write it."""
    return b"%013d" % at_ms + encode_frame(event)


def decode_failure(text: bytes) -> Failure:
    """Milliseconds as in an entry, then the reason; the server may have cut it within a character."""
    return Failure(int(text[:_STAMP_BYTES]) / 1000, text[_STAMP_BYTES:].decode(errors="ignore"))


def decode_entry(mailbox: str, entry: bytes, *, latest: float = math.inf) -> Event:
    """`latest`: the server's time in seconds. A later event was accepted by a clock that was ahead."""
    immediate, id_bytes = _FRAME.unpack_from(entry, _STAMP_BYTES)
    start = _STAMP_BYTES + _FRAME.size
    end = start + id_bytes
    accepted_at = min(latest, int(entry[:_STAMP_BYTES]) / 1000)
    return Event(entry[start:end].decode(), mailbox, entry[end:], bool(immediate), accepted_at)
