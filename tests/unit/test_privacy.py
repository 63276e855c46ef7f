"""Which dead letters are a customer's."""

from __future__ import annotations

import pytest

from app.core.queue import DeadLetter, Event
from app.domain.models import ContactTraces
from app.services.privacy_service import letters_about

ADA = ContactTraces(
    account_id="a", phone_number_id="900", wa_ids=("33612345678", "5511987654321"), user_ids=("FR.1",),
    conversation_ids=("0b1f6c2a",), message_ids=("wamid.1",),
)  # fmt: skip


def letter(event_id: str, mailbox: str, payload: str = "{}") -> DeadLetter:
    return DeadLetter("0-1-1", Event(event_id, mailbox, payload.encode()), "broken", 1, 0.0, ())


@pytest.mark.parametrize(
    "found",
    [
        letter("message:900:wamid.9", "message:900:33612345678"),
        letter("message:900:wamid.9", "message:900:system-FR.1"),
        letter("status:900:wamid.1:read", "status:900:somebody"),
        letter("status:900:wamid.9:read", "status:900:551187654321"),
        letter("human:0b1f6c2a:k", "outbound:900:0b1f6c2a"),
        letter("unknown:900:digest", "unknown:900", '{"shape":{"from":"33612345678"}}'),
        letter("unknown::digest", "unknown:digest", '{"shape":{"id":"wamid.1"}}'),
    ],
    ids=["number", "system", "message", "other form of the number", "person's reply", "unreadable", "unreadable id"],
)
def test_a_letter_is_theirs(found: DeadLetter) -> None:
    assert letters_about(ADA)(found)


@pytest.mark.parametrize(
    "other",
    [
        letter("message:900:wamid.9", "message:900:336", '{"contacts":[{"wa_id":"33612345678"}]}'),
        letter("message:901:wamid.9", "message:901:33612345678"),
        letter("echo:901:wamid.1", "echo:901:900"),
        letter("unknown:900:digest", "unknown:900", '{"shape":{"from_user_id":"FR.12"}}'),
        letter("status:900:wamid.11:read", "status:900:336"),
        letter("unknown:901:digest", "unknown:901", '{"shape":{"from":"33612345678"}}'),
    ],
    ids=[
        "their card",
        "their message to another account",
        "another account's of that id",
        "a longer user id",
        "a longer message id",
        "unreadable, and of another account",
    ],
)
def test_a_letter_of_another_customer_stays(other: DeadLetter) -> None:
    assert not letters_about(ADA)(other)
