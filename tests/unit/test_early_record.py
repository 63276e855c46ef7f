"""While people watch, messages are stored when they are accepted: a few a second, and in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.queue import Event, PutResult
from app.domain.webhook import Kind, WebhookEvent
from app.services.early_record import LATE_SECONDS, MOST_A_SECOND, EarlyRecord
from app.services.ingest_service import Incoming, encode
from tests.support.fakes import FakeClock


class Around:
    """The queue takes everything, one account is watched, and what is stored is listed as (customer, text)."""

    is_watched = True
    has_reader = True
    id = "account-1"

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []

    async def put(self, events: Sequence[Event]) -> PutResult:
        return PutResult(accepted=len(events), duplicates=0)

    async def by_phone_number_id(self, number: str) -> Any:
        return self if number == "1" else SimpleNamespace(id="account-2")

    def has_readers(self, topic: str) -> bool:
        return self.has_reader and topic == self.id

    async def record(self, messages: Sequence[Incoming]) -> None:
        self.stored += [(message.body["wa_id"], message.body["message"]["text"]) for message in messages]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def early(around: Any, clock: FakeClock) -> EarlyRecord:
    return EarlyRecord(around, around, around, around, clock)


async def says(early: EarlyRecord, customer: str, text: str, *, number: str = "1", kind: Kind = Kind.MESSAGE) -> None:
    mailbox = f"{kind}:{number}:{customer}"
    event = WebhookEvent(
        id=f"{mailbox}-{text}", mailbox=mailbox, kind=kind, phone_number_id=number,
        body={"wa_id": customer, "message": {"type": "text", "text": text}},
    )  # fmt: skip
    await early.put([encode(event)])
    if running := [task for task in asyncio.all_tasks() if task.get_name() == "early record"]:
        await asyncio.wait(running)


async def test_a_busy_replica_stores_a_few_a_second_early(early: EarlyRecord, around: Around, clock: FakeClock) -> None:
    for n in range(3 * MOST_A_SECOND):
        await says(early, f"customer-{n}", "hello")
    assert around.stored == [(f"customer-{n}", "hello") for n in range(MOST_A_SECOND)]
    clock.advance(1)
    await says(early, "another", "hello")
    assert around.stored[-1] == ("another", "hello")


async def test_what_follows_a_message_that_was_left_to_the_worker_does_not_overtake_it(
    early: EarlyRecord, around: Around, clock: FakeClock
) -> None:
    for n in range(MOST_A_SECOND):
        await says(early, f"customer-{n}", "hello")
    await says(early, "late", "first")
    clock.advance(1)
    await says(early, "late", "second")
    assert "late" not in dict(around.stored)
    clock.advance(LATE_SECONDS)
    await says(early, "late", "third")
    assert around.stored[-1] == ("late", "third")


async def test_what_is_not_watched_and_statuses_take_no_room(early: EarlyRecord, around: Around) -> None:
    await says(early, "unwatched", "hello", number="2")  # only now it is known whose number that is
    for n in range(2 * MOST_A_SECOND):
        await says(early, f"unwatched-{n}", "hello", number="2")
        await says(early, f"watched-{n}", "read", kind=Kind.STATUS)
    for n in range(MOST_A_SECOND):
        await says(early, f"watched-{n}", "hello")
    assert around.stored == [(f"watched-{n}", "hello") for n in range(MOST_A_SECOND - 1)]


async def test_an_account_that_is_watched_later_is_stored_early_from_then_on(
    early: EarlyRecord, around: Around
) -> None:
    await says(early, "first", "hello")
    assert around.stored == [("first", "hello")]
    around.has_reader = False
    await says(early, "second", "hello")
    around.has_reader = True
    await says(early, "third", "hello")
    assert around.stored == [("first", "hello"), ("third", "hello")]
