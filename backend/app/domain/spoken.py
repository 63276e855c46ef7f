"""What the customer reads of the model's answer. Pure."""

from __future__ import annotations

from datetime import datetime

from app.domain.handover import handover_text, person_called
from app.domain.markup import to_whatsapp
from app.domain.models import BotProfile, Generation, HandoverReason
from app.domain.promises import promises_person


def spoken(profile: BotProfile, generation: Generation, at: datetime) -> tuple[str, HandoverReason | None]:
    """The text as WhatsApp shows it, and why a person is called with it: the bot never promises one who is
    not called. `at`: for the business hours."""
    called = person_called(generation)
    said = called.message if called else generation.text
    text = to_whatsapp(said).strip() or said or handover_text(profile, at)
    if called:
        return text, called.reason
    return text, HandoverReason.PROMISED if promises_person(text) else None
