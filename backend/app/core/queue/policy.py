"""What a queue does with its events, and how many it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """Every replica of a fleet has the same."""

    debounce_seconds: float
    """A mailbox is due so long after the last event of a burst, ..."""
    debounce_cap_seconds: float = 5.0
    """... and at most so long after its first."""
    gathered: Sequence[str] = ()
    """Mailboxes of these kinds are due `gather_seconds` after the first event that waits in them, or up to 0.05 s
    before that, however many follow and whether they are immediate: one claim takes them, and those of other mailboxes,
    together."""
    gather_seconds: float = 0.0
    lease_seconds: float = 15.0
    max_attempts: int = 5
    """Failed attempts of a head, until it is a dead letter."""
    put_timeout_seconds: float = 1.0
    max_pending: int
    """Events of the whole queue; each shard has an equal part, as of `max_bytes`. A group may hold as much as is still
    free (core/lua/queue_put.lua)."""
    max_bytes: int = 100_000_000
    one_share: Sequence[str] = ()
    """The groups `<kind>:<rest>` of one rest may hold together as much as one group, for these kinds (no spaces in
    them)."""
    max_per_mailbox: int = 1000
    max_mailbox_bytes: int = 2 * 2**20
    max_dead: int = 100_000
    """Dead letters of each shard; beyond it, and beyond `max_dead_bytes` of all shards, the oldest are dropped."""
    max_dead_bytes: int = 64 * 1024 * 1024
    dedupe_seconds: int = 8 * 86400
    """Exceeds the 7 days in which Meta redelivers."""
