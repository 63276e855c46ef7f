"""A person is called with the reply, the bot pauses, and a number hears of it: on every store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.domain.errors import Fenced
from app.domain.models import (
    Author,
    Conversation,
    Fallback,
    Handover,
    HandoverNotice,
    HandoverReason,
    NoticeOutcome,
    Reply,
)
from app.domain.ports import SendDecision
from tests.support.store_kit import Scene, begin, look, message, unique

ASKED = Handover(HandoverReason.CUSTOMER_ASKED, pause_minutes=30)
GOES_ON = Handover(HandoverReason.MODEL_UNAVAILABLE)
STAFF = "33600000099"


async def call(scene: Scene, handover: Handover = ASKED, **changed: Any) -> tuple[Reply, SendDecision | None]:
    """A reply with which a person is called, to a message that has just come in."""
    reply = await scene.reply()
    answer: dict[str, Any] = {
        "fence": 1, "covers": reply.covers, "body": "A colleague comes.", "spent": None, "parts": 1,
        "text": "A colleague comes.", "attempt": "00000000-0000-4000-8000-000000000001", "handover": handover,
    }  # fmt: skip
    return await scene.store.save_and_begin(reply.key, **answer | changed)


async def stored(scene: Scene, reply: Reply) -> Conversation:
    found = await scene.store.get_conversation(reply.conversation_id)
    assert found is not None
    return found


async def due(scene: Scene, *, lost_after_seconds: float = 60) -> list[HandoverNotice]:
    """Of this scene's account alone: the database is shared."""
    taken = await scene.store.take_notices(limit=100_000, lost_after_seconds=lost_after_seconds)
    return [notice for notice in taken if notice.account_id == scene.account.id]


# -- the flag and the pause --------------------------------------------------------------------------------------------


async def test_the_flag_is_raised_with_the_reply_which_is_the_only_one_that_may_go_out(scene: Scene) -> None:
    reply, decision = await call(scene)
    assert decision is SendDecision.SEND
    found = await stored(scene, reply)
    assert (found.bot_enabled, found.needs_human, found.needs_human_reason) == (True, True, "customer_asked")
    assert found.handover_key == reply.key
    assert found.needs_human_since is not None
    assert found.bot_paused_until is not None
    pause = found.bot_paused_until - datetime.now(UTC)
    assert timedelta(minutes=29) < pause <= timedelta(minutes=30)
    later = await scene.reply()
    assert await begin(scene.store, later) is SendDecision.SILENCED
    await scene.store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
    assert (await look(scene.store, reply)).state == "sent"


async def test_a_person_writes_during_the_pause(scene: Scene) -> None:
    reply, _ = await call(scene)
    from_a_person = await scene.reply(author=Author.HUMAN)
    assert await begin(scene.store, from_a_person) is SendDecision.SEND
    assert not (await stored(scene, reply)).bot_enabled


async def test_a_pause_is_over_by_itself_and_by_hand(scene: Scene, sql: asyncpg.Connection) -> None:
    reply, _ = await call(scene)
    await sql.execute("update conversations set bot_paused_until = now() where id = $1", reply.conversation_id)
    assert await begin(scene.store, await scene.reply()) is SendDecision.SEND
    assert (await stored(scene, reply)).needs_human, "a person is still to come"

    again, _ = await call(scene)
    assert (await stored(scene, again)).handover_key == again.key, "a new pause"
    on = await scene.store.set_bot(reply.conversation_id, enabled=True)
    assert (on.needs_human, on.bot_paused_until, on.handover_key, on.handover_notice) == (False, None, None, None)
    assert await begin(scene.store, await scene.reply()) is SendDecision.SEND


async def test_without_a_pause_the_bot_goes_on_and_the_first_reason_stays(scene: Scene) -> None:
    reply, _ = await call(scene, GOES_ON)
    found = await stored(scene, reply)
    assert (found.needs_human_reason, found.bot_paused_until, found.handover_key) == ("model_unavailable", None, None)
    since = found.needs_human_since
    assert await begin(scene.store, await scene.reply()) is SendDecision.SEND
    asked, _ = await call(scene)
    found = await stored(scene, asked)
    assert (found.needs_human_reason, found.needs_human_since) == ("model_unavailable", since)
    assert found.bot_paused_until is not None


async def test_a_repetition_after_a_lost_answer_does_not_lengthen_the_pause(scene: Scene) -> None:
    reply, _ = await call(scene)
    until = (await stored(scene, reply)).bot_paused_until
    answer = await scene.store.save_body(reply.key, fence=1, covers=reply.covers, body=reply.body or "", handover=ASKED)
    assert answer.key == reply.key
    assert (await stored(scene, reply)).bot_paused_until == until


async def test_nobody_is_called_for_a_text_that_is_not_taken_or_where_a_person_is(scene: Scene) -> None:
    newer = await scene.reply(fence=2)
    with pytest.raises(Fenced):
        await scene.store.save_body(newer.key, fence=1, covers=newer.covers, body="x", handover=ASKED)
    sent = await scene.reply()
    await begin(scene.store, sent)
    await scene.store.save_body(sent.key, fence=1, covers=sent.covers, body="another one", handover=ASKED)
    assert not (await stored(scene, sent)).needs_human
    await scene.store.set_bot(sent.conversation_id, enabled=False)
    _, decision = await call(scene)
    assert decision is SendDecision.SILENCED
    assert not (await stored(scene, sent)).needs_human


async def test_a_fallback_text_that_is_kept_back_still_calls_a_person(scene: Scene) -> None:
    for _ in range(2):
        reply = await scene.reply()
        saved = await scene.store.save_fallback(
            reply.key, fence=1, covers=reply.covers, body="Later.", fallback=Fallback.UNAVAILABLE, handover=GOES_ON
        )
        assert (await stored(scene, reply)).needs_human
        if saved.state == "pending":
            await begin(scene.store, reply)
            await scene.store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
            await scene.store.set_bot(reply.conversation_id, enabled=True)
    assert saved.state == "silenced"


async def test_nothing_is_found_again_for_a_conversation_in_a_pause(scene: Scene) -> None:
    reply, _ = await call(scene)
    await scene.receive(message("are you there?"))
    waiting = await scene.store.waiting_conversations(older_than_seconds=0, limit=100_000, after=None)
    (found,) = [each for each in waiting if each.conversation_id == reply.conversation_id]
    assert not found.is_served


async def test_a_conversation_that_becomes_part_of_another_takes_its_pause_along(scene: Scene) -> None:
    user_id = unique("US.1")
    by_user_id = await scene.store.record_inbound(
        scene.account.id, wa_id=None, user_id=user_id, name="Ada", messages=(message(),)
    )
    reply, _ = await call(scene)
    one = await scene.store.record_inbound(
        scene.account.id, wa_id=scene.wa_id, user_id=user_id, name="Ada", messages=(message(),)
    )
    assert {one.conversation.id} < {by_user_id.conversation.id, reply.conversation_id}
    assert (one.conversation.needs_human, one.conversation.handover_key) == (True, reply.key)
    assert one.conversation.bot_paused_until is not None
    assert await begin(scene.store, await scene.reply()) is SendDecision.SILENCED


# -- the number that hears of it ---------------------------------------------------------------------------------------


async def told_of(scene: Scene, changes: Mapping[str, object] | None = None) -> Reply:
    """A call for help in an account whose number has just written to it."""
    await scene.store.update_profile(scene.account.id, changes or {"handover_notify_number": STAFF})
    await scene.receive(wa_id=STAFF)
    reply, _ = await call(scene)
    return reply


async def test_a_notice_is_due_once_for_a_call_and_its_end_is_shown(scene: Scene) -> None:
    reply = await told_of(scene)
    (notice,) = await due(scene)
    assert (notice.conversation_id, notice.number, notice.name, notice.wa_id) == (
        reply.conversation_id, STAFF, "Ada", scene.wa_id
    )  # fmt: skip
    assert (notice.reason, notice.outcome) == ("customer_asked", None)
    assert await due(scene) == [], "it is taken"
    await scene.store.put_off_notice(notice.id, seconds=0)
    assert await due(scene) == [notice], "it certainly did not go out"
    await scene.store.end_notice(notice.id, NoticeOutcome.SENT)
    assert (await stored(scene, reply)).handover_notice == "sent"
    assert await due(scene, lost_after_seconds=0) == []


@pytest.mark.parametrize("order", ["status after the send is noted", "status before it"])
async def test_a_text_that_did_not_arrive_is_shown_in_each_conversation_it_told_of(scene: Scene, order: str) -> None:
    first = await told_of(scene)
    other = await scene.receive(wa_id=unique("3361"))
    await scene.store.set_needs_human(other.id, HandoverReason.UNREADABLE)
    both, wamid = await due(scene), unique("wamid.notice")

    async def end() -> None:
        for notice in both:
            await scene.store.end_notice(notice.id, NoticeOutcome.SENT, wamid=wamid)

    if order == "status before it":
        assert not await scene.status("failed", wamid=wamid, error={"code": 131026}), "kept for later"
        await end()
    else:
        await end()
        assert await scene.status("delivered", wamid=wamid)
        assert (await stored(scene, first)).handover_notice == "sent"
        assert await scene.status("failed", wamid=wamid, error={"code": 131026})
    for conversation_id in (first.conversation_id, other.id):
        found = await scene.store.get_conversation(conversation_id)
        assert found is not None
        assert (found.handover_notice, found.handover_notice_error) == ("failed", {"code": 131026})


async def test_a_late_failure_says_nothing_of_a_later_text_or_a_flag_that_is_down(scene: Scene) -> None:
    reply, early, late = await told_of(scene), unique("wamid.n"), unique("wamid.n")
    (notice,) = await due(scene)
    await scene.store.end_notice(notice.id, NoticeOutcome.SENT, wamid=early)
    await scene.store.set_bot(reply.conversation_id, enabled=True)
    await scene.status("failed", wamid=early, error={"code": 131026})
    assert (await stored(scene, reply)).handover_notice is None
    await call(scene)
    (notice,) = await due(scene)
    await scene.store.end_notice(notice.id, NoticeOutcome.SENT, wamid=late)
    await scene.status("failed", wamid=early, error={"code": 131026})
    assert (await stored(scene, reply)).handover_notice == "sent"


async def test_a_new_pause_is_told_again_and_a_flag_that_is_up_is_not(scene: Scene, sql: asyncpg.Connection) -> None:
    reply = await told_of(scene)
    await scene.store.set_needs_human(reply.conversation_id, HandoverReason.SEND_FAILED)
    (notice,) = await due(scene)
    await scene.store.end_notice(notice.id, NoticeOutcome.SENT)
    await call(scene, GOES_ON)
    assert await due(scene) == []
    await sql.execute("update conversations set bot_paused_until = now() where id = $1", reply.conversation_id)
    await call(scene)
    assert len(await due(scene)) == 1


async def test_a_number_that_has_not_written_for_a_day_is_told_nothing_and_that_is_shown(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await scene.store.update_profile(scene.account.id, {"handover_notify_number": STAFF})
    first, _ = await call(scene)
    assert [notice.outcome for notice in await due(scene)] == [NoticeOutcome.WINDOW_CLOSED], "it never wrote"
    assert (await stored(scene, first)).handover_notice == "window_closed"
    await scene.store.set_bot(first.conversation_id, enabled=True)
    staff = await scene.receive(wa_id=STAFF)
    old = "update conversations set last_inbound_at = now() - interval '25 hours' where id = $1"
    await sql.execute(old, staff.id)
    await call(scene)
    assert [notice.outcome for notice in await due(scene)] == [NoticeOutcome.WINDOW_CLOSED]


async def test_a_send_that_a_replica_did_not_end_is_over_and_not_repeated(scene: Scene) -> None:
    reply = await told_of(scene)
    await due(scene)
    assert [notice.outcome for notice in await due(scene, lost_after_seconds=0)] == [NoticeOutcome.UNKNOWN]
    assert (await stored(scene, reply)).handover_notice == "unknown"
    assert await due(scene, lost_after_seconds=0) == []


@pytest.mark.parametrize("number", [None, "the customer's"])
async def test_no_notice_without_a_number_or_to_the_customer_who_asks(scene: Scene, number: str | None) -> None:
    await told_of(scene, {"handover_notify_number": number and scene.wa_id})
    assert await due(scene) == []


async def test_no_notice_for_a_flag_that_a_person_has_cleared(scene: Scene) -> None:
    reply = await told_of(scene)
    await scene.store.set_bot(reply.conversation_id, enabled=True)
    assert await due(scene) == []
