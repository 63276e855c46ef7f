"""Whose a message is, on every store: changed numbers and user ids, several numbers of one person, groups, clocks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.models import Author, Conversation, HandoverReason, InboundMessage, ReplyState
from app.domain.ports import SendDecision
from tests.support.store_kit import NewAccount, Scene, begin, message, unique, until_all_wait

OLD, NEW = "34610000014", "34610000015"
NOW = datetime.now(UTC).replace(microsecond=0)


def change(kind: str = "user_changed_number", *, at: datetime = NOW, wamid: str = "", **system: str) -> InboundMessage:
    """The system message in which WhatsApp reports new ids."""
    note = message("User Mira changed", kind="system", at=at, wamid=wamid)
    return replace(note, payload={**note.payload, "system": {"type": kind, "body": note.text, **system}})


async def say(
    scene: Scene, *, wa_id: str | None = None, user_id: str | None = None, at: datetime | None = None, **more: Any
) -> Conversation:
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=wa_id, user_id=user_id, name=None, messages=[message(at=at)], **more
    )
    return inbound.conversation


async def report(
    scene: Scene, note: InboundMessage, *, wa_id: str | None = None, user_id: str | None = None
) -> Conversation:
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=wa_id, user_id=user_id, name=None, messages=[note]
    )
    return inbound.conversation


async def listed(scene: Scene) -> list[Conversation]:
    return list((await scene.store.list_conversations(scene.account.id, limit=50, cursor=None)).items)


# -- changes of number and user id --


async def test_a_new_number_keeps_contact_conversation_and_take_over(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await scene.store.set_bot(before.id, enabled=False)
    moved = await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert (moved.id, moved.contact.id, moved.contact.wa_id) == (before.id, before.contact.id, NEW)
    after = await say(scene, wa_id=NEW)
    assert (after.id, after.bot_enabled) == (before.id, False)
    assert len(await listed(scene)) == 1


async def test_a_message_from_the_new_number_before_the_report_joins_the_old_conversation(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    early = await say(scene, wa_id=NEW)
    assert early.id != before.id
    await scene.store.set_bot(early.id, enabled=False)
    moved = await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert (moved.id, moved.contact.wa_id, moved.bot_enabled, moved.unread_count) == (before.id, NEW, False, 2)
    assert [c.id for c in await listed(scene)] == [before.id]
    assert (await say(scene, wa_id=NEW)).id == before.id


@pytest.mark.parametrize("off", ["old", "new", "neither"])
async def test_the_bot_is_off_after_a_merge_if_it_was_off_in_either(scene: Scene, off: str) -> None:
    both = {"old": await say(scene, wa_id=OLD), "new": await say(scene, wa_id=NEW)}
    if off in both:
        await scene.store.set_bot(both[off].id, enabled=False)
    moved = await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert moved.bot_enabled == (off == "neither")


async def test_a_person_is_called_for_the_conversation_that_is_left_after_a_merge(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    gone = await say(scene, wa_id=NEW)
    left = await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert left.id == before.id
    await scene.store.set_needs_human(gone.id, HandoverReason.MODEL_UNAVAILABLE)
    called = await scene.store.get_conversation(left.id)
    assert called is not None
    assert (called.needs_human, called.needs_human_reason) == (True, "model_unavailable")


async def test_a_report_delivered_again_changes_nothing_for_the_next_owner_of_the_old_number(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    note = change(wa_id=NEW)
    await report(scene, note, wa_id=OLD)
    stranger = await say(scene, wa_id=OLD, at=NOW + timedelta(seconds=5))
    assert stranger.id != before.id
    again = await report(scene, note, wa_id=OLD)
    assert again.id == before.id
    assert {c.contact.wa_id: c.id for c in await listed(scene)} == {NEW: before.id, OLD: stranger.id}


async def test_a_report_delivered_again_makes_no_second_conversation(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    note = change(wa_id=NEW)
    for _ in range(2):
        await report(scene, note, wa_id=OLD)
    assert [c.id for c in await listed(scene)] == [before.id]


async def test_a_number_used_again_in_the_same_second_is_another_persons(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert (await say(scene, wa_id=OLD, at=NOW)).id != before.id


async def test_what_was_written_before_the_change_and_delivered_after_it_is_the_former_owners(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    stranger = await say(scene, wa_id=OLD, at=NOW + timedelta(seconds=5))
    late = await say(scene, wa_id=OLD, at=NOW - timedelta(seconds=5))
    assert (late.id, late.contact.wa_id) == (before.id, NEW)
    assert (await say(scene, wa_id=OLD, at=NOW + timedelta(seconds=6))).id == stranger.id


async def test_a_number_that_had_another_owner_long_before_brings_nothing_of_theirs(scene: Scene) -> None:
    earlier = await say(scene, wa_id=NEW, at=NOW - timedelta(days=2))
    before = await say(scene, wa_id=OLD)
    moved = await report(scene, change(wa_id=NEW), wa_id=OLD)
    assert (moved.id, moved.unread_count) == (before.id, 1)
    left = await scene.store.get_conversation(earlier.id)
    assert left is not None
    assert (left.contact.wa_id, left.last_inbound_at) == (None, None), "no number, and no window to write in"
    assert (await say(scene, wa_id=NEW, at=NOW - timedelta(days=1))).id == earlier.id, "a late one of theirs"
    assert (await scene.store.get_conversation(earlier.id)).last_inbound_at is None


async def test_user_ids_that_contradict_each_other_are_two_people(scene: Scene) -> None:
    one = await say(scene, wa_id=OLD, user_id="ES.1")
    two = await say(scene, wa_id=NEW, user_id="ES.2")
    moved = await report(scene, change(wa_id=NEW), wa_id=OLD, user_id="ES.1")
    assert (moved.id, moved.contact.wa_id, moved.contact.user_id) == (one.id, NEW, "ES.1")
    assert {c.id: c.contact.wa_id for c in await listed(scene)} == {one.id: NEW, two.id: None}


async def test_a_new_user_id_keeps_the_conversation_and_the_old_one_still_leads_to_it(scene: Scene) -> None:
    before = await say(scene, user_id="ES.1")
    await scene.store.set_bot(before.id, enabled=False)
    note = change("user_changed_user_id", user_id="ES.2", previous_user_id="ES.1")
    moved = await report(scene, note, user_id="ES.1")
    assert (moved.id, moved.contact.user_id, moved.bot_enabled) == (before.id, "ES.2", False)
    for user_id in ("ES.2", "ES.1"):
        found = await say(scene, user_id=user_id)
        assert (found.id, found.contact.user_id) == (before.id, "ES.2")


async def test_a_new_user_id_that_wrote_before_the_report_joins(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD, user_id="ES.1")
    await say(scene, user_id="ES.2")
    note = change("user_changed_user_id", user_id="ES.2", previous_user_id="ES.1")
    moved = await report(scene, note, user_id="ES.1")
    assert (moved.id, moved.contact.wa_id, moved.contact.user_id) == (before.id, OLD, "ES.2")
    assert [c.id for c in await listed(scene)] == [before.id]


async def test_a_new_number_with_a_new_user_id(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD, user_id="ES.1")
    await say(scene, wa_id=NEW, user_id="ES.2")
    moved = await report(scene, change(wa_id=NEW, user_id="ES.2"), wa_id=OLD, user_id="ES.1")
    assert (moved.id, moved.contact.wa_id, moved.contact.user_id) == (before.id, NEW, "ES.2")
    assert [c.id for c in await listed(scene)] == [before.id]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
async def test_two_changes_in_a_row_end_at_the_last_number(scene: Scene, order: tuple[int, int]) -> None:
    third = "34610000016"
    before = await say(scene, wa_id=OLD)
    steps = [(OLD, change(wa_id=NEW)), (NEW, change(wa_id=third, at=NOW + timedelta(seconds=30)))]
    for index in order:
        wa_id, note = steps[index]
        await report(scene, note, wa_id=wa_id)
    found = await say(scene, wa_id=third)
    assert (found.id, found.contact.wa_id) == (before.id, third)
    assert [c.id for c in await listed(scene)] == [before.id]


async def test_there_and_back_again(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    await report(scene, change(wa_id=OLD, at=NOW + timedelta(seconds=9)), wa_id=NEW)
    found = await say(scene, wa_id=OLD, at=NOW + timedelta(seconds=10))
    assert (found.id, found.contact.wa_id) == (before.id, OLD)
    assert [c.id for c in await listed(scene)] == [before.id]


async def test_a_change_of_identity_alone_moves_nobody(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await report(scene, change("customer_identity_changed", wa_id=NEW), wa_id=OLD)
    assert [(c.id, c.contact.wa_id) for c in await listed(scene)] == [(before.id, OLD)]


async def test_a_change_in_one_account_moves_nobody_in_another(scene: Scene, new_account: NewAccount) -> None:
    mine = scene.account
    scene.account = await new_account()
    theirs = await say(scene, wa_id=OLD)
    scene.account = mine
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    found = await scene.store.get_conversation(theirs.id)
    assert found is not None
    assert found.contact.wa_id == OLD


async def test_an_echo_to_the_new_number_takes_the_same_conversation_over(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    echoed = await scene.store.record_echo(scene.account.id, wa_id=f"+{NEW}", user_id=None, message=message())
    assert (echoed.id, echoed.bot_enabled) == (before.id, False)


async def test_a_reply_in_flight_follows_its_conversation_into_the_other(scene: Scene) -> None:
    """A worker holds the new number's mailbox while the report is handled; another one the old number's."""
    store = scene.store
    old_asked, new_asked = message(), message()
    before = await scene.receive(old_asked, wa_id=OLD)
    early = await scene.receive(new_asked, wa_id=NEW)
    old_key, new_key = old_asked.wa_message_id, new_asked.wa_message_id
    old = await store.open_reply(before.id, key=old_key, author=Author.BOT, covers=[old_key], fence=9, body="a")
    await report(scene, change(wa_id=NEW), wa_id=OLD)
    new = await store.open_reply(early.id, key=new_key, author=Author.BOT, covers=[new_key], fence=3, body="b")
    assert new.conversation_id == before.id
    for reply, fence in ((old, 9), (new, 3)):
        assert await begin(store, reply, fence=fence) is SendDecision.SEND
        await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
    again = await store.open_reply(early.id, key=new_key, author=Author.BOT, covers=[new_key], fence=4)
    assert (again.conversation_id, again.state) == (before.id, ReplyState.SENT)
    page = await store.list_messages(before.id, limit=50, cursor=None)
    assert [m.outbound_key for m in page.items if m.outbound_key] == [f"{new_key}#0", f"{old_key}#0"]


async def test_reports_and_messages_at_once_end_in_one_conversation(scene: Scene) -> None:
    before = await say(scene, wa_id=OLD)
    note = change(wa_id=NEW)
    await asyncio.gather(
        *(say(scene, wa_id=NEW) for _ in range(4)), *(report(scene, note, wa_id=OLD) for _ in range(3)),
        *(say(scene, wa_id=OLD, at=NOW - timedelta(seconds=1)) for _ in range(4)),
    )  # fmt: skip
    (only,) = await listed(scene)
    assert (only.id, only.contact.wa_id, only.unread_count) == (before.id, NEW, 9)


async def test_a_merge_waits_for_a_send_that_is_being_decided(scene: Scene, sql: asyncpg.Connection) -> None:
    reply = await scene.reply()
    await say(scene, wa_id=NEW)
    async with sql.transaction():
        await sql.execute("select from replies where reply_key = $1 for no key update", reply.key)
        merge = asyncio.create_task(report(scene, change(wa_id=scene.wa_id), wa_id=NEW))
        await until_all_wait(sql, merge)
    assert (await merge).contact.wa_id == scene.wa_id


# -- several numbers of one person --

MOBILE, CARD = "5215512345678", "525512345678"


async def test_any_of_three_ids_finds_the_contact(scene: Scene) -> None:
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=MOBILE, user_id="MX.77", name="Rosa", messages=[message()], other_wa_id=CARD
    )
    contact = inbound.conversation.contact
    assert (contact.wa_id, contact.user_id, contact.name) == (MOBILE, "MX.77", "Rosa")
    for ids in ({"wa_id": MOBILE}, {"wa_id": CARD}, {"user_id": "MX.77"}, {"wa_id": CARD, "user_id": "MX.77"}):
        assert (await say(scene, **ids)).contact == contact
    echoed = await scene.store.record_echo(scene.account.id, wa_id=CARD, user_id=None, message=message())
    assert echoed.contact == contact


@pytest.mark.parametrize("first", [{"wa_id": MOBILE}, {"wa_id": CARD}, {"user_id": "MX.77"}], ids=str)
async def test_a_contact_known_by_one_id_learns_the_others(scene: Scene, first: dict[str, str]) -> None:
    known = await say(scene, **first)
    assert (await say(scene, wa_id=MOBILE, user_id="MX.77", other_wa_id=CARD)).id == known.id
    for ids in ({"wa_id": MOBILE}, {"wa_id": CARD}, {"user_id": "MX.77"}):
        assert (await say(scene, **ids)).id == known.id


async def test_contacts_of_the_same_person_by_three_ids_become_one(scene: Scene) -> None:
    for ids in ({"wa_id": MOBILE}, {"wa_id": CARD}, {"user_id": "MX.77"}):
        await say(scene, **ids)
    assert len(await listed(scene)) == 3
    together = await say(scene, wa_id=MOBILE, user_id="MX.77", other_wa_id=CARD)
    assert [c.id for c in await listed(scene)] == [together.id]
    assert together.unread_count == 4


async def test_both_numbers_end_with_a_change(scene: Scene) -> None:
    before = await say(scene, wa_id=MOBILE, other_wa_id=CARD)
    await report(scene, change(wa_id=NEW), wa_id=MOBILE)
    assert (await say(scene, wa_id=NEW)).id == before.id
    for number in (MOBILE, CARD):
        assert (await say(scene, wa_id=number, at=NOW + timedelta(seconds=1))).id != before.id


@pytest.mark.parametrize("written", ["+34 610-000-016", "+34610000016", "34 (610) 000.016"])
async def test_a_number_is_digits_however_it_is_written(scene: Scene, written: str) -> None:
    before = await say(scene, wa_id="34610000016")
    echoed = await scene.store.record_echo(scene.account.id, wa_id=written, user_id=None, message=message())
    assert (echoed.id, echoed.contact.wa_id, echoed.bot_enabled) == (before.id, "34610000016", False)
    assert (await say(scene, wa_id=written)).id == before.id


# -- groups --


def in_group(text: str, group_id: str = "Y2FwaV9ncm91cDox") -> InboundMessage:
    written = message(text)
    return replace(written, payload={**written.payload, "group_id": group_id})


async def test_what_is_said_in_a_group_stays_out_of_the_private_conversation(scene: Scene) -> None:
    secret = in_group("our margin is 40 percent")
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=OLD, user_id=None, name="Mira", messages=[secret]
    )
    group = inbound.conversation
    assert (group.contact.group_id, group.contact.wa_id, group.contact.name) == ("Y2FwaV9ncm91cDox", None, None)
    assert (group.bot_enabled, group.unread_count, group.last_inbound_at) == (False, 1, None)
    private = await say(scene, wa_id=OLD)
    assert (private.unread_count, private.bot_enabled) == (1, True)
    assert "margin" not in str(await scene.store.history(private.id, limit=10, exclude=()))
    assert (await scene.receive(in_group("and more"), wa_id=NEW)).id == group.id


async def test_a_run_of_the_previous_version_that_mixes_both_is_taken_apart(scene: Scene) -> None:
    run = [in_group("in the group"), message("in private"), in_group("again")]
    inbound = await scene.store.record_inbound(scene.account.id, wa_id=OLD, user_id=None, name=None, messages=run)
    assert (inbound.conversation.contact.wa_id, inbound.conversation.unread_count) == (OLD, 1)
    assert inbound.new_ids == {m.wa_message_id for m in run}
    (group,) = [c for c in await listed(scene) if c.contact.group_id]
    assert group.unread_count == 2


async def test_an_echo_in_a_group_silences_no_private_conversation(scene: Scene) -> None:
    private = await say(scene, wa_id=OLD)
    echoed = await scene.store.record_echo(scene.account.id, wa_id=OLD, user_id=None, message=in_group("hello all"))
    assert echoed.contact.group_id
    found = await scene.store.get_conversation(private.id)
    assert found is not None
    assert found.bot_enabled


async def test_a_failed_status_of_a_group_message_calls_nobody_to_the_private_conversation(scene: Scene) -> None:
    private = await say(scene, wa_id=OLD)
    echo = in_group("hello all")
    await scene.store.record_echo(scene.account.id, wa_id=OLD, user_id=None, message=echo)
    assert await scene.status("failed", wamid=echo.wa_message_id, error={"code": 1})
    assert {c.id: c.needs_human for c in await listed(scene)}[private.id] is False


async def test_groups_of_two_accounts_are_two(scene: Scene, new_account: NewAccount) -> None:
    mine = await scene.receive(in_group("a"))
    scene.account = await new_account()
    assert (await scene.receive(in_group("a"))).id != mine.id


async def test_nothing_can_be_sent_into_a_group(scene: Scene) -> None:
    group = await scene.receive(in_group("a"))
    await scene.store.set_bot(group.id, enabled=True)
    reply = await scene.store.open_reply(group.id, key=unique(), author=Author.BOT, covers=[], fence=1, body="hi")
    assert await begin(scene.store, reply) is SendDecision.WINDOW_CLOSED


# -- two accounts with one message id --


async def test_two_accounts_answer_messages_of_the_same_id(scene: Scene, new_account: NewAccount) -> None:
    store, same = scene.store, message()
    key = same.wa_message_id
    replies = []
    for _ in range(2):
        conversation = await scene.receive(same)
        made = await store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key], fence=1)
        assert (made.conversation_id, made.state) == (conversation.id, ReplyState.PENDING)
        found = await store.open_reply(conversation.id, key=key, author=Author.BOT, covers=[key], fence=2)
        assert found.key == made.key
        await store.save_body(found.key, fence=2, covers=[key], body=scene.account.name)
        assert await begin(store, found, fence=2) is SendDecision.SEND
        replies.append((scene.account, found))
        scene.account = await new_account()
    for account, reply in replies:
        scene.account = account
        wamid = unique("wamid")
        assert await scene.status("delivered", wamid=wamid, key=f"{reply.key}#0")
        again = await store.open_reply(reply.conversation_id, key=key, author=Author.BOT, covers=[], fence=3)
        assert (again.state, again.body, again.wamid) == (ReplyState.SENT, account.name, wamid)


async def test_the_status_of_another_accounts_send_finishes_nothing(scene: Scene, new_account: NewAccount) -> None:
    reply = await scene.reply()
    await begin(scene.store, reply)
    mine, scene.account = scene.account, await new_account()
    assert not await scene.status("delivered", wamid="w", key=f"{reply.key}#0")
    scene.account = mine
    again = await scene.store.open_reply(reply.conversation_id, key=reply.key, author=Author.BOT, covers=[], fence=2)
    assert again.state is ReplyState.SENDING


async def test_two_accounts_that_open_the_same_key_at_once_have_one_reply_each(
    scene: Scene, new_account: NewAccount
) -> None:
    same = message()
    key = same.wa_message_id
    conversations = []
    for _ in range(4):
        conversations.append(await scene.receive(same))
        scene.account = await new_account()
    opened = await asyncio.gather(*(
        scene.store.open_reply(c.id, key=key, author=Author.BOT, covers=[key], fence=1) for c in conversations * 3
    ))  # fmt: skip
    assert {(r.conversation_id, r.key) for r in opened} == {(r.conversation_id, r.key) for r in opened[:4]}
    assert len({r.key for r in opened}) == 4


# -- clocks --


async def test_a_message_from_the_year_2100_counts_as_written_now(scene: Scene, sql: asyncpg.Connection) -> None:
    conversation = await say(scene, wa_id=OLD, at=datetime(2100, 1, 1, tzinfo=UTC))
    limit = await sql.fetchval("select now() + interval '1 minute'")
    assert conversation.last_inbound_at is not None
    assert conversation.last_inbound_at <= limit
    (stored,) = (await scene.store.list_messages(conversation.id, limit=1, cursor=None)).items
    assert stored.timestamp <= limit


async def test_a_clock_half_a_minute_fast_is_believed(scene: Scene) -> None:
    at = datetime.now(UTC) + timedelta(seconds=30)
    assert (await say(scene, wa_id=OLD, at=at)).last_inbound_at == at


async def test_an_echo_from_the_future_is_listed_as_of_now(store: SqlStore, scene: Scene) -> None:
    echo = message(at=datetime(2100, 1, 1, tzinfo=UTC))
    conversation = await store.record_echo(scene.account.id, wa_id=OLD, user_id=None, message=echo)
    (stored,) = (await store.list_messages(conversation.id, limit=1, cursor=None)).items
    assert stored.timestamp < datetime(2100, 1, 1, tzinfo=UTC)
