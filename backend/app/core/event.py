"""What is put into the queue. A file of its own, without a driver, because the vocabulary speaks of it."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One thing to handle. A tuple, because one is made for every update of every webhook and a frozen dataclass costs
    several times as much to make."""

    id: str
    """Deduplicates: an id that was put before is not stored again (8 days by default)."""
    mailbox: str
    """The conversation. Its events are handled in order, by one holder at a time."""
    payload: bytes
    """Opaque."""
    immediate: bool = False
    """Due now instead of after the debounce, unless its mailbox gathers. It neither delays nor advances a mailbox that
    already has a due time."""
    accepted_at: float = 0.0
    """Unix seconds by the server's clock; set by `put`, and anew by `replay`."""
