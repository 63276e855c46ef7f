"""What answers cost: counted once, with the answer, by conversation and by account and day, on every store."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.domain.errors import Fenced
from app.domain.models import Fallback, Recipient, Reply
from app.domain.usage import AccountDay, DailyLimit, DailyLimits, Spending, Spent, Usage, UsageChange
from tests.support.store_kit import Scene, begin, message, unique


def spent(asked: int = 100, said: int = 10) -> Spent:
    return Spent(str(uuid.uuid4()), asked, said)


async def save(scene: Scene, reply: Reply, cost: Spent | None, *, fence: int = 1) -> Reply:
    return await scene.store.save_body(reply.key, fence=fence, covers=reply.covers, body="Yes.", spent=cost)


async def usage(scene: Scene, conversation_id: str) -> Usage:
    return (await scene.store.background(conversation_id, limit=5, exclude=(), characters=10)).usage


async def today(scene: Scene) -> AccountDay | None:
    days = await scene.store.account_usage([scene.account.id])
    return days[0] if days else None


async def test_nothing_was_spent_at_first(scene: Scene) -> None:
    conversation = await scene.receive()
    assert await usage(scene, conversation.id) == Usage()
    assert await usage(scene, str(uuid.uuid4())) == Usage()
    assert await today(scene) is None


async def test_an_answer_is_counted_with_its_text(scene: Scene) -> None:
    reply = await scene.reply()
    saved = await save(scene, reply, spent(100, 10))
    assert saved.body == "Yes."
    once = Usage(Spending(1, 100, 10), Spending(1, 100, 10))
    assert saved.usage_change == UsageChange(Usage(), once)
    assert await usage(scene, reply.conversation_id) == once
    other = await scene.receive(wa_id="33600000002")
    assert await usage(scene, other.id) == Usage(account=Spending(1, 100, 10))
    day = await today(scene)
    assert day is not None
    assert (day.answers, day.input_tokens, day.output_tokens) == (1, 100, 10)
    assert abs(day.day - datetime.now(UTC).date()) <= timedelta(days=1)


async def test_a_repetition_after_a_lost_answer_counts_nothing(scene: Scene) -> None:
    reply, cost = await scene.reply(), spent()
    await save(scene, reply, cost)
    again = await save(scene, reply, cost)
    assert again.usage_change is None
    assert (await usage(scene, reply.conversation_id)).account == Spending(1, 100, 10)


async def test_the_messages_that_an_answer_is_to_are_counted_once(scene: Scene) -> None:
    asked = [message() for _ in range(3)]
    conversation = await scene.receive(*asked)
    covers = [each.wa_message_id for each in asked]
    reply = await scene.store.open_reply(conversation.id, key=covers[0], author="bot", covers=covers, fence=1)
    for _ in range(2):
        await save(scene, reply, spent())
    other = await scene.reply()
    await scene.store.save_fallback(
        other.key, fence=1, covers=other.covers, body="Sorry.", fallback=Fallback.REFUSED, spent=spent(500, 0)
    )
    day = await today(scene)
    assert day is not None
    assert (day.answers, day.messages, day.input_tokens) == (1, 3, 700)


async def test_a_used_up_budget_is_told_once_a_day(scene: Scene, sql: asyncpg.Connection) -> None:
    notice = {"at": datetime.now(UTC).isoformat(), "field": "daily_token_budget", "event": "USED_UP", "words": "w"}
    assert not await scene.store.tell_budget(scene.account.id, notice), "nothing was spent"
    await save(scene, await scene.reply(), spent())
    told = await asyncio.gather(*(scene.store.tell_budget(scene.account.id, notice) for _ in range(5)))
    assert sorted(told) == [False] * 4 + [True]
    account = await scene.store.get_account(scene.account.id)
    assert account is not None
    assert account.last_notice == notice
    await sql.execute("update account_usage set day = day - 1 where account_id = $1", uuid.UUID(scene.account.id))
    await save(scene, await scene.reply(), spent())
    assert await scene.store.tell_budget(scene.account.id, notice)
    assert not await scene.store.tell_budget("no id", notice)


async def test_a_second_making_of_one_answer_costs_and_is_one_answer(scene: Scene) -> None:
    reply = await scene.reply()
    await save(scene, reply, spent(100, 10))
    await save(scene, reply, spent(200, 20))
    assert await usage(scene, reply.conversation_id) == Usage(Spending(1, 300, 30), Spending(1, 300, 30))


async def test_a_text_that_comes_too_late_was_paid_for(scene: Scene) -> None:
    reply = await scene.reply()
    await begin(scene.store, reply)
    late = await save(scene, reply, spent())
    assert late.body == "hi"
    assert (await usage(scene, reply.conversation_id)).conversation.tokens == 110


async def test_a_claim_that_was_lost_counts_nothing(scene: Scene) -> None:
    reply = await scene.reply(fence=5)
    with pytest.raises(Fenced):
        await save(scene, reply, spent(), fence=4)
    assert await today(scene) is None


async def test_a_fallback_text_is_no_answer_and_what_was_asked_in_vain_costs(scene: Scene) -> None:
    reply = await scene.reply()
    saved = await scene.store.save_fallback(
        reply.key, fence=1, covers=reply.covers, body="Sorry.", fallback=Fallback.REFUSED, spent=spent(500, 0)
    )
    assert (saved.body, saved.to) == ("Sorry.", reply.to)
    assert await usage(scene, reply.conversation_id) == Usage(Spending(0, 500, 0), Spending(0, 500, 0))


async def test_a_fallback_text_without_a_cost_knows_whom_it_goes_to(scene: Scene) -> None:
    reply = await scene.reply()
    saved = await scene.store.save_fallback(
        reply.key, fence=1, covers=reply.covers, body="Sorry.", fallback=Fallback.UNAVAILABLE
    )
    assert saved.to == reply.to == Recipient(scene.wa_id, None)
    assert await today(scene) is None


async def test_what_was_spent_yesterday_is_not_todays(scene: Scene, sql: asyncpg.Connection) -> None:
    reply = await scene.reply()
    await save(scene, reply, spent())
    await sql.execute("update account_usage set day = day - 1 where account_id = $1", uuid.UUID(scene.account.id))
    await sql.execute(
        "update replies set spent_at = spent_at - interval '1 day' where account_id = $1", uuid.UUID(scene.account.id)
    )
    assert await usage(scene, reply.conversation_id) == Usage()
    assert await today(scene) is None
    (day,) = await scene.store.account_usage(
        [scene.account.id, str(uuid.uuid4()), "no id"], since=datetime.now(UTC).date() - timedelta(days=7)
    )
    assert day.answers == 1


async def test_of_answers_saved_at_once_each_is_counted_and_one_crosses_the_limit(scene: Scene) -> None:
    replies = []
    for number in range(8):
        asked = message()
        conversation = await scene.receive(asked, wa_id=f"336100{number:05d}")
        replies.append(
            await scene.store.open_reply(
                conversation.id, key=asked.wa_message_id, author="bot", covers=[asked.wa_message_id], fence=1
            )
        )
    saved = await asyncio.gather(*(save(scene, reply, spent()) for reply in replies))
    limits = DailyLimits(messages_per_account=5)
    changes = [reply.usage_change for reply in saved]
    assert sorted(change.after.account.answers for change in changes if change) == list(range(1, 9))
    crossed = [limit for change in changes if change for limit in limits.crossed(change)]
    assert crossed == [DailyLimit.MESSAGES_PER_ACCOUNT]


async def test_a_conversation_that_became_part_of_another_takes_its_costs_along(scene: Scene) -> None:
    """Two contacts turn out to be one person."""
    costs = []
    for ids in ({"wa_id": "33655555551", "user_id": None}, {"wa_id": None, "user_id": "FR.55"}):
        asked = message()
        inbound = await scene.store.record_inbound(scene.account.id, **ids, name="Ada", messages=[asked])
        reply = await scene.store.open_reply(
            inbound.conversation.id, key=asked.wa_message_id, author="bot", covers=[asked.wa_message_id], fence=1
        )
        costs.append(await save(scene, reply, spent()))
    both = await scene.store.record_inbound(
        scene.account.id, wa_id="33655555551", user_id="FR.55", name="Ada", messages=[message()]
    )
    assert (await usage(scene, both.conversation.id)).conversation == Spending(2, 200, 20)
    for cost in costs:
        assert (await usage(scene, cost.conversation_id)).conversation == Spending(2, 200, 20)


async def test_of_long_messages_only_the_beginning_is_read(scene: Scene) -> None:
    conversation = await scene.receive(message("x" * 65_536), message("short"), message(unique("left out")))
    background = await scene.store.background(conversation.id, limit=2, exclude=(), characters=100)
    assert background.turns[0].text == "short"
    background = await scene.store.background(conversation.id, limit=3, exclude=(), characters=100)
    assert [len(turn.text) for turn in background.turns][:2] == [100, 5]
    history = await scene.store.history(conversation.id, limit=3, exclude=())
    assert [turn.role for turn in background.turns] == [turn.role for turn in history]
