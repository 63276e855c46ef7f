"""Where Postgres stands in for the queue, one account's flood is kept for a person and stops no other account."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.api.deps import OPERATOR
from app.core.errors import Unavailable
from app.domain.models import Account, HandoverReason
from app.localhost.servers import Valkey
from app.sandbox import webhooks as wa
from tests.support.desk import Desk, desk

FORGETFUL = {"redis_durability": "none", "ingest_fallback": "database"}
ROOM = 100
STRENGTH = 20
"""Webhooks of the innocent account: so many were refused in the audit."""


def webhook(of: Account, number: int, *, text: str = "hello") -> dict[str, Any]:
    person = wa.Person(f"3364{number:07d}", "Awa")
    message = wa.text(person, text, id=f"wamid.{of.phone_number_id}.{number}")
    return wa.envelope(wa.messages_change(wa.Business(of.phone_number_id), [message], [person]))


def delivered(of: Account, number: int) -> dict[str, Any]:
    status = wa.status(f"wamid.out.{number}", "delivered", recipient=f"3365{number:07d}")
    return wa.envelope(wa.statuses_change(wa.Business(of.phone_number_id), [status]))


def diverted() -> float:
    return REGISTRY.get_sample_value("chorus_queue_events_total", {"outcome": "diverted"}) or 0


async def flood(made: Desk) -> Account:
    """Another account's: 120 messages and 120 statuses, each of another customer."""
    loud, before = await made.another_account(), diverted()
    for n in range(120):
        await made.ingest.accept(webhook(loud, n))
        await made.ingest.accept(delivered(loud, n))
    assert diverted() - before == 240 - ROOM // 2
    return loud


async def accepted(made: Desk) -> int:
    """Of the innocent account's webhooks, those that wait for the bot and not for a person."""
    results = [await made.ingest.accept(webhook(made.account, n)) for n in range(STRENGTH)]
    assert not any(result.diverted for result in results)
    return sum(result.accepted for result in results)


async def test_one_account_cannot_fill_the_journal(valkey_url: str, store_url: str) -> None:
    async with desk(valkey_url, store_url, changed=FORGETFUL | {"queue_max_pending": ROOM}) as made:
        loud = await flood(made)
        assert await accepted(made) == STRENGTH
        rows = await made.store.journal_next(after=0, limit=1000)
        assert len(rows) == ROOM // 2 + STRENGTH
        while await made.drain.drain():
            pass
        page = await made.store.list_conversations(loud.id, limit=100, cursor=None)
        assert len(page.items) == 120 - ROOM // 4
        assert {found.needs_human_reason for found in page.items} == {HandoverReason.OVERFLOW}


async def test_one_account_cannot_fill_the_inbox_while_redis_is_away(
    valkey: Valkey, valkey_url: str, store_url: str
) -> None:
    async with desk(valkey_url, store_url, changed={"ingest_fallback": "database", "queue_max_pending": ROOM}) as made:
        valkey.kill()
        try:
            await flood(made)
            assert await accepted(made) == STRENGTH
            assert len(await made.store.inbox_peek(limit=1000)) == ROOM // 2 + STRENGTH
            assert len(await made.store.overflow_peek(limit=1000)) == 240 - ROOM // 2
        finally:
            valkey.start()


async def test_the_longest_messages_of_one_account_leave_room_for_the_others_bytes(
    valkey_url: str, store_url: str
) -> None:
    async with desk(valkey_url, store_url, changed=FORGETFUL | {"queue_max_bytes": 1_000_000}) as made:
        loud = await made.another_account()
        for n in range(20):
            await made.ingest.accept(webhook(loud, n, text="é" * 40_000))
        assert await accepted(made) == STRENGTH
        rows = await made.store.journal_next(after=0, limit=1000)
        assert sum(len(event.payload) for _, event in rows) < 600_000


async def test_dead_letters_give_their_room_in_the_journal_back(valkey_url: str, store_url: str) -> None:
    async with desk(valkey_url, store_url, changed=FORGETFUL | {"queue_max_pending": ROOM}) as made:
        journal = made.journal
        assert journal is not None
        for start in (0, 50, 100):
            results = [await made.ingest.accept(webhook(made.account, start + n)) for n in range(50)]
            assert not any(result.diverted for result in results)
            await journal._move()
            claims = await made.queue.claim(100)
            assert len(claims) == 50
            for claim in claims:
                await made.queue.park(claim, 1, "no")
            while await made.watch.tell():
                pass


async def test_a_reply_of_a_person_that_finds_no_room_is_refused_and_not_kept(valkey_url: str, store_url: str) -> None:
    async with desk(valkey_url, store_url, changed=FORGETFUL | {"queue_max_pending": 10}) as made:
        person = made.person()
        conversation = await made.record(made.events(person, wa.text(person, "hello")))
        for n in range(5):
            await made.ingest.accept(webhook(made.account, n))
        with pytest.raises(Unavailable, match="of this account"):
            await made.conversations.reply_as_human(OPERATOR, conversation.id, "I am here", idempotency_key=None)
        assert await made.store.overflow_peek(limit=10) == []
