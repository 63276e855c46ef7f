"""Replies: written once, sent once, on every store."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.errors import Conflict, Fenced, NotFound
from app.domain.models import Author, Conversation, Fallback, Reply, ReplyState, Status
from app.domain.ports import SendDecision
from tests.support.store_kit import Scene, begin, look, message, outbound, uncommitted, unique, until_all_wait

NOBODY = str(uuid.uuid4())
SEND, SENT, AMBIGUOUS = SendDecision.SEND, SendDecision.SENT, SendDecision.AMBIGUOUS


# -- opening and writing -----------------------------------------------------------------------------------------------


async def test_a_reply_is_opened_once_and_found_again_as_it_is(scene: Scene) -> None:
    asked = message()
    conversation = await scene.receive(asked)
    key = asked.wa_message_id
    opened = await scene.store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key, "b"], fence=3)
    assert opened == Reply(
        key=key, conversation_id=conversation.id, author=Author.BOT, covers=(key, "b"), fence=3,
        state=ReplyState.PENDING, body=None, part=0,
    )  # fmt: skip
    saved = await scene.store.save_body(key, fence=3, covers=[key, "b", "c"], body="hi")
    found = await scene.store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key], fence=5)
    assert found == Reply(
        key=key, conversation_id=conversation.id, author=Author.BOT, covers=(key, "b", "c"), fence=5,
        state=ReplyState.PENDING, body="hi", part=0,
    )  # fmt: skip
    assert saved.fence == 3


async def open_bot_reply(scene: Scene, conversation: Conversation, *covers: str, fence: int) -> Reply:
    return await scene.store.open_reply(conversation.id, key=covers[0], author=Author.BOT, covers=covers, fence=fence)


async def test_a_reply_is_found_by_a_message_it_covers(scene: Scene) -> None:
    conversation = await scene.receive()
    first, second = unique("first"), unique("second")
    opened = await open_bot_reply(scene, conversation, first, second, fence=1)
    assert (await open_bot_reply(scene, conversation, second, first, fence=2)).key == opened.key
    saved = await scene.store.save_body(opened.key, fence=2, covers=[first, second], body="hi")
    found = await open_bot_reply(scene, conversation, second, fence=3)
    assert (found.key, found.covers) == (opened.key, saved.covers)


async def test_a_reply_without_a_text_gives_way_when_its_run_has_come_apart(scene: Scene) -> None:
    conversation = await scene.receive()
    first, second = unique("first"), unique("second")
    await open_bot_reply(scene, conversation, first, second, fence=2)
    with pytest.raises(Fenced):
        await open_bot_reply(scene, conversation, second, fence=1)
    later = await open_bot_reply(scene, conversation, second, fence=3)
    assert (later.key, later.covers) == (second, (second,))
    earlier = await open_bot_reply(scene, conversation, first, second, fence=4)
    assert (earlier.key, earlier.covers, earlier.elsewhere) == (first, (first,), (second,))


async def test_no_two_replies_cover_the_same_message(scene: Scene) -> None:
    conversation = await scene.receive()
    one, two, three, four = (unique("m") for _ in range(4))
    await open_bot_reply(scene, conversation, one, two, fence=1)
    other = await open_bot_reply(scene, conversation, three, two, one, fence=1)
    assert (other.covers, set(other.elsewhere)) == ((three,), {one, two})
    with pytest.raises(Conflict) as taken:
        await scene.store.save_body(three, fence=1, covers=[three, two], body="hi")
    assert taken.value.code == "covered_elsewhere"
    assert (await scene.store.save_body(three, fence=1, covers=[three, four], body="hi")).covers == (three, four)
    found = await open_bot_reply(scene, conversation, one, four, two, fence=1)
    assert (found.covers, found.elsewhere) == ((one, two), (four,))


async def test_replies_opened_at_once_share_no_message(scene: Scene) -> None:
    conversation = await scene.receive()
    wamids = [unique("m") for _ in range(5)]
    turned = [wamids[n:] + wamids[:n] for n in range(5)]
    opened = await asyncio.gather(
        *(open_bot_reply(scene, conversation, *covers, fence=1) for covers in turned), return_exceptions=True
    )
    replies = {reply.key: reply for reply in opened if isinstance(reply, Reply)}
    assert len(replies) >= 1
    covered = [wamid for reply in replies.values() for wamid in reply.covers]
    assert len(covered) == len(set(covered)), replies


async def test_tasks_that_open_one_reply_at_once_get_the_same(scene: Scene) -> None:
    conversation = await scene.receive()
    key = unique("race")
    opened = await asyncio.gather(
        *(
            scene.store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key], fence=1, body=str(n))
            for n in range(8)
        )
    )
    assert len({reply.body for reply in opened}) == 1


async def test_a_person_who_replies_turns_the_bot_off_once(scene: Scene) -> None:
    reply = await scene.reply(author=Author.HUMAN, fence=0)
    store = scene.store
    conversation = await store.get_conversation(reply.conversation_id)
    assert conversation is not None
    assert not conversation.bot_enabled
    await store.set_bot(conversation.id, enabled=True)
    await store.open_reply(conversation.id, key=reply.key, author=Author.HUMAN, covers=(), fence=4)
    again = await store.get_conversation(conversation.id)
    assert again is not None
    assert again.bot_enabled


async def test_nobodys_fence_finds_without_taking_over(scene: Scene) -> None:
    reply = await scene.reply(author=Author.HUMAN, fence=7)
    found = await look(scene.store, reply)
    assert (found.fence, found.body) == (7, reply.body)


async def test_opening_is_refused(scene: Scene) -> None:
    reply = await scene.reply()
    elsewhere = await scene.receive(wa_id="339")
    with pytest.raises(NotFound) as missing:
        await scene.store.open_reply(NOBODY, key=unique(), author=Author.BOT, covers=(), fence=1)
    assert missing.value.code == "conversation_not_found"
    with pytest.raises(Conflict) as taken:
        await scene.store.open_reply(elsewhere.id, key=reply.key, author=Author.BOT, covers=(), fence=9)
    assert taken.value.code == "reply_key_taken"


async def test_a_body_is_written_until_something_is_sent(scene: Scene) -> None:
    store = scene.store
    reply = await scene.reply(body="first")
    assert (await store.save_body(reply.key, fence=1, covers=["x"], body="second")).body == "second"
    await begin(store, reply, parts=2)
    assert (await store.save_body(reply.key, fence=1, covers=["y"], body="third")).body == "second"
    await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=False)
    late = await store.save_body(reply.key, fence=1, covers=["y"], body="third")
    assert (late.body, late.covers, late.part, late.state) == ("second", ("x",), 1, ReplyState.PENDING)


@pytest.mark.parametrize("call", ["open_reply", "save_body", "save_fallback", "begin_part", "fail_part"])
async def test_whoever_lost_the_conversation_writes_nothing(scene: Scene, call: str) -> None:
    reply = await scene.reply(fence=5)
    calls: dict[str, Any] = {
        "open_reply": lambda: scene.store.open_reply(
            reply.conversation_id, key=reply.key, author=Author.BOT, covers=(), fence=4
        ),
        "save_body": lambda: scene.store.save_body(reply.key, fence=4, covers=(), body="stale"),
        "save_fallback": lambda: scene.store.save_fallback(
            reply.key, fence=4, covers=(), body="stale", fallback=Fallback.REFUSED
        ),
        "begin_part": lambda: begin(scene.store, reply, fence=4),
        "fail_part": lambda: scene.store.fail_part(reply.key, fence=4, part=0, error={}, final=True),
    }
    with pytest.raises(Fenced):
        await calls[call]()
    assert await look(scene.store, reply) == reply


async def test_a_newer_claim_fences_the_older_one_off(scene: Scene) -> None:
    reply = await scene.reply(fence=1)
    await scene.store.save_body(reply.key, fence=2, covers=(), body="newer")
    with pytest.raises(Fenced):
        await begin(scene.store, reply, fence=1)


@pytest.mark.parametrize("call", ["save_body", "begin_part", "complete_part", "fail_part"])
async def test_no_such_reply(store: SqlStore, call: str) -> None:
    key = unique("no-such")
    calls: dict[str, Any] = {
        "save_body": lambda: store.save_body(key, fence=1, covers=(), body="x"),
        "begin_part": lambda: store.begin_part(key, fence=1, part=0, parts=1, text="x"),
        "complete_part": lambda: store.complete_part(key, part=0, wamid="w", last=True),
        "fail_part": lambda: store.fail_part(key, fence=1, part=0, error={}, final=True),
    }
    with pytest.raises(NotFound) as missing:
        await calls[call]()
    assert missing.value.code == "reply_not_found"


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_a_reply_in_two_parts_goes_out_in_order(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    assert await begin(store, reply, parts=2) is SEND
    sending = await look(store, reply)
    assert sending.state is ReplyState.SENDING
    assert sending.sending_since is not None
    assert datetime.now(UTC) - sending.sending_since < timedelta(minutes=1)
    pending = await outbound(store, reply)
    assert (pending.status, pending.author, pending.text) == (Status.SENDING, Author.BOT, "part 0")

    await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=False)
    half = await look(store, reply)
    assert (half.state, half.part, half.sending_since) == (ReplyState.PENDING, 1, None)
    assert await begin(store, reply, part=0, parts=2) is SENT
    assert await begin(store, reply, part=1, parts=2) is SEND
    last = unique("wamid")
    await store.complete_part(reply.key, part=1, wamid=last, last=True)
    done = await look(store, reply)
    assert (done.state, done.part, done.wamid) == (ReplyState.SENT, 2, last)
    stored = await outbound(store, reply, 1)
    assert (stored.status, stored.wa_message_id, stored.timestamp.tzinfo is not None) == (Status.SENT, last, True)
    assert await begin(store, reply, part=1, parts=2) is SENT


async def test_a_send_is_recorded_once_however_often_it_is_reported(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    wamid = unique("wamid")
    await begin(store, reply, parts=2)
    for _ in range(3):
        await store.complete_part(reply.key, part=0, wamid=wamid, last=False)
    assert (await look(store, reply)).part == 1


async def test_of_many_that_begin_at_once_exactly_one_sends(scene: Scene, sql: asyncpg.Connection) -> None:
    store, reply = scene.store, await scene.reply()
    conversation_id = uuid.UUID(reply.conversation_id)
    async with uncommitted(sql, "update conversations set updated_at = now() where id = $1", conversation_id):
        calls = [asyncio.create_task(begin(store, reply)) for _ in range(4)]
        await until_all_wait(sql, *calls)
    assert Counter(await asyncio.gather(*calls)) == {SEND: 1, AMBIGUOUS: 3}


async def test_a_call_repeated_after_a_lost_answer_still_sends(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await scene.reply()
    same = uuid.uuid4()
    monkeypatch.setattr("app.adapters.sql_store.uuid.uuid4", lambda: same)
    assert await begin(scene.store, reply) is SEND
    assert await begin(scene.store, reply) is SEND


async def test_an_unknown_outcome_is_repeated_only_on_demand(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    await begin(store, reply)
    assert await begin(store, reply, fence=2) is AMBIGUOUS
    assert await begin(store, reply, fence=2, resend=True) is SEND
    assert await begin(store, reply, fence=2) is AMBIGUOUS


async def test_a_part_out_of_order_is_a_bug(scene: Scene) -> None:
    reply = await scene.reply()
    with pytest.raises(Exception, match="begun before part 0"):
        await begin(scene.store, reply, part=1, parts=2)


async def test_a_bots_reply_is_silenced_by_a_person(scene: Scene) -> None:
    """Between writing and sending somebody took over: nothing more is sent, and nothing undoes that."""
    store, reply = scene.store, await scene.reply()
    await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=message("me"))
    assert await begin(store, reply) is SendDecision.SILENCED
    assert (await look(store, reply)).state is ReplyState.SILENCED
    await store.set_bot(reply.conversation_id, enabled=True)
    assert await begin(store, reply) is SendDecision.SILENCED
    assert len((await store.list_messages(reply.conversation_id, limit=9, cursor=None)).items) == 2


async def test_nothing_begins_after_a_person_was_told_that_the_bot_is_off(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    """A decision under way is waited for; the next one sees the bot off."""
    store, reply, next_one = scene.store, await scene.reply(), await scene.reply()
    insert = (
        "insert into messages (account_id, conversation_id, outbound_key, direction, author, type, status, timestamp)"
        " values ($1, $2, $3, 'outbound', 'bot', 'text', 'pending', now())"
    )
    ids = uuid.UUID(scene.account.id), uuid.UUID(reply.conversation_id)
    async with uncommitted(sql, insert, *ids, f"{reply.key}#0"):  # holds the decision up half-way
        begun = asyncio.create_task(begin(store, reply))
        await until_all_wait(sql, begun)
        switched = asyncio.create_task(store.set_bot(reply.conversation_id, enabled=False))
        await until_all_wait(sql, begun, switched)
    assert await begun is SEND
    assert not (await switched).bot_enabled
    assert await begin(store, next_one) is SendDecision.SILENCED


async def test_a_persons_reply_goes_out_with_the_bot_off(scene: Scene) -> None:
    reply = await scene.reply(author=Author.HUMAN)
    assert await begin(scene.store, reply) is SEND
    assert (await outbound(scene.store, reply)).author is Author.HUMAN


@pytest.mark.parametrize("author", list(Author)[1:])
async def test_the_window_closes_after_24_hours(scene: Scene, author: Author) -> None:
    old = message(at=datetime.now(UTC) - timedelta(hours=24, minutes=1))
    conversation = await scene.receive(old)
    reply = await scene.store.open_reply(
        conversation.id, key=unique("late"), author=author, covers=(), fence=1, body="hi"
    )
    for _ in range(2):
        assert await begin(scene.store, reply) is SendDecision.WINDOW_CLOSED
    failed = await look(scene.store, reply)
    assert failed.state is ReplyState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == 131047


async def test_the_window_is_open_for_24_hours(scene: Scene) -> None:
    conversation = await scene.receive(message(at=datetime.now(UTC) - timedelta(hours=23, minutes=59)))
    reply = await scene.store.open_reply(conversation.id, key=unique(), author=Author.BOT, covers=(), fence=1)
    assert await begin(scene.store, reply) is SEND


async def test_without_any_message_of_the_customer_the_window_is_closed(scene: Scene) -> None:
    echoed = await scene.store.record_echo(scene.account.id, wa_id="338", user_id=None, message=message())
    reply = await scene.store.open_reply(echoed.id, key=unique(), author=Author.HUMAN, covers=(), fence=1)
    assert await begin(scene.store, reply) is SendDecision.WINDOW_CLOSED


async def test_a_failed_send_can_be_tried_again(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    await begin(store, reply)
    await store.fail_part(reply.key, fence=1, part=0, error={"code": 130429}, final=False)
    waiting = await look(store, reply)
    assert (waiting.state, waiting.error, waiting.sending_since) == (ReplyState.PENDING, {"code": 130429}, None)
    assert (await outbound(store, reply)).status is Status.PENDING
    assert await begin(store, reply, fence=2) is SEND
    assert (await look(store, reply)).error is None
    assert (await outbound(store, reply)).error is None


async def test_a_failure_for_good(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    await begin(store, reply)
    for _ in range(2):
        await store.fail_part(reply.key, fence=1, part=0, error={"code": 131026}, final=True)
    failed = await look(store, reply)
    assert (failed.state, failed.error) == (ReplyState.FAILED, {"code": 131026})
    stored = await outbound(store, reply)
    assert (stored.status, stored.error) == (Status.FAILED, {"code": 131026})
    assert await begin(store, reply) is SendDecision.FAILED


async def test_a_failure_is_not_believed_of_a_part_that_went_out(scene: Scene) -> None:
    store, reply = scene.store, await scene.reply()
    await begin(store, reply)
    await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
    await store.fail_part(reply.key, fence=1, part=0, error={"code": 1}, final=True)
    assert (await look(store, reply)).state is ReplyState.SENT
    assert (await outbound(store, reply)).status is Status.SENT


# -- fallback texts ----------------------------------------------------------------------------------------------------


async def answer(scene: Scene, text: str, *, fallback: Fallback | None = None, asked: str = "hello") -> Reply:
    """A customer's message, and the reply to it as far as the store lets it go."""
    store, question = scene.store, message(asked)
    conversation = await scene.receive(question)
    key = question.wa_message_id
    await store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key], fence=1)
    if fallback is None:
        reply = await store.save_body(key, fence=1, covers=[key], body=text)
    else:
        reply = await store.save_fallback(key, fence=1, covers=[key], body=text, fallback=fallback)
    if reply.state is ReplyState.PENDING:
        await store.begin_part(key, fence=1, part=0, parts=1, text=text)
        await store.complete_part(key, part=0, wamid=unique("wamid"), last=True)
    return await look(store, reply)


async def test_a_fallback_text_goes_out_once_until_an_answer_does(scene: Scene) -> None:
    kinds = [Fallback.REFUSED, Fallback.UNAVAILABLE]
    states = [(await answer(scene, "later", fallback=why)).state for why in [*kinds, *kinds]]
    assert states == [ReplyState.SENT, *[ReplyState.SILENCED] * 3]
    assert (await answer(scene, "We open at seven.")).state is ReplyState.SENT
    assert (await answer(scene, "later", fallback=Fallback.UNAVAILABLE)).state is ReplyState.SENT


async def test_an_interim_text_goes_out_once_in_a_silence_and_before_a_fallback_text(scene: Scene) -> None:
    kinds = [Fallback.INTERIM, Fallback.INTERIM, Fallback.UNAVAILABLE, Fallback.INTERIM, Fallback.UNAVAILABLE]
    states = [(await answer(scene, "later", fallback=kind)).state for kind in kinds]
    sent, silenced = ReplyState.SENT, ReplyState.SILENCED
    assert states == [sent, silenced, sent, silenced, silenced]
    assert (await answer(scene, "We open at seven.")).state is ReplyState.SENT
    assert (await answer(scene, "later", fallback=Fallback.INTERIM)).state is ReplyState.SENT


async def test_an_interim_text_is_no_part_of_the_history(scene: Scene) -> None:
    await answer(scene, "later", fallback=Fallback.INTERIM, asked="When do you open?")
    reply = await answer(scene, "Seven.", asked="Hello?")
    turns = await scene.store.history(reply.conversation_id, limit=10, exclude=())
    assert [turn.text for turn in turns] == ["When do you open?", "Hello?", "Seven."]


async def test_a_persons_message_ends_the_silence(scene: Scene) -> None:
    await answer(scene, "later", fallback=Fallback.UNAVAILABLE)
    conversation = await scene.store.record_echo(
        scene.account.id, wa_id=scene.wa_id, user_id=None, message=message("Claire here")
    )
    await scene.store.set_bot(conversation.id, enabled=True)
    assert (await answer(scene, "later", fallback=Fallback.UNAVAILABLE)).state is ReplyState.SENT


async def test_a_fallback_text_that_failed_or_is_a_day_old_counts_no_more(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    old = await answer(scene, "later", fallback=Fallback.UNAVAILABLE)
    await sql.execute(
        "update messages set created_at = now() - interval '25 hours' where outbound_key = $1", f"{old.key}#0"
    )
    again = await answer(scene, "later", fallback=Fallback.UNAVAILABLE)
    assert again.state is ReplyState.SENT
    await sql.execute("update messages set status = 'failed' where outbound_key = $1", f"{again.key}#0")
    assert (await answer(scene, "later", fallback=Fallback.UNAVAILABLE)).state is ReplyState.SENT


async def test_one_customers_silence_is_nobody_elses(scene: Scene) -> None:
    await answer(scene, "later", fallback=Fallback.UNAVAILABLE)
    other = Scene(scene.store, scene.account, wa_id="33600000002")
    assert (await answer(other, "later", fallback=Fallback.UNAVAILABLE)).state is ReplyState.SENT


async def test_a_fallback_text_comes_too_late_for_a_reply_under_way(scene: Scene) -> None:
    reply = await scene.reply()
    await begin(scene.store, reply)
    late = await scene.store.save_fallback(reply.key, fence=1, covers=(), body="later", fallback=Fallback.REFUSED)
    assert (late.body, late.state) == (reply.body, ReplyState.SENDING)


async def test_the_history_leaves_out_refused_turns_and_fallback_texts(scene: Scene) -> None:
    await answer(scene, "Seven.", asked="When do you open?")
    await answer(scene, "later", fallback=Fallback.REFUSED, asked="something awful")
    await answer(scene, "later", fallback=Fallback.REFUSED, asked="something worse")
    await answer(scene, "Hello.", asked="Hi")
    reply = await answer(scene, "later", fallback=Fallback.UNAVAILABLE, asked="And the price?")
    turns = await scene.store.history(reply.conversation_id, limit=10, exclude=())
    assert [turn.text for turn in turns] == ["When do you open?", "Seven.", "Hi", "Hello.", "And the price?"]
    newest = await scene.store.history(reply.conversation_id, limit=2, exclude=())
    assert [turn.text for turn in newest] == ["Hello.", "And the price?"], "what is left out takes no place"


async def refuse(scene: Scene, reply: Reply, *, fence: int = 1) -> SendDecision:
    error = {"code": 131053, "message": "not a file that WhatsApp takes"}
    return await scene.store.refuse_part(
        reply.key, fence=fence, part=0, parts=1, text="[document] hi", attempt=str(uuid.uuid4()), error=error
    )


@pytest.mark.parametrize("has_begun", [False, True], ids=["not begun", "begun by a worker that ended"])
async def test_what_is_refused_before_it_is_sent_is_there_and_has_failed(scene: Scene, has_begun: bool) -> None:
    reply = await scene.reply(author=Author.HUMAN)
    if has_begun:
        await begin(scene.store, reply)
    assert await refuse(scene, reply) is (AMBIGUOUS if has_begun else SEND)
    assert (await look(scene.store, reply)).state is ReplyState.FAILED
    sent = await outbound(scene.store, reply)
    assert sent.status is Status.FAILED
    assert sent.error is not None
    assert sent.error["code"] == 131053
    assert await refuse(scene, reply) is SendDecision.FAILED, "a repetition"


async def test_a_refusal_changes_nothing_that_ended_before_it(scene: Scene) -> None:
    reply = await scene.reply(fence=2)
    with pytest.raises(Fenced):
        await refuse(scene, reply, fence=1)
    await begin(scene.store, reply, fence=2)
    await scene.store.complete_part(reply.key, part=0, wamid=unique("out"), last=True)
    assert await refuse(scene, reply, fence=2) is SENT
    assert (await look(scene.store, reply)).state is ReplyState.SENT
