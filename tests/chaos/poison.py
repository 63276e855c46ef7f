"""Messages that can never be handled, and must not hold up anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.sandbox import webhooks as wa
from app.sandbox.webhooks import Business, JsonObject

from .traffic import Message, conversation, payload


@dataclass(frozen=True, slots=True)
class Poison:
    """`dead`: event ids that must end as dead letters, and nothing else may."""

    posts: Sequence[JsonObject]
    letters: int
    healthy: Sequence[Message]
    """Messages behind a poisonous one in the same mailbox; they are answered."""


def poison(business: Business, *, first_conversation: int, run: str, slow: bool) -> Poison:
    """At once: an account nobody has, an update of no known shape. `slow` adds one that fails five times, which takes
    half a minute: no index of the database takes an id of this length."""
    stranger = conversation(first_conversation, Business("910999999999"), count=1, run=run)
    shapeless = wa.envelope(wa.messages_change(business, [{"type": "text", "run": run}], []))
    posts, healthy, letters = [payload(stranger), shapeless], [], 2
    if slow:
        bad, good = conversation(first_conversation + 1, business, count=2, run=run)
        bad = replace(bad, id=bad.id + "".join(map(str, range(3000))))
        posts.append(payload([bad, good]))
        healthy, letters = [good], 3
    return Poison(posts, letters, healthy)
