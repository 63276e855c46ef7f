"""Messages coming in, conversations, listings and history, on every store."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.errors import InvalidInput, NotFound
from app.domain.models import Author, Contact, Direction, HandoverReason, InboundMessage, LastMessage, Status, Turn
from tests.support.store_kit import NewAccount, Scene, message, unique

NOBODY = str(uuid.uuid4())


async def all_messages(store: SqlStore, conversation_id: str) -> list[str]:
    """Texts, newest first, through pages of two."""
    texts: list[str] = []
    cursor = None
    while True:
        page = await store.list_messages(conversation_id, limit=2, cursor=cursor)
        texts += [item.text or "" for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return texts


# -- record_inbound ----------------------------------------------------------------------------------------------------


async def test_a_first_message_makes_contact_and_conversation(scene: Scene) -> None:
    sent = message("Bonjour 🥐", at=datetime(2026, 11, 23, 8, 30, 15, tzinfo=UTC))
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id="336", user_id="FR.1", name="Ada", messages=[sent]
    )
    conversation = inbound.conversation
    assert inbound.new_ids == {sent.wa_message_id}
    assert conversation.account_id == scene.account.id
    assert conversation.contact == Contact(conversation.contact.id, "336", "FR.1", "Ada")
    assert (conversation.bot_enabled, conversation.needs_human, conversation.unread_count) == (True, False, 1)
    assert conversation.last_inbound_at == sent.timestamp
    assert await scene.store.get_conversation(conversation.id) == conversation
    assert conversation.last_message_at is not None
    read = await scene.store.mark_read(conversation.id)
    assert read.last_message_at == conversation.last_message_at, "nothing was said"

    (stored,) = (await scene.store.list_messages(conversation.id, limit=10, cursor=None)).items
    assert (stored.direction, stored.author, stored.status) == (Direction.INBOUND, Author.CUSTOMER, Status.RECEIVED)
    assert (stored.type, stored.text, stored.timestamp) == ("text", "Bonjour 🥐", sent.timestamp)
    assert (stored.wa_message_id, stored.payload) == (sent.wa_message_id, sent.payload)
    assert (stored.conversation_id, stored.outbound_key, stored.error) == (conversation.id, None, None)


async def test_an_account_decides_whether_the_bot_starts_on(scene: Scene, new_account: NewAccount) -> None:
    scene.account = await new_account(bot_auto_on=False)
    assert not (await scene.receive()).bot_enabled


async def test_a_message_is_stored_once(scene: Scene) -> None:
    first, second = message("1"), message("2")
    await scene.receive(first)
    again = await scene.store.record_inbound(
        scene.account.id, wa_id=scene.wa_id, user_id=None, name="Ada", messages=[first, second, second]
    )
    assert again.new_ids == {second.wa_message_id}
    assert again.conversation.unread_count == 2
    assert await all_messages(scene.store, again.conversation.id) == ["2", "1"]


async def test_accounts_never_share_contacts_or_messages(scene: Scene, new_account: NewAccount) -> None:
    same = message()
    mine = await scene.receive(same)
    scene.account = await new_account()
    theirs = await scene.receive(same)
    assert mine.contact.id != theirs.contact.id
    assert mine.id != theirs.id
    assert theirs.unread_count == 1


async def test_the_same_run_from_eight_tasks_at_once_is_stored_once(scene: Scene) -> None:
    run = [message(str(n)) for n in range(5)]

    async def record(seed: int) -> frozenset[str]:
        shuffled = random.Random(seed).sample(run, len(run))
        inbound = await scene.store.record_inbound(
            scene.account.id, wa_id="337", user_id="FR.2", name="Ada", messages=shuffled
        )
        return inbound.new_ids

    results = await asyncio.gather(*(record(seed) for seed in range(8)))
    assert sorted(wamid for new in results for wamid in new) == sorted(m.wa_message_id for m in run)
    (conversation,) = (await scene.store.list_conversations(scene.account.id, limit=10, cursor=None)).items
    assert conversation.unread_count == 5
    assert sorted(await all_messages(scene.store, conversation.id)) == ["0", "1", "2", "3", "4"]


async def test_unread_is_right_when_runs_and_readers_meet(scene: Scene) -> None:
    conversation = await scene.receive()
    await scene.store.mark_read(conversation.id)
    await asyncio.gather(*(scene.receive(message(), message()) for _ in range(6)))
    after = await scene.store.get_conversation(conversation.id)
    assert after is not None
    assert after.unread_count == 12


async def test_last_inbound_never_goes_back(scene: Scene) -> None:
    now = datetime.now(UTC)
    await scene.receive(message(at=now))
    conversation = await scene.receive(message("late", at=now - timedelta(days=2)))
    assert conversation.last_inbound_at == now
    assert conversation.unread_count == 2


async def test_a_system_note_is_neither_unread_nor_opens_the_window(scene: Scene) -> None:
    conversation = await scene.receive(message("Ada changed her number", kind="system"))
    assert (conversation.unread_count, conversation.last_inbound_at) == (0, None)
    assert await all_messages(scene.store, conversation.id) == ["Ada changed her number"]


async def test_a_name_is_taken_over_and_never_forgotten(scene: Scene) -> None:
    await scene.receive()
    without = await scene.store.record_inbound(
        scene.account.id, wa_id=scene.wa_id, user_id=None, name=None, messages=[message()]
    )
    assert without.conversation.contact.name == "Ada"
    renamed = await scene.store.record_inbound(
        scene.account.id, wa_id=scene.wa_id, user_id=None, name="Ada L.", messages=[]
    )
    assert renamed.conversation.contact.name == "Ada L."
    assert renamed.new_ids == frozenset()


async def test_recording_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound) as missing:
        await scene.store.record_inbound(NOBODY, wa_id="1", user_id=None, name=None, messages=[message()])
    assert missing.value.code == "account_not_found"
    with pytest.raises(InvalidInput):
        await scene.store.record_inbound(scene.account.id, wa_id=None, user_id=None, name=None, messages=[message()])


async def test_a_payload_may_hold_anything(scene: Scene) -> None:
    odd = InboundMessage(unique("wamid"), "mystery", None, datetime.now(UTC), {"\x00": ["\u2028", 1e300, None, {}]})
    conversation = await scene.receive(odd)
    (stored,) = (await scene.store.list_messages(conversation.id, limit=1, cursor=None)).items
    assert stored.payload == {"\ufffd": ["\u2028", 1e300, None, {}]}


# -- who is who --------------------------------------------------------------------------------------------------------


async def identify(scene: Scene, wa_id: str | None, user_id: str | None) -> Contact:
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=wa_id, user_id=user_id, name=None, messages=[message(f"{wa_id} {user_id}")]
    )
    return inbound.conversation.contact


@pytest.mark.parametrize("first", [("331", None), (None, "FR.1")], ids=["number first", "user id first"])
async def test_a_second_id_joins_the_first(scene: Scene, first: tuple[str | None, str | None]) -> None:
    known = await identify(scene, *first)
    both = await identify(scene, "331", "FR.1")
    assert both == Contact(known.id, "331", "FR.1", None)
    assert await identify(scene, "331", None) == both
    assert await identify(scene, None, "FR.1") == both


async def test_two_contacts_found_to_be_one_person_become_one(scene: Scene) -> None:
    store, account_id = scene.store, scene.account.id
    by_number, by_user = message("by number"), message("by user")
    one = await store.record_inbound(account_id, wa_id="331", user_id=None, name="Ada", messages=[by_number])
    two = await store.record_inbound(account_id, wa_id=None, user_id="FR.1", name=None, messages=[by_user])
    await store.set_bot(one.conversation.id, enabled=False)
    key = by_number.wa_message_id
    await store.open_reply(one.conversation.id, key=key, author=Author.BOT, covers=[], fence=1)

    merged = await store.record_inbound(account_id, wa_id="331", user_id="FR.1", name=None, messages=[])
    assert merged.conversation.id == two.conversation.id
    assert (merged.conversation.contact.wa_id, merged.conversation.contact.user_id) == ("331", "FR.1")
    assert (merged.conversation.unread_count, merged.conversation.bot_enabled) == (2, False)
    assert sorted(await all_messages(store, merged.conversation.id)) == ["by number", "by user"]
    assert await store.get_conversation(one.conversation.id) is None
    found = await store.open_reply(merged.conversation.id, key=key, author=Author.BOT, covers=[], fence=2)
    assert found.conversation_id == merged.conversation.id


async def test_a_contact_without_conversation_brings_its_own_along(scene: Scene) -> None:
    await scene.store.record_echo(scene.account.id, wa_id="331", user_id=None, message=message("hello?"))
    by_user = await identify(scene, None, "FR.1")
    assert (await identify(scene, "331", "FR.1")).id == by_user.id


async def test_a_number_that_changed_hands_goes_to_its_new_owner(scene: Scene) -> None:
    before = await identify(scene, "331", "FR.1")
    after = await identify(scene, "331", "FR.2")
    assert after.id != before.id
    assert await identify(scene, None, "FR.1") == Contact(before.id, None, "FR.1", None)
    assert await identify(scene, "331", None) == after


async def test_a_person_who_changed_number_stays_the_same(scene: Scene) -> None:
    before = await identify(scene, "331", "FR.1")
    assert await identify(scene, "332", "FR.1") == Contact(before.id, "332", "FR.1", None)


async def test_ids_met_in_every_order_at_once_are_one_contact(scene: Scene) -> None:
    payloads = [("331", None), (None, "FR.1"), ("331", "FR.1")] * 4
    await asyncio.gather(*(identify(scene, wa_id, user_id) for wa_id, user_id in payloads))
    (conversation,) = (await scene.store.list_conversations(scene.account.id, limit=10, cursor=None)).items
    assert conversation.unread_count == 12
    assert (conversation.contact.wa_id, conversation.contact.user_id) == ("331", "FR.1")


# -- record_echo -------------------------------------------------------------------------------------------------------


async def test_an_answer_from_the_phone_silences_the_bot(scene: Scene) -> None:
    conversation = await scene.receive()
    echo = message("On my way")
    after = await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=echo)
    assert (after.id, after.bot_enabled, after.unread_count) == (conversation.id, False, 1)
    stored = (await scene.store.list_messages(conversation.id, limit=1, cursor=None)).items[0]
    assert (stored.direction, stored.author, stored.status) == (Direction.OUTBOUND, Author.HUMAN, Status.SENT)
    assert (stored.text, stored.wa_message_id, stored.timestamp) == ("On my way", echo.wa_message_id, echo.timestamp)


async def test_an_echo_delivered_again_does_not_silence_it_again(scene: Scene) -> None:
    echo = message()
    conversation = await scene.store.record_echo(scene.account.id, wa_id="331", user_id=None, message=echo)
    assert conversation.last_inbound_at is None
    await scene.store.set_bot(conversation.id, enabled=True)
    again = await scene.store.record_echo(scene.account.id, wa_id="331", user_id=None, message=echo)
    assert again.bot_enabled
    assert len(await all_messages(scene.store, conversation.id)) == 1


async def test_an_echo_of_an_unknown_account_is_refused(store: SqlStore) -> None:
    with pytest.raises(NotFound):
        await store.record_echo(NOBODY, wa_id="331", user_id=None, message=message())


# -- listings ----------------------------------------------------------------------------------------------------------


async def test_conversations_are_listed_by_last_activity(scene: Scene) -> None:
    """Activity is when we learned of it: a message that WhatsApp delivers days late is news all the same."""
    now = datetime.now(UTC)
    ids = [(await scene.receive(message(at=now - timedelta(hours=n)), wa_id=f"33{n}")).id for n in range(5)]
    await scene.receive(message(at=now - timedelta(days=3)), wa_id="331")
    expected = [ids[1], ids[4], ids[3], ids[2], ids[0]]

    listed: list[str] = []
    cursor = None
    for size in (2, 2, 1):
        page = await scene.store.list_conversations(scene.account.id, limit=2, cursor=cursor)
        assert len(page.items) == size
        listed += [conversation.id for conversation in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert listed == expected


async def test_a_conversation_shows_how_it_ends(scene: Scene) -> None:
    found = await scene.receive(message("x" * 300), wa_id="331")
    await scene.receive(message(None, kind="reaction"), wa_id="331")
    (listed,) = (await scene.store.list_conversations(scene.account.id, limit=2, cursor=None)).items
    single = await scene.store.get_conversation(found.id)
    expected = LastMessage(Author.CUSTOMER, "text", "x" * 200, Status.RECEIVED)
    assert single is not None
    assert [listed.last_message, single.last_message] == [expected, expected]


async def test_pages_hold_when_activity_is_simultaneous(scene: Scene, sql: asyncpg.Connection) -> None:
    ids = {(await scene.receive(wa_id=f"33{n}")).id for n in range(5)}
    await sql.execute("update conversations set last_message_at = now() where account_id = $1", scene.account.id)
    listed: list[str] = []
    cursor = None
    while len(listed) < 5:
        page = await scene.store.list_conversations(scene.account.id, limit=2, cursor=cursor)
        listed += [conversation.id for conversation in page.items]
        cursor = page.next_cursor
    assert len(listed) == 5
    assert set(listed) == ids


async def test_messages_are_listed_newest_first_in_the_order_they_came(scene: Scene) -> None:
    second = datetime.now(UTC).replace(microsecond=0)
    conversation = await scene.receive(*(message(str(n), at=second) for n in range(4)))
    await scene.receive(message("late", at=second - timedelta(days=1)))
    assert await all_messages(scene.store, conversation.id) == ["late", "3", "2", "1", "0"]


async def test_a_new_message_between_two_pages_moves_nothing(scene: Scene) -> None:
    conversation = await scene.receive(*(message(str(n)) for n in range(4)))
    first = await scene.store.list_messages(conversation.id, limit=2, cursor=None)
    await scene.receive(message("new"))
    rest = await scene.store.list_messages(conversation.id, limit=2, cursor=first.next_cursor)
    assert [m.text for m in (*first.items, *rest.items)] == ["3", "2", "1", "0"]
    assert rest.next_cursor is None


PLACE = "1764212345678901.00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    "cursor",
    ["", "garbage", "é", "-1", "1.5", "MQ==", "1\n", "\u0661", "9" * 19, f"9{PLACE[16:]}9", f"99{PLACE}", f"{PLACE}\n",
     PLACE.upper() + "A", f"-{PLACE}", "9" * 5000],
)  # fmt: skip
async def test_a_made_up_cursor_is_refused(scene: Scene, cursor: str) -> None:
    for listing in (
        scene.store.list_conversations(scene.account.id, limit=10, cursor=cursor),
        scene.store.list_messages(NOBODY, limit=10, cursor=cursor),
    ):
        with pytest.raises(InvalidInput) as caught:
            await listing
        assert caught.value.field == "cursor"


@pytest.mark.parametrize("micros", ["0", "9" * 17])
async def test_a_cursor_of_the_right_form_is_a_place_however_far_away(scene: Scene, micros: str) -> None:
    conversation = await scene.receive(message("a"))
    far = await scene.store.list_conversations(scene.account.id, limit=10, cursor=micros + PLACE[16:])
    assert [item.id for item in far.items] == ([] if micros == "0" else [conversation.id])
    page = await scene.store.list_messages(conversation.id, limit=10, cursor="9" * 18)
    assert [item.text for item in page.items] == ["a"]


async def test_what_does_not_exist_lists_nothing(store: SqlStore) -> None:
    assert (await store.list_conversations(NOBODY, limit=10, cursor=None)).items == ()
    assert (await store.list_messages("no uuid", limit=10, cursor=None)).items == ()
    assert await store.history(NOBODY, limit=10, exclude=()) == ()
    assert await store.get_conversation("no uuid") is None


# -- history -----------------------------------------------------------------------------------------------------------


async def test_history_is_text_oldest_first_and_nothing_unsent(scene: Scene) -> None:
    store = scene.store
    asked = message("question")
    conversation = await scene.receive(asked, message(None, kind="image"), message(""))
    for key, outcome in (("sent", "complete"), ("refused", "fail"), ("unknown", "nothing"), ("later", "postpone")):
        reply = await store.open_reply(
            conversation.id, key=unique(key), author=Author.BOT, covers=[], fence=1, body=key
        )
        await store.begin_part(reply.key, fence=1, part=0, parts=1, text=key)
        if outcome == "complete":
            await store.complete_part(reply.key, part=0, wamid=unique("wamid"), last=True)
        elif outcome in ("fail", "postpone"):
            await store.fail_part(reply.key, fence=1, part=0, error={"code": 1}, final=outcome == "fail")
    await store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=message("by hand"))
    newest = message("next question")
    await scene.receive(newest)

    turns = (Turn("user", "question"), Turn("model", "sent"), Turn("model", "by hand"), Turn("user", "next question"))
    assert await store.history(conversation.id, limit=10, exclude=()) == turns
    assert await store.history(conversation.id, limit=2, exclude=()) == turns[2:]
    assert await store.history(conversation.id, limit=2, exclude=[newest.wa_message_id]) == turns[1:3]


# -- switches ----------------------------------------------------------------------------------------------------------


async def test_the_bot_is_switched_and_enabling_clears_the_call_for_help(scene: Scene) -> None:
    conversation = await scene.receive()
    await scene.store.set_needs_human(conversation.id, HandoverReason.UNREADABLE)
    await scene.store.set_needs_human(conversation.id, HandoverReason.SEND_FAILED)
    off = await scene.store.set_bot(conversation.id, enabled=False)
    assert (off.bot_enabled, off.needs_human, off.needs_human_reason) == (False, True, "unreadable")
    assert off.needs_human_since is not None
    on = await scene.store.set_bot(conversation.id, enabled=True)
    assert (on.bot_enabled, on.needs_human, on.needs_human_reason, on.needs_human_since) == (True, False, None, None)
    assert await scene.store.get_conversation(conversation.id) == on


async def test_reading_sets_unread_to_zero(scene: Scene) -> None:
    conversation = await scene.receive(message(), message())
    assert (await scene.store.mark_read(conversation.id)).unread_count == 0


async def test_switches_of_no_conversation(store: SqlStore) -> None:
    await store.set_needs_human(NOBODY, HandoverReason.UNREADABLE)
    for call in (store.set_bot(NOBODY, enabled=True), store.mark_read("no uuid")):
        with pytest.raises(NotFound) as missing:
            await call
        assert missing.value.code == "conversation_not_found"
