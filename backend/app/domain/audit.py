"""The audit trail: who changed what, when, from where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.models import Json, User


class ActorKind(StrEnum):
    """Stored and shown: stable words."""

    USER = "user"
    KEY = "key"
    """An API key."""
    OPERATOR = "operator"
    SYSTEM = "system"
    """Chorus' own upkeep, or SQL by hand: `id` is the database's user."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change. `address`: the client's, as far as the balancers in front of us are believed."""

    kind: ActorKind
    id: str
    address: str | None = None
    request_id: str | None = None


ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)
"""Of the changes that this task asks the store for. Here and not in every signature, as the rank of a call is
(`core/slots.py`): no decision depends on it."""


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    token = ACTOR.set(actor)
    try:
        yield
    finally:
        ACTOR.reset(token)


def actor_of(user: User, *, address: str | None, request_id: str | None) -> Actor:
    other = ActorKind.KEY if user.grant is not None else ActorKind.USER
    return Actor(ActorKind.OPERATOR if user.is_operator else other, user.id, address, request_id)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `changes`: by field `{"old", "new"}`, or `{"changed": true}` where the values are secret; long values
    by their beginning."""

    id: int
    account_id: str | None
    """`None`: of the whole installation."""
    at: datetime
    actor_kind: str
    actor_id: str
    address: str | None
    request_id: str | None
    action: str
    """What it is and what happened to it: `member.created`, `profile.changed`, `api_key.deleted`, `breaker.forced`."""
    subject: str
    """Which one: a user id, the id of a key or a webhook, a circuit's name."""
    changes: Json
