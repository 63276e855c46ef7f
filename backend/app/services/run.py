"""One run of customer messages on its way through the bot service, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from app.domain.edits import questions
from app.domain.models import Account, Conversation, Inbound, InboundMessage, OpenedAnswer
from app.services.attachments import Collecting
from app.services.delivery import Hold
from app.services.spending import Bill

_TYPE = re.compile(r"[a-z_]{1,40}")
"""A type of a message in Meta's words; what looks otherwise is no type."""


@dataclass(frozen=True, slots=True)
class Run:
    """The messages of one claim, oldest first, all of one customer."""

    phone_number_id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    messages: tuple[InboundMessage, ...]
    accepted_at: datetime
    """When the first of them was accepted."""
    other_wa_id: str | None = None
    """The number on the contact card, where it is not the one that wrote."""


class RunHold(Hold, Protocol):
    """The worker's hold on the conversation while it is being answered."""

    async def refresh(self) -> Run:
        """The run as it is now, with what has arrived since the claim."""
        ...


@dataclass(slots=True)
class Handled:
    """What became of a run. `count`: how many of the claim's events are finished."""

    outcome: str
    count: int
    stages: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    """Why the customer got something else than the model's answer, codes only; `""` if they got it."""


@dataclass(slots=True)
class Work:
    """One run on its way through the service."""

    run: Run
    hold: RunHold
    account: Account
    conversation: Conversation
    asked: tuple[InboundMessage, ...]
    covers: tuple[str, ...]
    """The ids of what was asked, and of the edits to it; the first one is asked."""
    stages: dict[str, float]
    elsewhere: frozenset[str] = frozenset()
    """The ids of what another reply answers: asked no more, and in the run until that reply is done."""
    reason: str = ""
    """As in `Handled`."""
    bill: Bill = field(default_factory=Bill)
    files: Collecting | None = None
    """Those of the run, on their way."""
    opened: OpenedAnswer | None = None
    """The reply, if it was opened when the run was stored."""

    def ask(self, run: Run, inbound: Inbound) -> None:
        """What `run` asks, as it was stored."""
        asked, covers = questions(run.messages, inbound)
        self.run, self.conversation, self.asked, self.covers = run, inbound.conversation, asked, covers
        self.leave_out(self.elsewhere)

    def leave_out(self, elsewhere: frozenset[str]) -> None:
        self.elsewhere = elsewhere
        self.asked = tuple(message for message in self.asked if message.wa_message_id not in elsewhere)
        self.covers = tuple(wamid for wamid in self.covers if wamid not in elsewhere)


def types_of(messages: Sequence[InboundMessage]) -> str:
    """Meta's words for what came instead of text."""
    return "no text: " + ", ".join(sorted({_type(message) for message in messages})[:5])


def _type(message: InboundMessage) -> str:
    return message.type if _TYPE.fullmatch(message.type) else "other"
