"""A message that was given up on calls a person, whatever made it a dead letter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.core.queue import Claim
from app.domain.models import HandoverReason
from app.sandbox import webhooks as wa
from app.services import dead_letter_watch
from app.services.conversation_service import outbound_event
from tests.support.desk import Desk, desk
from tests.support.queue_kit import claim_one, eventually


@pytest.fixture
async def made(valkey_url: str, store_url: str) -> AsyncIterator[Desk]:
    async with desk(valkey_url, store_url, lease_seconds=0.2, max_attempts=1) as made:
        yield made


async def put(desk: Desk, person: wa.Person, text: str, **more: object) -> Claim:
    await desk.queue.put(desk.events(person, wa.text(person, text, **more)))
    return await claim_one(desk.queue)


@pytest.mark.parametrize("end", ["parked", "failed too often", "died too often"])
async def test_a_message_that_is_given_up_on_is_stored_and_calls_a_person_once(made: Desk, end: str) -> None:
    person = made.person()
    claim = await put(made, person, "help")
    if end == "parked":
        await made.queue.park(claim, 1, "its own fault")
    elif end == "failed too often":
        assert await made.queue.retry_later(claim, 0, counted=True, reason="its own fault")
    else:

        async def reaped() -> bool:
            await made.queue.claim(1)
            return (await made.queue.stats()).dead == 1

        await eventually(reaped)
    assert not await made.watch.tell()
    conversation = await made.conversation_with(person.wa_id)
    assert conversation.needs_human_reason == HandoverReason.DEAD_LETTER
    assert await made.texts(conversation) == ["help"]
    await made.store.set_bot(conversation.id, enabled=True)  # a person has looked at it
    await made.watch.tell()
    assert not (await made.conversation_with(person.wa_id)).needs_human


async def test_what_cannot_even_be_stored_calls_a_person_where_the_customer_is_known(made: Desk) -> None:
    person = made.person()
    claim = await put(made, person, "x", id="".join(map(str, range(3000))))
    await made.queue.park(claim, 1, "too long an id")
    await made.watch.tell()
    conversation = await made.conversation_with(person.wa_id)
    assert conversation.needs_human_reason == HandoverReason.DEAD_LETTER
    assert await made.texts(conversation) == []


async def test_a_persons_reply_that_was_given_up_on_calls_them_back(made: Desk) -> None:
    person = made.person()
    conversation = await made.record(made.events(person, wa.text(person, "hello")))
    await made.queue.put([outbound_event("1", made.account.id, conversation.id, "human:1", "hello")])
    await made.queue.park(await claim_one(made.queue), 1, "why")
    await made.watch.tell()
    assert (await made.conversation_with(person.wa_id)).needs_human_reason == HandoverReason.DEAD_LETTER


async def test_letters_of_unknown_accounts_and_of_statuses_call_nobody(made: Desk) -> None:
    person = made.person()
    status = wa.status("wamid.x", "sent", recipient=person.wa_id)
    await made.queue.put(made.events(person, wa.text(person, "x"), business=wa.Business("999")))
    await made.queue.park(await claim_one(made.queue), 1, "no such account")
    event = made.events(person, wa.text(person, "y"))[0]
    await made.queue.dead_letters.add(
        event._replace(id="s", mailbox=f"status:{status['id']}", payload=b"not ours"), "malformed"
    )
    await made.watch.tell()
    assert (await made.store.list_conversations(made.account.id, limit=10, cursor=None)).items == ()
    assert await made.queue.dead_letters.untold(limit=10, since=0) == []


async def test_a_letter_that_is_too_old_is_forgotten_and_a_younger_one_is_kept(
    made: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = made.person()
    await made.queue.park(await put(made, person, "old"), 1, "its own fault")
    assert not await made.watch.forget()
    assert (await made.queue.stats()).dead == 1
    monkeypatch.setattr(dead_letter_watch, "KEEP_SECONDS", 0.0)
    await made.watch.forget()
    assert (stats := await made.queue.stats()).dead == stats.dead_bytes == stats.dead_lost == 0
