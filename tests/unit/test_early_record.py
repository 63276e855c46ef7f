"""While people watch, messages are stored when they are accepted: a few a second, and in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    id = "account-1"

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []

    async def put(self, events: Sequence[Event]) -> PutResult:
        return PutResult(accepted=len(events), duplicates=0)

    async def by_phone_number_id(self, _number: str) -> Around:
        return self

    def has_readers(self, topic: str) -> bool:
        return topic == self.id

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


async def says(early: EarlyRecord, customer: str, text: str) -> None:
    event = WebhookEvent(
        id=f"message:1:{customer}-{text}", mailbox=f"message:1:{customer}", kind=Kind.MESSAGE, phone_number_id="1",
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
