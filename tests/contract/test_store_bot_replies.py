"""How many automatic replies a conversation had of late."""

from __future__ import annotations

import asyncpg

from app.domain.models import Author, Reply
from tests.support.store_kit import Scene, begin


async def send(scene: Scene, author: Author = Author.BOT) -> Reply:
    reply = await scene.reply(author=author)
    await begin(scene.store, reply)
    await scene.store.complete_part(reply.key, part=0, wamid=f"out-{reply.key}", last=True)
    return reply


async def count(scene: Scene, reply: Reply, minutes: int = 10) -> int:
    opened = await scene.store.open_answer(
        reply.conversation_id, key=reply.key, covers=reply.covers, fence=0, limit=1, characters=1, minutes=minutes
    )
    return opened.recent_replies


async def test_replies_of_the_bot_that_went_out_are_counted(scene: Scene) -> None:
    replies = [await send(scene) for _ in range(3)]
    assert await count(scene, replies[0]) == 3


async def test_what_was_not_sent_is_not_counted(scene: Scene) -> None:
    sent = await send(scene)
    await scene.reply()
    under_way = await scene.reply()
    await begin(scene.store, under_way)
    assert await count(scene, sent) == 1


async def test_a_reply_that_is_half_sent_counts(scene: Scene) -> None:
    reply = await scene.reply()
    await scene.store.begin_part(reply.key, fence=1, part=0, parts=2, text="a")
    await scene.store.complete_part(reply.key, part=0, wamid="half", last=False)
    assert await count(scene, reply) == 1


async def test_the_words_of_people_are_not_counted(scene: Scene) -> None:
    sent = await send(scene)
    await send(scene, Author.HUMAN)
    assert await count(scene, sent) == 1


async def test_old_replies_are_not_counted(scene: Scene, sql: asyncpg.Connection) -> None:
    old, new = await send(scene), await send(scene)
    await sql.execute(
        "update replies set created_at = created_at - interval '11 minutes' where reply_key = $1", old.key
    )
    assert await count(scene, new, minutes=10) == 1
    assert await count(scene, new, minutes=12) == 2


async def test_whoever_turns_the_bot_on_again_starts_the_count_anew(scene: Scene) -> None:
    sent = await send(scene)
    await scene.store.set_bot(sent.conversation_id, enabled=True)
    assert await count(scene, sent) == 1, "it was on already"
    await scene.store.set_bot(sent.conversation_id, enabled=False)
    await scene.store.set_bot(sent.conversation_id, enabled=True)
    assert await count(scene, sent) == 0
    assert await count(scene, await send(scene)) == 1


async def test_other_conversations_are_not_counted(scene: Scene) -> None:
    await send(scene)
    scene.wa_id = "33600000002"
    assert await count(scene, await send(scene)) == 1
