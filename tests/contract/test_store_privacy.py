"""A customer's data found, handed out and erased, on every store."""

from __future__ import annotations

import uuid

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.core.queue import Event
from app.domain.errors import Erased, NotFound
from app.domain.models import Author, Status
from app.services.retention import Retention
from tests.support.fakes import FakeClock
from tests.support.store_kit import NewAccount, Scene, begin, message, unique


async def erase(store: SqlStore, contact_id: str, *message_ids: str) -> dict[str, int]:
    return dict(await store.erase_contact(contact_id, message_ids=message_ids, mailboxes=(), words=()))


async def test_traces_name_all_that_may_be_elsewhere(scene: Scene) -> None:
    asked, echo = message(), message("from the phone")
    conversation = await scene.receive(asked, wa_id="33600000001")
    await scene.store.record_inbound(
        scene.account.id, wa_id="33600000002", user_id="FR.1", name="Ada", messages=[message()]
    )
    await scene.store.record_inbound(
        scene.account.id, wa_id="33600000001", user_id="FR.1", name="Ada", messages=[message()]
    )
    await scene.store.record_echo(scene.account.id, wa_id=None, user_id="FR.1", message=echo)
    contact_id = (await scene.receive(wa_id="33600000001")).contact.id
    traces = await scene.store.contact_traces(contact_id)
    assert traces is not None
    assert traces.account_id == scene.account.id
    assert traces.phone_number_id == scene.account.phone_number_id
    assert {"33600000001", "33600000002"} <= set(traces.wa_ids)
    assert traces.user_ids == ("FR.1",)
    assert conversation.id in traces.conversation_ids, "also one that became part of another"
    assert {asked.wa_message_id, echo.wa_message_id} <= set(traces.message_ids)
    assert await scene.store.contact_traces(str(uuid.uuid4())) is None
    assert await scene.store.contact_traces("unknown") is None


async def test_what_is_erased_is_gone_and_told_again(scene: Scene, new_account: NewAccount) -> None:
    reply = await scene.reply()
    contact = (await scene.receive()).contact
    neighbour = await scene.receive(wa_id="33600000009")
    removed = await erase(scene.store, contact.id)
    assert removed["contacts"] == removed["conversations"] == removed["replies"] == 1
    assert removed["messages"] == 2
    assert await scene.store.get_conversation(reply.conversation_id) is None
    assert await scene.store.export_contact(contact.id) is None
    assert await erase(scene.store, contact.id) == removed
    traces = await scene.store.contact_traces(contact.id)
    assert traces is not None
    assert (traces.account_id, traces.removed) == (scene.account.id, removed)
    assert await scene.store.get_conversation(neighbour.id) is not None
    with pytest.raises(NotFound) as missing:
        await erase(scene.store, str(uuid.uuid4()))
    assert missing.value.code == "contact_not_found"


async def test_no_event_of_another_account_is_erased(scene: Scene, new_account: NewAccount) -> None:
    """Not even one that cannot be read. A customer's id is what a business' own Meta app says: it may be any word."""
    contact, other = (await scene.receive()).contact, await new_account()
    own, others, of_none = (
        Event(unique("unknown"), f"unknown:{place}", b'{"shape":{"entry":[]}}', immediate=False)
        for place in (scene.account.phone_number_id, other.phone_number_id, unique("digest"))
    )
    bounds = {"max_rows": 10**6, "max_bytes": 10**9}
    store = scene.store
    await store.inbox_put([own, others, of_none], **bounds, reopen=True)
    await store.journal_put([own, others, of_none], **bounds)
    await store.overflow_put([own, others, of_none], **bounds)
    removed = await store.erase_contact(contact.id, message_ids=(), mailboxes=(), words=("entry",))
    assert [removed[place] for place in ("inbox", "journal", "overflow")] == [2, 2, 2]
    for left, delete in (
        (await store.inbox_peek(limit=1000), store.inbox_delete),
        (await store.journal_next(after=0, limit=1000), store.journal_settle),
        (await store.overflow_peek(limit=1000), store.overflow_delete),
    ):
        assert {event.id for _, event in left} & {own.id, others.id, of_none.id} == {others.id}
        await delete([row for row, _ in left])


async def test_what_was_on_its_way_is_not_stored_again(scene: Scene, new_account: NewAccount) -> None:
    stored, queued, echo = message(), message(), message()
    contact = (await scene.receive(stored)).contact
    await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=echo)
    await erase(scene.store, contact.id, queued.wa_message_id)
    for late in (stored, queued):
        with pytest.raises(Erased):
            await scene.receive(late)
    with pytest.raises(Erased):
        await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=echo)
    assert (await scene.store.list_conversations(scene.account.id, limit=10, cursor=None)).items == ()
    assert not await scene.status(Status.READ, wamid=echo.wa_message_id)
    fresh = await scene.receive(message("I am back"))
    assert fresh.contact.id != contact.id
    scene.account = await new_account()
    assert (await scene.receive(stored)).unread_count == 1, "another account's message of the same id is another one"


async def test_a_reply_that_is_being_made_finds_nothing_to_send(scene: Scene) -> None:
    reply = await scene.reply()
    await erase(scene.store, (await scene.receive()).contact.id)
    with pytest.raises(NotFound):
        await scene.store.save_and_begin(
            reply.key, fence=1, covers=reply.covers, body="late", spent=None, parts=1, text="late",
            attempt=str(uuid.uuid4()),
        )  # fmt: skip
    with pytest.raises(NotFound):
        await scene.store.begin_part(reply.key, fence=1, part=0, parts=1, text="late")
    with pytest.raises(NotFound):
        await scene.store.open_reply(reply.conversation_id, key=unique(), author=Author.BOT, covers=(), fence=2)


async def test_a_place_of_its_own_is_erased_too(scene: Scene, sql: asyncpg.Connection) -> None:
    """How another table takes part: by a function of that name."""
    contact = (await scene.receive()).contact
    await sql.execute(
        "create table scraps (contact_id uuid); insert into scraps values ($$" + contact.id + "$$);"
        "grant all on scraps to service_role;"
        "create function chorus.erase_from_scraps(erasure chorus.erasure) returns bigint language sql as $f$"
        " with gone as (delete from public.scraps where contact_id = erasure.contact_id returning 1)"
        " select count(*) from gone $f$;"
        "grant execute on function chorus.erase_from_scraps to service_role"
    )
    try:
        assert (await erase(scene.store, contact.id))["scraps"] == 1
    finally:
        await sql.execute("drop function chorus.erase_from_scraps; drop table scraps")


async def test_a_customer_is_handed_out_with_every_message_and_its_status(scene: Scene) -> None:
    for n in range(5):
        await scene.receive(message(str(n)))
    conversation = await scene.receive()
    found = await scene.store.export_contact(conversation.contact.id)
    assert found is not None
    assert (found.account_id, found.contact["wa_id"], found.contact["name"]) == (scene.account.id, scene.wa_id, "Ada")
    assert [c["id"] for c in found.conversations] == [conversation.id]
    first = await scene.store.export_messages(conversation.id, after_seq=0, limit=4)
    rest = await scene.store.export_messages(conversation.id, after_seq=first[-1]["seq"], limit=4)
    assert [m["text"] for m in (*first, *rest)] == ["0", "1", "2", "3", "4", "hello"]
    assert {m["status"] for m in (*first, *rest)} == {"received"}
    assert await scene.store.export_contact(str(uuid.uuid4())) is None


# -- old messages ------------------------------------------------------------------------------------------------------


async def texts(scene: Scene, conversation_id: str) -> list[str | None]:
    return [m.text for m in (await scene.store.list_messages(conversation_id, limit=200, cursor=None)).items]


async def forget(scene: Scene, *, days: int, messages: int = 1000) -> int:
    """Every page of a round."""
    gone, after = await scene.store.forget_messages(days=days, after=None, conversations=50, messages=messages)
    while after is not None:
        more, after = await scene.store.forget_messages(days=days, after=after, conversations=50, messages=messages)
        gone += more
    return gone


async def age(sql: asyncpg.Connection, conversation_id: str, text: str = "old") -> None:
    for table, words in (("messages", "text like $2"), ("replies", "body like $2")):
        await sql.execute(
            f"update {table} set created_at = now() - interval '31 days' where conversation_id = $1::uuid and {words}",
            conversation_id, f"{text}%",
        )  # fmt: skip


async def test_messages_go_when_they_are_old_and_nothing_else_does(scene: Scene, sql: asyncpg.Connection) -> None:
    conversation = await scene.receive(*(message(f"old {n}") for n in range(7)), message("new"))
    neighbour = await scene.receive(message("old 9"), wa_id="33600000009")
    sent, waiting = await scene.reply(body="old answer"), await scene.reply(body="old and pending")
    await sql.execute("update replies set state = 'sent' where reply_key = $1", sent.key)
    await age(sql, conversation.id)
    assert await forget(scene, days=0) == 0
    assert await forget(scene, days=32, messages=3) == 0
    assert await forget(scene, days=30, messages=3) == 7
    assert await texts(scene, conversation.id) == ["hello", "hello", "new"]
    assert await texts(scene, neighbour.id) == ["old 9"]
    replies = await sql.fetch("select reply_key from replies where conversation_id = $1::uuid", conversation.id)
    assert [row["reply_key"] for row in replies] == [waiting.key]
    while await scene.store.index_search(rows=200, messages=2000):
        pass
    words = await sql.fetchval(
        "select string_agg(words::text, ' ') from conversation_words where conversation_id = $1::uuid", conversation.id
    )
    assert "old" not in words
    assert "new" in words


async def bodies(sql: asyncpg.Connection, conversation_id: str) -> set[str]:
    return {r["body"] for r in await sql.fetch("select body from replies where conversation_id = $1", conversation_id)}


async def test_replies_that_never_ended_go_once_they_cannot_be_sent(scene: Scene, sql: asyncpg.Connection) -> None:
    pending = await scene.reply(body="old and pending")
    sending = await scene.reply(body="old and sending", author=Author.HUMAN)
    await begin(scene.store, sending)
    await scene.reply(body="new and pending")
    conversation = pending.conversation_id
    await age(sql, conversation)
    await forget(scene, days=30)
    assert await bodies(sql, conversation) == {"old and pending", "old and sending", "new and pending"}
    closed = "update conversations set last_inbound_at = now() - interval '25 hours' where id = $1"
    await sql.execute(closed, conversation)
    await forget(scene, days=30)
    assert await bodies(sql, conversation) == {"new and pending"}
    with pytest.raises(NotFound):  # a worker that had it in its hands
        await begin(scene.store, pending)


async def test_a_reply_that_no_worker_has_had_for_a_day_goes_from_an_open_window(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    conversation = (await scene.reply(body="old and pending")).conversation_id
    await age(sql, conversation)
    async with sql.transaction():
        await sql.execute("alter table replies disable trigger touch")
        await sql.execute(
            "update replies set updated_at = now() - interval '25 hours' where conversation_id = $1", conversation
        )
        await sql.execute("alter table replies enable trigger touch")
    await forget(scene, days=30)
    assert await bodies(sql, conversation) == set()
    assert await texts(scene, conversation) == ["hello"]


async def test_what_receivers_answered_goes_too(scene: Scene, sql: asyncpg.Connection) -> None:
    """It may be what they were told."""
    endpoint = await scene.store.create_endpoint(
        scene.account.id, url="https://receiver.example/", events=["message.received"], secret="cipher", most=20
    )
    for text, days in (("old", 31), ("new", 29)):
        await sql.execute(
            "insert into webhook_deliveries (endpoint_id, event_id, type, status, outcome, ms, answer, at)"
            " values ($1, gen_random_uuid(), 'message.received', 200, 'delivered', 1, $2,"
            " now() - make_interval(days => $3))",
            endpoint.id, text, days,
        )  # fmt: skip
    await forget(scene, days=0)
    assert len(await scene.store.list_deliveries(endpoint.id, limit=10)) == 2
    await forget(scene, days=30)
    assert [each.answer for each in await scene.store.list_deliveries(endpoint.id, limit=10)] == ["new"]


async def test_a_reply_goes_although_its_messages_went_before_it(scene: Scene, sql: asyncpg.Connection) -> None:
    reply = await scene.reply(body="younger than its question")
    await sql.execute("update replies set state = 'silenced' where reply_key = $1", reply.key)
    await age(sql, reply.conversation_id, "hello")
    await forget(scene, days=30)
    assert await texts(scene, reply.conversation_id) == []
    assert await bodies(sql, reply.conversation_id) == {"younger than its question"}
    await age(sql, reply.conversation_id, "younger")
    await forget(scene, days=30)
    assert await bodies(sql, reply.conversation_id) == set()


async def test_a_round_begins_every_hour_and_goes_on_where_it_was(scene: Scene, sql: asyncpg.Connection) -> None:
    conversation = await scene.receive(*(message(f"old {n}") for n in range(3)))
    await age(sql, conversation.id)
    clock = FakeClock()
    retention = Retention(scene.store, days=30, clock=clock)
    while await retention.forget():
        pass
    assert await texts(scene, conversation.id) == []
    await scene.receive(message("old again"))
    await age(sql, conversation.id)
    assert not await retention.forget()
    assert await texts(scene, conversation.id) == ["old again"]
    clock.advance(3601)
    while await retention.forget():
        pass
    assert await texts(scene, conversation.id) == []


async def test_digests_of_erased_messages_go_after_eight_days(scene: Scene, sql: asyncpg.Connection) -> None:
    late = message()
    await erase(scene.store, (await scene.receive(late)).contact.id)
    await sql.execute("update erased_messages set erased_at = now() - interval '9 days'")
    await forget(scene, days=0)
    assert (await scene.receive(late)).unread_count == 1
