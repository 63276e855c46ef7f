"""What Postgres has and the queue has lost is answered once, or a person is called; an ordinary day is left alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from app.core.queue import Event, PutResult, Queue
from app.core.redis.client import connect
from app.domain.models import Author, Conversation, HandoverReason
from app.domain.ports import SendDecision
from app.sandbox import webhooks as wa
from app.services.ingest_service import decode
from app.services.unanswered import UnansweredSearch
from tests.support.desk import Desk, desk
from tests.support.office import MakeOffice
from tests.support.queue_kit import claim_one, ids


@pytest.fixture
async def made(valkey_url: str, store_url: str) -> AsyncIterator[Desk]:
    async with desk(valkey_url, store_url) as made:
        yield made


async def waiting(desk: Desk) -> list[str]:
    page = await desk.store.waiting_conversations(older_than_seconds=0, limit=100, after=None)
    return [each.conversation_id for each in page]


async def answer(desk: Desk, conversation: Conversation, *covers: str) -> None:
    await desk.store.open_reply(conversation.id, key=covers[0], author=Author.BOT, covers=covers, fence=1, body="hi")
    decision = await desk.store.begin_part(covers[0], fence=1, part=0, parts=1, text="hi")
    assert decision is SendDecision.SEND
    await desk.store.complete_part(covers[0], part=0, wamid=f"out-{covers[0]}", last=True)


def body(event: Event) -> dict[str, object]:
    return {name: value for name, value in decode(event).body.items() if name != "other_wa_id"}


async def test_after_a_wiped_redis_everything_recorded_is_answered_once(
    make_office: MakeOffice, valkey_url: str
) -> None:
    office = await make_office()
    search = UnansweredSearch(office.queue, office.store, grace_seconds=0)
    people = [office.person(f"P{n}") for n in range(5)]
    fault = await office.control.add_fault("gemini", gemini="unavailable")
    for person in people:
        await office.receive(person, wa.text(person, "hello"), wa.text(person, "are you there?"))

    async def recorded() -> bool:
        page = await office.store.list_conversations(office.account.id, limit=100, cursor=None)
        return sum(found.unread_count for found in page.items) == 10

    await office.until(recorded)
    redis = connect(valkey_url)
    await redis.flushall()
    await redis.aclose()
    await office.control.remove_fault(fault)

    async def answered() -> bool:
        await search.look()
        return all([await office.sends(person) for person in people])

    await office.until(answered, timeout_seconds=20)
    await office.until_idle()
    await search.look()
    await office.until_idle()
    assert [len(await office.sends(person)) for person in people] == [1] * 5


async def test_what_has_a_mailbox_is_left_to_the_queue_and_what_was_answered_is_forgotten(made: Desk) -> None:
    asking, answered = made.person(), made.person()
    await made.queue.put(made.events(asking, wa.text(asking, "hello")))
    claim = await claim_one(made.queue)
    open_one = await made.record(list(claim.events))
    asked = wa.text(answered, "hello")
    done = await made.record(made.events(answered, asked))
    await answer(made, done, asked["id"])
    assert sorted(await waiting(made)) == sorted([open_one.id, done.id])
    await made.search.look()
    assert await waiting(made) == [open_one.id]
    assert (await made.queue.stats()).pending == 1
    assert not (await made.conversation_with(asking.wa_id)).needs_human


async def test_only_what_no_reply_covers_is_put_back_under_the_ids_it_had(made: Desk) -> None:
    person = made.person()
    texts = [wa.text(person, str(n)) for n in range(3)]
    events = made.events(person, *texts)
    conversation = await made.record(events)
    await answer(made, conversation, texts[0]["id"])
    await made.search.look()
    claim = await claim_one(made.queue)
    assert ids(claim) == [event.id for event in events[1:]]
    assert claim.mailbox == events[0].mailbox
    assert [body(event) for event in claim.events] == [body(event) for event in events[1:]]
    await made.search.look()
    assert len((await made.queue.refresh(claim)).events) == 2, "once"


async def test_what_the_queue_has_finished_and_postgres_does_not_know_calls_a_person(made: Desk) -> None:
    """Postgres failed over to a copy from before the answer: to answer now might be the second time."""
    person = made.person()
    await made.queue.put(made.events(person, wa.text(person, "hello")))
    claim = await claim_one(made.queue)
    await made.record(list(claim.events))
    await made.queue.done(claim)
    await made.search.look()
    assert (await made.conversation_with(person.wa_id)).needs_human_reason == HandoverReason.UNANSWERED
    assert (await made.queue.stats()).pending == 0
    assert await waiting(made) == []


class Overtaken:
    """A queue into which another replica has put the same a moment before."""

    def __init__(self, queue: Queue, before: Callable[[], Awaitable[object]]) -> None:
        self._queue = queue
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def put(self, events: Sequence[Event]) -> PutResult:
        await self._before()
        return await self._queue.put(events)


@pytest.mark.parametrize("is_answered", [False, True], ids=["waits again", "is answered by now"])
async def test_what_two_replicas_put_back_at_once_calls_no_person(made: Desk, is_answered: bool) -> None:
    person = made.person()
    asked = wa.text(person, "hello")
    conversation = await made.record(made.events(person, asked))

    async def other_replica() -> None:
        await made.search.look()
        if is_answered:
            claim = await claim_one(made.queue)
            await answer(made, conversation, asked["id"])
            await made.queue.done(claim)

    late = UnansweredSearch(cast("Queue", Overtaken(made.queue, other_replica)), made.store, grace_seconds=0)
    await late.look()
    assert not (await made.conversation_with(person.wa_id)).needs_human
    assert (await made.queue.stats()).pending == (0 if is_answered else 1)


async def test_a_message_that_is_nearly_too_late_to_answer_calls_a_person(made: Desk) -> None:
    person = made.person()
    await made.record(made.events(person, wa.text(person, "hello", timestamp=str(int(time.time()) - 23 * 3600 - 3000))))
    await made.search.look()
    assert (await made.conversation_with(person.wa_id)).needs_human_reason == HandoverReason.UNANSWERED
    assert (await made.queue.stats()).pending == 0


@pytest.mark.parametrize("why", ["the bot is off", "a person was called", "nothing to answer"])
async def test_what_needs_no_answer_is_not_put_back(made: Desk, why: str) -> None:
    person = made.person()
    message = wa.reaction(person, "wamid.of-ours", "👍") if why == "nothing to answer" else wa.text(person, "hello")
    conversation = await made.record(made.events(person, message))
    if why == "the bot is off":
        await made.store.set_bot(conversation.id, enabled=False)
    elif why == "a person was called":
        await made.store.set_needs_human(conversation.id, HandoverReason.UNREADABLE)
    await made.search.look()
    assert (await made.queue.stats()).pending == 0
    assert await waiting(made) == []


async def test_a_persons_reply_that_redis_lost_is_put_back(made: Desk) -> None:
    person = made.person()
    conversation = await made.record(made.events(person, wa.text(person, "hello")))
    await made.store.open_reply(
        conversation.id, key="human:1", author=Author.HUMAN, covers=[], fence=0, body="I am here"
    )
    await made.search.look()
    claim = await claim_one(made.queue)
    assert (ids(claim), claim.mailbox) == (["human:1"], f"outbound:{made.account.phone_number_id}:{conversation.id}")
