"""An answer is opened with what its making needs, and saved together with the beginning of its sending."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from app.domain.errors import Conflict, Fenced, NotFound
from app.domain.models import Inbound, InboundMessage, OpenedAnswer, Opening, Reply, ReplyState
from app.domain.ports import SendDecision
from app.domain.usage import Spent
from tests.support.store_kit import Scene, begin, look, message, outbound, unique

NOBODY = "00000000-0000-4000-8000-000000000000"


async def opened(scene: Scene, *, fence: int = 1, **more: Any) -> OpenedAnswer:
    asked = message("are you open?")
    conversation = await scene.receive(asked)
    given = {"key": asked.wa_message_id, "covers": [asked.wa_message_id], "limit": 5, "characters": 9, "minutes": 10}
    return await scene.store.open_answer(conversation.id, fence=fence, **given | more)


async def save(
    scene: Scene, reply: Reply, body: str = "yes", *, fence: int = 1, spent: Spent | None = None, attempt: str = "",
    covers: tuple[str, ...] | None = None,
) -> tuple[Reply, SendDecision | None]:  # fmt: skip
    return await scene.store.save_and_begin(
        reply.key, fence=fence, covers=reply.covers if covers is None else covers, body=body, spent=spent, parts=1,
        text=body, attempt=attempt or str(uuid.uuid4()),
    )  # fmt: skip


async def test_an_answer_is_opened_with_the_history_before_what_it_covers(scene: Scene) -> None:
    earlier = await scene.reply(body="hello to you")
    await begin(scene.store, earlier)
    await scene.store.complete_part(earlier.key, part=0, wamid=unique("out"), last=True)
    found = await opened(scene)
    assert (found.reply.state, found.reply.body, found.reply.fence) == (ReplyState.PENDING, None, 1)
    assert [turn.text for turn in found.background.turns] == ["hello", "part 0"]
    assert found.recent_replies == 1
    assert found.background.usage.conversation.answers == 0


async def test_opening_again_finds_it_and_a_lower_fence_does_not(scene: Scene) -> None:
    found = await opened(scene, fence=4)
    again = {"key": found.reply.key, "covers": found.reply.covers, "limit": 5, "characters": 9, "minutes": 10}
    later = await scene.store.open_answer(found.reply.conversation_id, fence=5, **again)
    assert (later.reply.key, later.reply.fence) == (found.reply.key, 5)
    with pytest.raises(Fenced):
        await scene.store.open_answer(found.reply.conversation_id, fence=4, **again)
    with pytest.raises(NotFound):
        await scene.store.open_answer(NOBODY, fence=1, **again | {"key": unique()})


OPENING = Opening(fence=1, limit=5, characters=9, minutes=10)


async def stored(scene: Scene, *messages: InboundMessage, opening: Opening | None = OPENING) -> Inbound:
    return await scene.store.record_inbound(
        scene.account.id, wa_id=scene.wa_id, user_id=None, name="Ada", messages=messages, opening=opening
    )


async def test_a_reply_is_opened_as_its_messages_are_stored(scene: Scene) -> None:
    await scene.receive(message("good morning"))
    asked = (message("are you open?"), message("today?"))
    inbound = await stored(scene, *asked)
    assert inbound.opened is not None
    reply = inbound.opened.reply
    ids = tuple(each.wa_message_id for each in asked)
    assert (reply.key, reply.covers, reply.fence, reply.body) == (ids[0], ids, 1, None)
    assert (reply.conversation_id, reply.to.wa_id) == (inbound.conversation.id, scene.wa_id)
    assert [turn.text for turn in inbound.opened.background.turns] == ["good morn"]
    opened_again = await scene.store.open_answer(
        reply.conversation_id, key=reply.key, covers=reply.covers, fence=2, limit=5, characters=9, minutes=10
    )
    assert opened_again.reply == replace(reply, fence=2)
    assert opened_again.background == inbound.opened.background


async def test_no_reply_is_opened_with_messages_that_may_have_one_or_want_none(scene: Scene) -> None:
    asked = message("are you open?")
    assert (await stored(scene, asked, opening=None)).opened is None
    assert (await stored(scene, asked)).opened is not None, "stored before, and not answered"
    assert (await stored(scene, asked)).opened is None, "opened before"
    edit = replace(
        message("are you open today?", kind="edit"), payload={"edit": {"original_message_id": asked.wa_message_id}}
    )
    assert (await stored(scene, edit)).opened is None
    in_a_group = message("hi all")
    assert (await stored(scene, replace(in_a_group, payload={"group_id": "g"}))).opened is None
    conversation = await scene.receive()
    await scene.store.opt_out(conversation.id)
    assert (await stored(scene, message())).opened is None
    await scene.store.opt_in(conversation.id)
    assert (await stored(scene, message())).opened is not None
    await scene.store.set_bot(conversation.id, enabled=False)
    assert (await stored(scene, message())).opened is None


async def test_the_body_is_saved_and_its_sending_begun(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    attempt = str(uuid.uuid4())
    saved, decision = await save(scene, reply, attempt=attempt)
    assert (saved.key, saved.body, saved.to, decision) == (reply.key, "yes", reply.to, SendDecision.SEND)
    stored = await look(scene.store, reply)
    assert (stored.state, stored.body, stored.attempt) == (ReplyState.SENDING, "yes", attempt)
    assert (await outbound(scene.store, reply)).text == "yes"


async def test_a_repetition_after_a_lost_answer_sends_and_counts_once(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    cost, attempt = Spent(str(uuid.uuid4()), 10, 5), str(uuid.uuid4())
    first, _ = await save(scene, reply, spent=cost, attempt=attempt)
    again, decision = await save(scene, reply, spent=cost, attempt=attempt)
    assert decision is SendDecision.SEND
    assert first.usage_change is not None
    assert again.usage_change is None
    assert first.usage_change.after.conversation.input_tokens == 10


async def test_an_attempt_of_another_is_of_unknown_outcome(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    await save(scene, reply)
    assert (await save(scene, reply))[1] is SendDecision.AMBIGUOUS


async def test_another_text_under_way_stays_and_nothing_is_begun_for_this_one(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    attempt, cost = str(uuid.uuid4()), Spent(str(uuid.uuid4()), 10, 5)
    await save(scene, reply, "yes", attempt=attempt)
    kept, decision = await save(scene, reply, "no", fence=2, spent=cost)
    assert (kept.body, kept.state, decision) == ("yes", ReplyState.SENDING, None)
    assert (await look(scene.store, reply)).attempt == attempt
    assert kept.usage_change is not None, "it was paid for"


async def test_a_person_who_takes_over_silences_what_is_saved(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    await scene.store.set_bot(reply.conversation_id, enabled=False)
    assert (await save(scene, reply))[1] is SendDecision.SILENCED
    stored = await look(scene.store, reply)
    assert (stored.state, stored.body) == (ReplyState.SILENCED, "yes")


async def test_a_lower_fence_saves_nothing_and_begins_nothing(scene: Scene) -> None:
    reply = (await opened(scene, fence=3)).reply
    with pytest.raises(Fenced):
        await save(scene, reply, fence=2)
    stored = await look(scene.store, reply)
    assert (stored.state, stored.body) == (ReplyState.PENDING, None)


async def test_what_another_reply_covers_by_now_is_a_conflict_and_nothing_is_begun(scene: Scene) -> None:
    first, second = (await opened(scene)).reply, (await opened(scene)).reply
    with pytest.raises(Conflict) as caught:
        await save(scene, second, covers=(*second.covers, *first.covers))
    assert caught.value.code == "covered_elsewhere"
    assert (await look(scene.store, second)).state is ReplyState.PENDING


async def test_a_zero_byte_in_the_model_s_words_is_replaced(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    saved, decision = await save(scene, reply, "y\0es")
    assert (saved.body, decision) == ("y\ufffdes", SendDecision.SEND)
    assert (await look(scene.store, reply)).body == saved.body


async def test_a_reply_that_is_gone_is_not_found(scene: Scene) -> None:
    reply = (await opened(scene)).reply
    with pytest.raises(NotFound):
        await scene.store.save_and_begin(
            f"{reply.key}-gone", fence=1, covers=(), body="x", spent=None, parts=1, text="x", attempt=str(uuid.uuid4())
        )


async def test_each_row_is_written_once(scene: Scene, sql: asyncpg.Connection) -> None:
    """A further version of a row in a transaction costs its indexes, its triggers and the check of its references."""
    reply = (await opened(scene)).reply
    saved = {
        "key": reply.key, "fence": 1, "covers": reply.covers, "body": "yes", "apart": True, "parts": 1, "text": "yes",
        "attempt": str(uuid.uuid4()), "spent_id": str(uuid.uuid4()), "input_tokens": 10, "output_tokens": 5,
    }  # fmt: skip
    assert await written(sql, "save_and_begin", saved) == {
        "messages": 1, "replies": 1, "conversations": 1, "account_usage": 1,
    }  # fmt: skip
    sent = {"key": reply.key, "part": 0, "wamid": unique("out"), "last": True}
    assert await written(sql, "complete_part", sent) == {"messages": 1, "replies": 1}
    assert await written(sql, "complete_part", sent) == {}
    assert (await look(scene.store, reply)).state is ReplyState.SENT


async def test_a_message_and_a_conversation_have_one_trigger_for_each_moment(sql: asyncpg.Connection) -> None:
    """The server reads the condition of each trigger anew for every statement."""
    moments = await sql.fetch(
        """
        select event_object_table as written, action_timing as timing, event_manipulation as event, count(*) as triggers
        from information_schema.triggers
        where event_object_table in ('messages', 'conversations') and trigger_name <> 'note_for_search'
        group by 1, 2, 3
        """
    )  # note_for_search looks at one column, which no answer writes
    assert {tuple(moment.values()) for moment in moments} == {
        ("messages", "BEFORE", "INSERT", 1), ("messages", "AFTER", "INSERT", 1),
        ("messages", "BEFORE", "UPDATE", 1), ("messages", "AFTER", "UPDATE", 1),
        ("conversations", "BEFORE", "UPDATE", 1), ("conversations", "AFTER", "UPDATE", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "update messages set direction = 'sideways'",
        "update messages set author = 'parrot'",
        "update messages set status = 'lost'",
        "update replies set author = 'customer'",
        "update replies set state = 'lost'",
        "update replies set fallback = 'none'",
    ],
)
async def test_the_database_knows_every_word_of_a_message_and_a_reply(
    scene: Scene, sql: asyncpg.Connection, change: str
) -> None:
    reply = (await opened(scene)).reply
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute(f"{change} where conversation_id = $1", uuid.UUID(reply.conversation_id))


async def written(sql: asyncpg.Connection, function: str, p: dict[str, Any]) -> dict[str, int]:
    """How many versions of rows this writes, in each of the tables that an answer changes."""
    async with sql.transaction():
        before = await versions(sql)
        assert "ok" in json.loads(await sql.fetchval(f"select chorus_{function}($1::jsonb)", json.dumps(p)))
        return dict(await versions(sql) - before)


async def versions(sql: asyncpg.Connection) -> Counter[str]:
    """Of this session, since it last reported them."""
    rows = await sql.fetch(
        "select relname, n_tup_ins + n_tup_upd as versions from pg_stat_xact_user_tables"
        " where relname in ('messages', 'replies', 'conversations', 'account_usage')"
    )
    return Counter({row["relname"]: row["versions"] for row in rows})


async def test_a_reply_under_its_accounts_key_is_found_when_the_plain_key_is_free_again(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    """The other account's reply, which had the plain key, was erased."""
    reply = (await opened(scene)).reply
    await sql.execute(
        "update replies set reply_key = reply_key || '@' || account_id, covers = array['another'] where reply_key = $1",
        reply.key,
    )
    again = {"key": reply.key, "covers": reply.covers, "limit": 5, "characters": 9, "minutes": 10}
    later = await scene.store.open_answer(reply.conversation_id, fence=2, **again)
    assert later.reply.key == f"{reply.key}@{scene.account.id}"


async def test_only_the_commit_of_a_new_claim_is_not_waited_for(scene: Scene, sql: asyncpg.Connection) -> None:
    asked = message("are you open?")
    conversation = await scene.receive(asked)
    opening = {
        "conversation_id": conversation.id, "key": asked.wa_message_id, "covers": [asked.wa_message_id],
        "author": "bot", "fence": 1, "limit": 5, "characters": 9, "minutes": 10,
    }  # fmt: skip
    saving = {
        "key": asked.wa_message_id, "fence": 1, "covers": [asked.wa_message_id], "body": "yes", "apart": True,
        "parts": 1, "text": "yes", "attempt": str(uuid.uuid4()),
    }  # fmt: skip
    waits = []
    for function, p in (
        ("open_answer", opening),
        ("open_answer", opening | {"fence": 2}),
        ("save_and_begin", saving | {"fence": 2}),
    ):
        async with sql.transaction():
            assert "ok" in json.loads(await sql.fetchval(f"select chorus_{function}($1::jsonb)", json.dumps(p)))
            waits.append(await sql.fetchval("show synchronous_commit"))
    assert waits == ["off", "on", "on"]
