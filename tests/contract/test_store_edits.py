"""Messages that their author changed, on every store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.models import Author, Edit, Inbound, InboundMessage, Message
from tests.support.store_kit import Scene, message

NOW = datetime.now(UTC).replace(microsecond=0)


def edit(original: InboundMessage | str, text: str, *, at: datetime = NOW) -> InboundMessage:
    original_id = original if isinstance(original, str) else original.wa_message_id
    made = message(text, kind="edit", at=at)
    node = {"original_message_id": original_id, "message": {"type": "text", "text": {"body": text}}}
    return replace(made, payload={**made.payload, "edit": node})


async def record(scene: Scene, *messages: InboundMessage, wa_id: str = "336") -> Inbound:
    return await scene.store.record_inbound(scene.account.id, wa_id=wa_id, user_id=None, name=None, messages=messages)


async def stored(scene: Scene, inbound: Inbound) -> list[Message]:
    return list((await scene.store.list_messages(inbound.conversation.id, limit=50, cursor=None)).items)


def replaced(found: Message) -> list[Any]:
    return [entry["text"] for entry in found.edits]


async def test_an_edit_replaces_the_words_and_keeps_the_earlier_ones(scene: Scene) -> None:
    original = message("three lamps", at=NOW - timedelta(minutes=2))
    await record(scene, original)
    changed = edit(original, "two lamps, not three")
    inbound = await record(scene, changed)
    assert inbound.new_ids == frozenset()
    assert inbound.edits == (Edit(changed.wa_message_id, original.wa_message_id, "three lamps"),)
    assert (inbound.conversation.unread_count, inbound.conversation.last_inbound_at) == (1, NOW)
    (found,) = await stored(scene, inbound)
    assert (found.wa_message_id, found.type, found.text) == (original.wa_message_id, "text", "two lamps, not three")
    assert (found.edited_at, replaced(found), found.timestamp) == (NOW, ["three lamps"], original.timestamp)
    history = await scene.store.history(inbound.conversation.id, limit=10, exclude=())
    assert [turn.text for turn in history] == ["two lamps, not three"]


async def test_an_edit_delivered_again_says_the_same_and_changes_nothing(scene: Scene) -> None:
    original = message("three lamps")
    await record(scene, original)
    changed = edit(original, "two lamps")
    first = await record(scene, changed)
    after = await stored(scene, first)
    await scene.store.mark_read(first.conversation.id)
    again = await record(scene, changed)
    assert again.edits == first.edits
    assert again.conversation.unread_count == 0
    assert await stored(scene, again) == after


async def test_a_message_and_its_edit_in_one_run(scene: Scene) -> None:
    original = message("three lamps")
    changed = edit(original, "two lamps")
    inbound = await record(scene, original, changed)
    assert inbound.new_ids == {original.wa_message_id}
    assert inbound.edited == {original.wa_message_id: "two lamps"}
    assert inbound.conversation.unread_count == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later one first"])
async def test_of_two_edits_the_later_one_counts(scene: Scene, order: tuple[int, int]) -> None:
    original = message("three lamps")
    both = edit(original, "two lamps"), edit(original, "one lamp", at=NOW + timedelta(seconds=9))
    await record(scene, original)
    for index in order:
        inbound = await record(scene, both[index])
    (found,) = await stored(scene, inbound)
    assert (found.text, found.edited_at) == ("one lamp", both[1].timestamp)
    assert set(replaced(found)) == {"three lamps", "two lamps"}


async def test_an_edit_of_an_unknown_message_is_a_text_message(scene: Scene) -> None:
    inbound = await record(scene, changed := edit("wamid.never-seen", "two lamps"))
    assert (inbound.new_ids, inbound.edits) == ({changed.wa_message_id}, ())
    assert inbound.conversation.unread_count == 1
    (found,) = await stored(scene, inbound)
    assert (found.type, found.text, found.edited_at) == ("text", "two lamps", None)
    again = await record(scene, changed)
    assert (again.new_ids, again.edits, again.conversation.unread_count) == (frozenset(), (), 1)


async def test_a_message_that_comes_after_its_edit_is_the_edited_one(scene: Scene) -> None:
    original = message("three lamps")
    first = await record(scene, edit(original, "two lamps"))
    for _ in range(2):
        inbound = await record(scene, original)
        assert (inbound.new_ids, inbound.superseded_ids) == (frozenset(), {original.wa_message_id})
        assert inbound.conversation.unread_count == first.conversation.unread_count
        (found,) = await stored(scene, inbound)
        assert (found.text, replaced(found), found.edited_at) == ("two lamps", ["three lamps"], NOW)
    inbound = await record(scene, edit(original, "one lamp", at=NOW + timedelta(seconds=5)))
    assert [item.text for item in await stored(scene, inbound)] == ["one lamp"]


async def test_nobody_edits_the_message_of_another_person(scene: Scene) -> None:
    original = message("three lamps")
    theirs = await record(scene, original)
    await record(scene, edit(original, "ha"), wa_id="337")
    assert [item.text for item in await stored(scene, theirs)] == ["three lamps"]


async def test_a_customer_does_not_edit_what_we_wrote(scene: Scene) -> None:
    await record(scene, message())
    echo = message("our price is 40")
    conversation = await scene.store.record_echo(scene.account.id, wa_id="336", user_id=None, message=echo)
    inbound = await record(scene, edit(echo, "our price is 0"))
    assert inbound.conversation.id == conversation.id
    texts = {item.wa_message_id: item.text for item in await stored(scene, inbound)}
    assert texts[echo.wa_message_id] == "our price is 40"


async def test_twenty_edits_are_remembered_with_the_first_words(scene: Scene) -> None:
    original = message("0")
    await record(scene, original)
    for n in range(1, 31):
        inbound = await record(scene, edit(original, str(n), at=NOW + timedelta(seconds=n - 31)))
    (found,) = await stored(scene, inbound)
    assert (found.text, len(found.edits), found.edits[0]["text"], found.edits[-1]["text"]) == ("30", 20, "0", "29")


async def test_an_edit_without_readable_words_leaves_the_old_ones(scene: Scene) -> None:
    original = message("three lamps")
    await record(scene, original)
    odd = replace(edit(original, "x"), text=None)
    odd = replace(odd, payload={**odd.payload, "edit": {"original_message_id": original.wa_message_id}})
    inbound = await record(scene, odd)
    (found,) = await stored(scene, inbound)
    assert (found.text, found.edited_at) == ("three lamps", NOW)


async def test_the_previous_version_says_no_text_and_the_edit_is_read_from_the_payload(scene: Scene) -> None:
    original = message("three lamps")
    await record(scene, original)
    inbound = await record(scene, replace(edit(original, "two lamps"), text=None))
    assert [item.text for item in await stored(scene, inbound)] == ["two lamps"]


async def test_a_person_edits_on_the_phone_what_they_wrote(scene: Scene) -> None:
    conversation = await scene.receive()
    echo = message("at nine")
    for change in (echo, edit(echo, "at ten"), edit(echo, "at ten")):
        await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=change)
    page = await scene.store.list_messages(conversation.id, limit=10, cursor=None)
    (found,) = [item for item in page.items if item.author is Author.HUMAN]
    assert (found.text, found.wa_message_id) == ("at ten", echo.wa_message_id)


async def test_an_edit_on_the_phone_silences_the_bot_once(scene: Scene) -> None:
    conversation = await scene.receive()
    echo = message("at nine")
    await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=echo)
    changed = edit(echo, "at ten")
    for expected in (False, True):
        await scene.store.set_bot(conversation.id, enabled=True)
        after = await scene.store.record_echo(scene.account.id, wa_id=scene.wa_id, user_id=None, message=changed)
        assert after.bot_enabled is expected
