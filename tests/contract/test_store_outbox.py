"""Events for other systems: written if and only if the change committed, kept until each endpoint has them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.adapters.sql_store import SqlStore
from app.domain.endpoints import Answer, Endpoint, EventType, Load, Loaded, OutboxEvent, Outcome, Settlement
from app.domain.errors import Conflict, NotFound
from app.domain.models import Author, BlockReason, HandoverReason, Status
from tests.support.store_kit import NOW, Scene, begin, message, uncommitted, unique

GOOD = Answer(Outcome.DELIVERED, 200, 3, "ok")
BAD = Answer(Outcome.REFUSED, 500, 3, "oops \0 é")


async def listen(scene: Scene, *events: str, url: str = "https://receiver.example/") -> Endpoint:
    return await scene.store.create_endpoint(
        scene.account.id, url=url, events=events or [*EventType], secret="cipher", most=20
    )


async def written(scene: Scene, sql: asyncpg.Connection) -> list[asyncpg.Record]:
    return await sql.fetch(
        "select * from outbox where account_id = $1 order by seq", uuid.UUID(scene.account.id)
    )  # fmt: skip


async def types(scene: Scene, sql: asyncpg.Connection) -> list[str]:
    return [row["type"] for row in await written(scene, sql)]


async def settle(
    store: SqlStore, endpoint: Endpoint, events: Sequence[OutboxEvent], *, last: str | None, answer: Answer = GOOD
) -> tuple[str | None, bool]:
    told = tuple(event.id for event in events) if last == "ok" else ()
    deliveries = tuple((event, answer) for event in events)
    ((done,), ()) = await store.outbox_work([Settlement(endpoint.id, told, deliveries, last, 3 * 86400, keep=5)], [])
    return done.switched_off, done.recovered


async def load(store: SqlStore, endpoint_id: str, ids: Sequence[str]) -> Loaded:
    ((), (loaded,)) = await store.outbox_work([], [Load(endpoint_id, tuple(ids))])
    return loaded


async def look(scene: Scene, endpoint: Endpoint) -> Endpoint:
    found = await scene.store.get_endpoint(scene.account.id, endpoint.id)
    assert found is not None
    return found


# -- what is written ---------------------------------------------------------------------------------------------------


async def test_each_change_that_is_listened_for_writes_one_event_in_order(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await listen(scene)
    reply = await scene.reply(body="part 0")
    await begin(scene.store, reply)
    assert await types(scene, sql) == ["message.received"]  # a send that is under way has not gone out
    wamid = unique("wamid")
    for _ in range(2):  # a repetition tells nothing twice
        await scene.store.complete_part(reply.key, part=0, wamid=wamid, last=True)
        await scene.status(Status.DELIVERED, wamid=wamid)
        await scene.store.set_needs_human(reply.conversation_id, HandoverReason.UNREADABLE)
    await scene.store.set_bot(reply.conversation_id, enabled=True)
    await scene.store.set_bot(reply.conversation_id, enabled=False)
    rows = await written(scene, sql)
    assert [row["type"] for row in rows] == [
        "message.received", "message.sent", "message.status", "conversation.needs_human", "conversation.bot_switched",
    ]  # fmt: skip
    assert {str(row["conversation_id"]) for row in rows} == {reply.conversation_id}
    _, waybills = await load(scene.store, str(uuid.uuid4()), [str(row["id"]) for row in rows])
    received, sent, status, needs, switched = [event.payload for event in waybills]
    assert received["message"]["text"] == "hello"
    assert (received["contact"]["wa_id"], received["contact"]["name"]) == (scene.wa_id, "Ada")
    assert (sent["message"]["wa_message_id"], sent["message"]["text"], sent["message"]["author"]) == (
        wamid, "part 0", "bot",
    )  # fmt: skip
    assert (status["message"]["status"], status["message"]["wa_message_id"]) == ("delivered", wamid)
    assert "text" not in status["message"]
    assert needs["conversation"]["needs_human_reason"] == "unreadable"
    assert switched["conversation"]["bot_enabled"] is False


async def test_an_account_that_nobody_listens_to_writes_nothing(scene: Scene, sql: asyncpg.Connection) -> None:
    other = await listen(scene, "message.status")
    await scene.store.update_endpoint(scene.account.id, other.id, {"enabled": False})
    await listen(scene, "account.blocked")
    reply = await scene.reply()
    await begin(scene.store, reply)
    await scene.store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
    await scene.store.set_needs_human(reply.conversation_id, HandoverReason.UNREADABLE)
    assert await written(scene, sql) == []


async def test_a_change_that_is_rolled_back_is_not_told_and_one_that_waits_is_not_yet(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await listen(scene)
    conversation = await scene.receive()
    flag = "update conversations set needs_human = true where id = $1"
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(flag, uuid.UUID(conversation.id))
    assert len(await unmoved(scene)) == 1  # the store's session does not see what is not committed
    await transaction.rollback()
    assert await types(scene, sql) == ["message.received"]
    async with uncommitted(sql, flag, uuid.UUID(conversation.id)):
        pass
    assert await types(scene, sql) == ["message.received", "conversation.needs_human"]  # psql made the change


async def test_a_status_that_overtakes_its_send_is_told_after_it(scene: Scene, sql: asyncpg.Connection) -> None:
    await listen(scene, "message.sent", "message.status")
    reply = await scene.reply()
    await begin(scene.store, reply)
    wamid = unique("wamid")
    await scene.status(Status.READ, wamid=wamid, key=f"{reply.key}#0")
    await scene.store.complete_part(reply.key, part=0, wamid=wamid, last=True)
    assert await types(scene, sql) == ["message.sent", "message.status"]


async def test_a_send_that_failed_is_a_status_and_not_sent(scene: Scene, sql: asyncpg.Connection) -> None:
    await listen(scene, "message.sent", "message.status")
    reply = await scene.reply()
    await begin(scene.store, reply)
    await scene.store.fail_part(reply.key, fence=1, part=0, error={"code": 1}, final=True)
    assert await types(scene, sql) == ["message.status"]


async def test_a_message_from_the_business_app_is_sent_and_switches_the_bot(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await listen(scene)
    await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=message("by hand"))
    assert await types(scene, sql) == ["message.sent", "conversation.bot_switched"]


async def test_a_block_and_its_end_are_told_with_the_reason(scene: Scene, sql: asyncpg.Connection) -> None:
    await listen(scene)
    given = {"access_token": "cipher", "reason": BlockReason.TOKEN_INVALID}
    for _ in range(4):
        await scene.store.account_refused(scene.account.id, **given, confirm=2)
    await scene.store.account_accepted(scene.account.id, access_token="cipher")
    assert await types(scene, sql) == ["account.blocked", "account.restored"]
    for row in await written(scene, sql):
        assert row["conversation_id"] is None
        assert "token_invalid" in row["payload"]


# -- endpoints ---------------------------------------------------------------------------------------------------------


async def test_endpoints_are_bounded_changed_and_deleted(scene: Scene) -> None:
    first = await listen(scene, "message.sent")
    assert (first.enabled, first.events, first.disabled_reason) == (True, ("message.sent",), None)
    second = await listen(scene, "message.sent", url="https://other.example/")
    with pytest.raises(Conflict, match="as many webhooks"):
        await scene.store.create_endpoint(
            scene.account.id, url="https://x.example/", events=["message.sent"], secret="c", most=2
        )
    assert await scene.store.list_endpoints(scene.account.id) == (first, second)
    off = await scene.store.update_endpoint(scene.account.id, first.id, {"enabled": False})
    assert (off.enabled, off.disabled_reason, off.disabled_at is None) == (False, "by_hand", False)
    on = await scene.store.update_endpoint(
        scene.account.id, first.id, {"enabled": True, "events": ["account.blocked"], "url": "https://y.example/"}
    )
    assert (on.enabled, on.disabled_reason, on.events, on.url) == (
        True, None, ("account.blocked",), "https://y.example/",
    )  # fmt: skip
    assert on.secret == "cipher"
    await scene.store.delete_endpoint(scene.account.id, first.id)
    await scene.store.delete_endpoint(scene.account.id, first.id)
    assert await scene.store.list_endpoints(scene.account.id) == (second,)


async def test_an_endpoint_belongs_to_its_account(scene: Scene, store: SqlStore, new_account: object) -> None:
    endpoint = await listen(scene)
    other = (await new_account()).id  # type: ignore[operator]  # the fixture's type is a protocol of its own
    assert await store.get_endpoint(other, endpoint.id) is None
    with pytest.raises(NotFound, match="webhook"):
        await store.update_endpoint(other, endpoint.id, {"enabled": False})
    await store.delete_endpoint(other, endpoint.id)
    assert await look(scene, endpoint) == endpoint
    with pytest.raises(NotFound, match="account"):
        await store.create_endpoint(str(uuid.uuid4()), url="https://x.example/", events=["a"], secret="c", most=2)


async def test_a_secret_is_replaced_only_by_whoever_knows_the_stored_one(scene: Scene) -> None:
    endpoint = await listen(scene)
    assert not await scene.store.replace_endpoint_secret(endpoint.id, expected="another", secret="new")
    assert await scene.store.replace_endpoint_secret(endpoint.id, expected="cipher", secret="new")
    assert await scene.store.replace_endpoint_secret(endpoint.id, expected="cipher", secret="new")  # a repetition
    pages, after = [], None
    while page := await scene.store.endpoint_secrets(after=after, limit=3):
        pages += page
        after = page[-1][0]
    assert (endpoint.id, "new") in pages
    assert pages == sorted(pages)


async def test_the_secret_before_signs_for_a_while_and_is_encrypted_anew_too(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    store, account, endpoint = scene.store, scene.account.id, await listen(scene)
    for _ in range(2):  # a repetition after a lost answer
        changed = await store.update_endpoint(account, endpoint.id, {"secret": "second", "overlap_seconds": 3600})
    assert changed.previous_secret_until is not None
    assert changed.signing_secrets(changed.previous_secret_until - timedelta(seconds=1)) == ("second", "cipher")
    assert changed.signing_secrets(changed.previous_secret_until) == ("second",)
    assert await store.replace_endpoint_secret(endpoint.id, expected="cipher", secret="cipher anew")
    found = {secret for id_, secret in await store.endpoint_secrets(after=None, limit=100_000) if id_ == endpoint.id}
    assert found == {"second", "cipher anew"}
    await sql.execute("update webhook_endpoints set previous_secret_until = now() where id = $1::uuid", endpoint.id)
    assert (endpoint.id, "cipher anew") not in await store.endpoint_secrets(after=None, limit=100_000)
    leaked = await store.update_endpoint(account, endpoint.id, {"secret": "third", "overlap_seconds": 0})
    assert (leaked.secret, leaked.previous_secret, leaked.previous_secret_until) == ("third", None, None)


# -- the way out -------------------------------------------------------------------------------------------------------


async def unmoved(scene: Scene) -> list[tuple[str, tuple[str, ...]]]:
    """This account's: the database is shared."""
    page = await scene.store.outbox_next(limit=100_000)
    return [(each.id, each.endpoints) for each in page.rows if each.account_id == scene.account.id]


async def test_an_event_stays_until_each_endpoint_has_it(scene: Scene, sql: asyncpg.Connection) -> None:
    first, second = await listen(scene, "message.received"), await listen(scene)
    await listen(scene, "account.blocked")
    await scene.receive(message(), message())
    ids = [str(row["id"]) for row in await written(scene, sql)]
    assert await unmoved(scene) == [(event, (first.id, second.id)) for event in ids]
    await scene.store.outbox_moved(ids, life="one")
    assert await unmoved(scene) == []
    found, events = await load(scene.store, first.id, ids)
    assert found == first
    assert [event.id for event in events] == ids
    for _ in range(2):
        await settle(scene.store, first, events, last="ok")
        assert (await load(scene.store, first.id, ids))[1] == ()
        assert (await load(scene.store, second.id, ids))[1] == events
    await settle(scene.store, second, events, last="ok")
    assert await written(scene, sql) == []


async def test_what_a_queue_forgot_is_moved_again_but_not_to_those_who_have_it(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    first, second = await listen(scene), await listen(scene)
    await scene.receive()
    ((event, _),) = await unmoved(scene)
    await scene.store.outbox_moved([event], life="one")
    _, events = await load(scene.store, first.id, [event])
    await settle(scene.store, first, events, last="ok")
    await scene.store.outbox_begin(life="one", keep_seconds=1000, limit=100_000)
    assert await unmoved(scene) == []
    await scene.store.outbox_begin(life="two", keep_seconds=1000, limit=100_000)
    assert await unmoved(scene) == [(event, (second.id,))]
    await scene.store.outbox_moved([event], life="two")
    await sql.execute("update outbox set created_at = now() - interval '1 hour' where id = $1", uuid.UUID(event))
    await scene.store.outbox_begin(life="two", keep_seconds=1000, limit=100_000)
    assert await written(scene, sql) == []


async def test_very_many_are_moved_again_page_by_page(scene: Scene, sql: asyncpg.Connection) -> None:
    endpoint = await listen(scene)
    await sql.execute("delete from outbox")
    await scene.receive(message(), message(), message())
    ids = [str(row["id"]) for row in await written(scene, sql)]
    await unmoved(scene)
    await scene.store.outbox_moved(ids, life="one")
    assert await scene.store.outbox_begin(life="two", keep_seconds=1000, limit=2) == (2, 0)
    assert await unmoved(scene) == [(event, (endpoint.id,)) for event in ids[:2]], "the oldest first"
    assert await scene.store.outbox_begin(life="two", keep_seconds=1000, limit=2) == (1, 0)
    assert await unmoved(scene) == [(event, (endpoint.id,)) for event in ids]


async def test_the_oldest_that_was_not_moved_tells_how_long_it_waits(scene: Scene, sql: asyncpg.Connection) -> None:
    await listen(scene)
    await sql.execute("delete from outbox")
    assert await scene.store.outbox_oldest_seconds() == 0
    await scene.receive(message(), message())
    await sql.execute("update outbox set created_at = now() - interval '10 minutes' where life is null")
    assert 600 <= await scene.store.outbox_oldest_seconds() < 660
    await scene.store.outbox_moved([event for event, _ in await unmoved(scene)], life="one")
    assert await scene.store.outbox_oldest_seconds() == 0


async def test_what_no_endpoint_wants_any_more_goes(scene: Scene, sql: asyncpg.Connection) -> None:
    endpoint = await listen(scene)
    await scene.receive()
    await scene.store.delete_endpoint(scene.account.id, endpoint.id)
    assert await unmoved(scene) == []
    assert await written(scene, sql) == []


async def test_deliveries_are_shown_the_newest_first_and_the_oldest_go(scene: Scene) -> None:
    endpoint = await listen(scene)
    events = [OutboxEvent(str(uuid.uuid4()), scene.account.id, None, f"type.{n}", {}, NOW) for n in range(8)]
    await settle(scene.store, endpoint, events[:6], last=None)
    await settle(scene.store, endpoint, events[6:], last="failed", answer=BAD)
    found = await scene.store.list_deliveries(endpoint.id, limit=200)
    assert [each.event_id for each in found] == [event.id for event in reversed(events[3:])]
    assert (found[0].status, found[0].outcome, found[0].ms, found[0].answer) == (500, "refused", 3, "oops \ufffd é")
    assert [each.type for each in await scene.store.list_deliveries(endpoint.id, limit=1)] == ["type.7"]


async def test_an_endpoint_that_fails_for_too_long_or_is_gone_is_switched_off_once(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    endpoint = await listen(scene)
    event = [OutboxEvent(str(uuid.uuid4()), scene.account.id, None, "t", {}, NOW)]
    assert await settle(scene.store, endpoint, event, last="failed", answer=BAD) == (None, False)
    since = (await look(scene, endpoint)).failing_since
    assert since is not None
    assert await settle(scene.store, endpoint, event, last="failed", answer=BAD) == (None, False)
    assert (await look(scene, endpoint)).failing_since == since
    assert await settle(scene.store, endpoint, event, last="ok") == (None, True)
    assert await settle(scene.store, endpoint, event, last="ok") == (None, False)
    await settle(scene.store, endpoint, event, last="failed", answer=BAD)
    await sql.execute(
        "update webhook_endpoints set failing_since = now() - $2::interval where id = $1", uuid.UUID(endpoint.id),
        timedelta(days=3, seconds=1),
    )  # fmt: skip
    assert await settle(scene.store, endpoint, event, last="failed", answer=BAD) == ("failing", False)
    assert await settle(scene.store, endpoint, event, last="gone", answer=BAD) == (None, False)
    off = await look(scene, endpoint)
    assert (off.enabled, off.disabled_reason) == (False, "failing")
    await scene.store.update_endpoint(scene.account.id, endpoint.id, {"enabled": True})
    assert (await look(scene, endpoint)).failing_since is None
    assert await settle(scene.store, endpoint, event, last="gone", answer=BAD) == ("gone", False)


async def test_settlements_of_one_call_stand_in_any_order_and_what_it_loads_knows_of_them(scene: Scene) -> None:
    endpoints = [await listen(scene) for _ in range(2)]
    await scene.receive(message(), message())
    ids = tuple(event for event, _ in await unmoved(scene))
    first, second = sorted(endpoints, key=lambda each: each.id, reverse=True)
    _, events = await load(scene.store, first.id, ids)
    good = tuple((event, GOOD) for event in events)
    settlements = [
        Settlement(first.id, ids, good, "ok", 1000),
        Settlement(second.id, ids[:1], (good[0], (events[1], BAD)), "failed", 1000),
        Settlement(str(uuid.uuid4()), ids, good, "ok", 1000),
    ]
    settled, loaded = await scene.store.outbox_work(settlements, [Load(second.id, ids), Load(first.id, ids)])
    assert [each.failing_seconds is not None for each in settled] == [True] * 3
    assert [[event.id for event in each.events] for each in loaded] == [[ids[1]], []]
    assert [each.endpoint and each.endpoint.id for each in loaded] == [second.id, first.id]
    assert [(await look(scene, each)).failing_since is None for each in (first, second)] == [True, False]


async def test_workers_that_settle_at_the_same_moment_lose_nothing(scene: Scene, sql: asyncpg.Connection) -> None:
    endpoints = [await listen(scene) for _ in range(3)]
    await scene.receive(*[message() for _ in range(5)])
    ids = [event for event, _ in await unmoved(scene)]
    loaded = [(await load(scene.store, endpoint.id, ids))[1] for endpoint in endpoints]
    await asyncio.gather(
        *(
            settle(scene.store, endpoint, order, last="ok")
            for endpoint, events in zip(endpoints, loaded, strict=True)
            for order in (events, events[::-1])
        )
    )
    assert await written(scene, sql) == []


async def test_the_bot_of_a_person_is_told_once(scene: Scene, sql: asyncpg.Connection) -> None:
    """A person's reply switches the bot off in the same transaction as it is stored."""
    await listen(scene, "conversation.bot_switched")
    await scene.reply(author=Author.HUMAN)
    assert await types(scene, sql) == ["conversation.bot_switched"]


async def test_what_finds_no_room_waits_for_one_endpoint_and_not_for_the_others(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    full, fine = await listen(scene), await listen(scene)
    await scene.receive(message(), message())
    ids = [event for event, _ in await unmoved(scene)]
    for _ in range(2):
        await scene.store.outbox_moved(ids, life="one", held=[(event, full.id) for event in ids])
    assert full.id in (await scene.store.outbox_next(limit=1)).held
    assert fine.id not in (await scene.store.outbox_next(limit=1)).held
    assert [(each.id, each.endpoints) for each in await scene.store.outbox_held(full.id, limit=1)] == [
        (ids[0], (full.id,))
    ]
    _, events = await load(scene.store, fine.id, ids)
    await settle(scene.store, fine, events, last="ok")
    await scene.store.outbox_unhold(full.id, ids[:1])
    assert [each.id for each in await scene.store.outbox_held(full.id, limit=10)] == ids[1:]
    await scene.store.outbox_begin(life="two", keep_seconds=1000, limit=100_000)  # looked at anew
    assert await scene.store.outbox_held(full.id, limit=10) == ()
    assert await unmoved(scene) == [(event, (full.id,)) for event in ids]
    await scene.store.outbox_moved(ids, life="two", held=[(event, full.id) for event in ids])
    await scene.store.delete_endpoint(scene.account.id, full.id)
    assert await sql.fetchval("select count(*) from outbox_held where endpoint_id = $1", uuid.UUID(full.id)) == 0


async def test_a_success_before_the_failure_of_the_same_call_ends_an_earlier_failing(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    endpoint = await listen(scene)
    first, second = [OutboxEvent(str(uuid.uuid4()), scene.account.id, None, "t", {}, NOW) for _ in range(2)]
    await settle(scene.store, endpoint, [first], last="failed", answer=BAD)
    await sql.execute("update webhook_endpoints set failing_since = now() - interval '4 days'")
    deliveries = ((first, GOOD), (second, BAD))
    settlement = Settlement(endpoint.id, (first.id,), deliveries, "failed", 3 * 86400, keep=5)
    ((done,), ()) = await scene.store.outbox_work([settlement], [])
    assert (done.switched_off, done.recovered, done.failing_seconds) == (None, True, 0)
    assert (await look(scene, endpoint)).failing_since is not None


async def test_the_others_of_the_account_hear_that_one_was_switched_off(scene: Scene, sql: asyncpg.Connection) -> None:
    endpoint = await listen(scene, "message.sent", url="https://receiver.example/?key=secret")
    other = await listen(scene, "webhook.disabled")
    event = [OutboxEvent(str(uuid.uuid4()), scene.account.id, None, "t", {}, NOW)]
    await settle(scene.store, endpoint, event, last="gone", answer=BAD)
    (row,) = await written(scene, sql)
    assert row["type"] == "webhook.disabled"
    assert "secret" not in row["payload"]
    await scene.store.update_endpoint(scene.account.id, other.id, {"enabled": False})  # by hand: nothing is told
    assert len(await written(scene, sql)) == 1
    everywhere = await scene.store.failing_endpoints(limit=100_000)
    failing = [each for each in everywhere if each.account_id == scene.account.id]
    assert [(each.id, each.enabled, each.disabled_reason, each.waiting) for each in failing] == [
        (endpoint.id, False, "gone", 0)
    ]


async def test_a_waiting_relay_hears_of_a_new_event_at_once(scene: Scene, store: SqlStore) -> None:
    if not isinstance(store, PostgresStore):
        pytest.skip("only a session can listen")
    await listen(scene)
    await store.wait_for_events(30)  # connects
    waiting = asyncio.create_task(store.wait_for_events(30))
    await scene.receive()
    await asyncio.wait_for(waiting, 5)
    await store.ignore_events()


async def test_a_relay_that_looks_by_itself_is_told_nothing_until_it_waits_again(
    scene: Scene, store: SqlStore, sql: asyncpg.Connection
) -> None:
    assert not await store.mute_events()  # not listening: there is nothing to leave out
    if not isinstance(store, PostgresStore):
        return
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def is_announced() -> bool:
        """Whether an event is; what the test itself says afterwards comes behind it."""
        await scene.receive()
        await sql.execute("notify chorus_outbox, 'the end'")
        first = await asyncio.wait_for(heard.get(), 10)
        if first != "the end":
            assert await asyncio.wait_for(heard.get(), 10) == "the end"
        return first != "the end"

    await listen(scene, "message.received")
    await store.wait_for_events(30)  # connects
    await sql.add_listener("chorus_outbox", lambda *said: heard.put_nowait(said[-1]))
    assert await is_announced()
    assert await store.mute_events()
    assert await store.mute_events()  # it is
    assert not await is_announced()
    await store.unmute_events()
    assert await is_announced()
    assert await store.mute_events()
    await store.ignore_events()  # as when the process ends
    assert await is_announced()
