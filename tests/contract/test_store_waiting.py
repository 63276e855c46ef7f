"""What waits for an answer, as every store knows it."""

from __future__ import annotations

from app.adapters.sql_store import SqlStore
from app.domain.models import Author, Conversation, HandoverReason, Unanswered, Waiting
from app.domain.ports import SendDecision
from tests.support.store_kit import Scene, message, unique

FIRST_ID = "00000000-0000-0000-0000-000000000000"


async def waiting(store: SqlStore, conversation: Conversation) -> Waiting | None:
    """Through pages of one row, from before this conversation on: other tests have left hundreds that wait longer."""
    started = conversation.created_at
    after = Waiting(
        FIRST_ID, "", "", None, None, None, is_served=True, awaiting_since=started, last_message_at=started,
        needs_human_since=None,
    )  # fmt: skip
    while page := await store.waiting_conversations(older_than_seconds=0, limit=1, after=after):
        after = page[0]
        if after.conversation_id == conversation.id:
            return after
    return None


async def unanswered(store: SqlStore, conversation: Conversation) -> Unanswered:
    (found,) = await store.unanswered([conversation.id], fresh_seconds=0)
    return found


async def send(store: SqlStore, key: str) -> None:
    decision = await store.begin_part(key, fence=1, part=0, parts=1, text="hi")
    assert decision is SendDecision.SEND
    await store.complete_part(key, part=0, wamid=unique("wamid"), last=True)


async def test_a_message_waits_until_a_finished_reply_covers_it(scene: Scene) -> None:
    first, second = message(), message()
    conversation = await scene.receive(first)
    found = await waiting(scene.store, conversation)
    assert found is not None
    assert (found.phone_number_id, found.wa_id, found.is_served) == (scene.account.phone_number_id, scene.wa_id, True)
    reply = await scene.store.open_reply(
        conversation.id, key=first.wa_message_id, author=Author.BOT, covers=[first.wa_message_id], fence=1, body="hi"
    )
    await scene.receive(second)
    ids = [m.wa_message_id for m in (await unanswered(scene.store, conversation)).messages]
    assert ids == [first.wa_message_id, second.wa_message_id]
    await send(scene.store, reply.key)
    (left,) = (await unanswered(scene.store, conversation)).messages
    assert left.wa_message_id == second.wa_message_id
    assert left.payload == second.payload


async def test_the_mark_goes_only_if_nothing_has_happened_since(scene: Scene) -> None:
    conversation = await scene.receive()
    seen = await waiting(scene.store, conversation)
    assert seen is not None
    await scene.receive()
    await scene.store.stop_waiting([seen])
    later = await waiting(scene.store, conversation)
    assert later is not None
    assert later.awaiting_since == seen.awaiting_since
    await scene.store.stop_waiting([later])
    assert await waiting(scene.store, conversation) is None
    await scene.receive()
    assert await waiting(scene.store, conversation)


async def test_a_persons_reply_waits_until_it_has_ended(scene: Scene) -> None:
    conversation = await scene.receive()
    seen = await waiting(scene.store, conversation)
    assert seen is not None
    await scene.store.stop_waiting([seen])
    key = unique("human")
    await scene.store.open_reply(conversation.id, key=key, author=Author.HUMAN, covers=[], fence=1, body="I am here")
    found = await waiting(scene.store, conversation)
    assert found is not None
    assert not found.is_served, "a person has taken over"
    (reply,) = (await unanswered(scene.store, conversation)).replies
    assert (reply.key, reply.body) == (key, "I am here")
    await send(scene.store, key)
    assert (await unanswered(scene.store, conversation)).replies == ()


async def test_it_says_whether_and_when_a_person_was_called(scene: Scene) -> None:
    conversation = await scene.receive()
    await scene.store.set_needs_human(conversation.id, HandoverReason.UNREADABLE)
    found = await waiting(scene.store, conversation)
    assert found is not None
    assert found.needs_human_since is not None
    assert found.needs_human_since > found.awaiting_since


async def test_what_has_just_happened_is_named_as_news(scene: Scene) -> None:
    conversation = await scene.receive()
    (found,) = await scene.store.unanswered([conversation.id], fresh_seconds=60)
    assert found.has_news
    assert not (await unanswered(scene.store, conversation)).has_news


async def test_the_databases_history_has_a_name_and_only_grows(scene: Scene) -> None:
    before = await scene.store.database_history()
    await scene.receive()
    after = await scene.store.database_history()
    assert before is not None
    assert after is not None
    assert before.identity == after.identity
    assert before.position < after.position
