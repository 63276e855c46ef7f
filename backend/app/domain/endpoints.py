"""Events for other systems: who wants to hear of what, and what is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from app.domain.models import Json

MAX_ENDPOINTS = 20
"""Of one account."""
MAX_URL_CHARACTERS = 2000
KEPT_DELIVERIES = 200
"""Of one endpoint."""
ANSWER_CHARACTERS = 500


class EventType(StrEnum):
    """Stable words; a newer version may have more."""

    MESSAGE_RECEIVED = "message.received"
    MESSAGE_SENT = "message.sent"
    MESSAGE_STATUS = "message.status"
    NEEDS_HUMAN = "conversation.needs_human"
    BOT_SWITCHED = "conversation.bot_switched"
    ACCOUNT_BLOCKED = "account.blocked"
    ACCOUNT_RESTORED = "account.restored"
    TEMPLATE_UPDATED = "template.updated"
    WEBHOOK_DISABLED = "webhook.disabled"
    """Another endpoint of the account was switched off because of its failures."""


TEST_EVENT = "webhook.test"
"""Sent on request only."""


class DisabledReason(StrEnum):
    """Why an endpoint is switched off. Stored and shown: stable words."""

    BY_HAND = "by_hand"
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """No delivery went well for three days."""


class Outcome(StrEnum):
    """How one delivery went. Stored, shown and a metric's label: stable words."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """An answer other than 2xx."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    FORBIDDEN_ADDRESS = "forbidden_address"
    """The URL leads to an address that is not public. Nothing was sent."""
    UNREADABLE_SECRET = "unreadable_secret"
    """Stored under another ENCRYPTION_KEY. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver of one account's events."""

    id: str
    account_id: str
    url: str
    events: tuple[str, ...]
    secret: str
    """Ciphertext."""
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    """The first failed delivery since the last one that went well."""
    created_at: datetime
    updated_at: datetime
    previous_secret: str | None = None
    """Ciphertext of the secret before this one."""
    previous_secret_until: datetime | None = None

    def signing_secrets(self, now: datetime) -> tuple[str, ...]:
        """Ciphertexts, the newest first: for a while after a rotation the secret before signs, too."""
        if self.previous_secret and self.previous_secret_until and now < self.previous_secret_until:
            return self.secret, self.previous_secret
        return (self.secret,)


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """What is told, once stored: the same bytes at every attempt."""

    id: str
    account_id: str
    conversation_id: str | None
    type: str
    payload: Json
    created_at: datetime

    def envelope(self) -> dict[str, object]:
        """The body, before it becomes JSON."""
        return {
            "id": self.id,
            "type": self.type,
            "timestamp": self.created_at.isoformat(),
            "account_id": self.account_id,
            "data": self.payload,
        }


@dataclass(frozen=True, slots=True)
class Waybill:
    """An event in the outbox and the endpoints that have not got it yet."""

    id: str
    account_id: str
    conversation_id: str | None
    created_at: datetime
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """`seen`: rows looked at; as many as the limit, and there may be more. `held`: endpoints for which older events
    wait for room in the queue."""

    rows: tuple[Waybill, ...]
    seen: int
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FailingEndpoint:
    """`waiting`: events that it has not got."""

    id: str
    account_id: str
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a receiver. `status` is `None` where there was none; `text`: its first characters; `retry_after`: seconds that
    it asks for (429, 503)."""

    outcome: Outcome
    status: int | None
    ms: int
    text: str = ""
    retry_after: float | None = None

    @property
    def is_gone(self) -> bool:
        """The receiver wants nothing any more (Standard Webhooks: 410)."""
        return self.status == 410


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt, as it is kept and shown."""

    id: int
    event_id: str
    type: str
    status: int | None
    outcome: str
    ms: int
    answer: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Load:
    """What the delivery of these events to this endpoint needs."""

    endpoint_id: str
    ids: tuple[str, ...]


class Loaded(NamedTuple):
    """The endpoint, if it is there, and those of the events that it has not got yet, in order."""

    endpoint: Endpoint | None
    events: tuple[OutboxEvent, ...]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The endpoint needs the events `told` no more. Note the `deliveries`; the newest `keep` stay. `last`: how the last
    one went, "ok", "failed", "gone", or `None` for none; gone, or failing for `off_after_seconds`, the endpoint is
    switched off."""

    endpoint_id: str
    told: tuple[str, ...]
    deliveries: tuple[tuple[OutboxEvent, Answer], ...]
    last: str | None
    off_after_seconds: float
    keep: int = KEPT_DELIVERIES


@dataclass(frozen=True, slots=True)
class Settled:
    """`switched_off`: why, if this call switched the endpoint off. `recovered`: it had failed before.
    `failing_seconds`: for how long it has been failing by now; 0: it does not."""

    switched_off: str | None
    recovered: bool
    failing_seconds: float = 0.0
