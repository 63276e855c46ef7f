"""The durable queue: a mailbox per conversation, in Redis.

What is put is stored once, handled in order per mailbox by one holder at a time, and never lost: events are shown to a
worker under a lease and leave the mailbox only when it says so. Handling is at least once, so effects must be
idempotent and fenced by `Claim.token`. It is NOT a log: what is done is gone.

    put -> ready (due time) -> claim: leased -> done | retry_later | park -> ready again, or empty
                                  `-- lease ran out: ready again, one attempt counted

A mailbox's group is its name up to the last ":", for a conversation its account. A claim serves the groups in turn, and
no more of one than its worker has set aside for any: a group with ten thousand mailboxes due, or one whose handling
hangs, delays no other one. A share of the queue's room is a group's, or that of several kinds of groups together.

The protocol is in `core/lua/queue_*.lua`, one script an operation, each with its steps and invariant.
"""

from __future__ import annotations

from app.core.event import Event
from app.core.queue.dead_letters import DeadLetters
from app.core.queue.erasure import Erased
from app.core.queue.events import (
    Claim,
    DeadLetter,
    Failure,
    LeaseLost,
    PutResult,
    QueueAside,
    QueueFull,
    QueueStats,
    QueueUnavailable,
)
from app.core.queue.mailboxes import Queue
from app.core.queue.metrics import QUEUE, QueueMetrics
from app.core.queue.policy import QueuePolicy

__all__ = [
    "QUEUE", "Claim", "DeadLetter", "DeadLetters", "Erased", "Event", "Failure", "LeaseLost", "PutResult", "Queue",
    "QueueAside", "QueueFull", "QueueMetrics", "QueuePolicy", "QueueStats", "QueueUnavailable",
]  # fmt: skip
