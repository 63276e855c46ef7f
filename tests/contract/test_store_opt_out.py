"""Who wants no automatic answers, on every store."""

from __future__ import annotations

import uuid

import pytest

from app.domain.errors import NotFound
from app.domain.models import Author, Conversation
from app.domain.ports import SendDecision
from tests.support.store_kit import Scene, message


async def reread(scene: Scene, conversation: Conversation) -> Conversation:
    found = await scene.store.get_conversation(conversation.id)
    assert found is not None
    return found


async def test_opting_out_switches_the_bot_off_once_and_opting_in_on_again(scene: Scene) -> None:
    reply = await scene.reply()
    conversation = await scene.receive()
    await scene.store.opt_out(conversation.id)
    out = await reread(scene, conversation)
    assert out.opted_out_since is not None
    assert not out.bot_enabled
    decision = await scene.store.begin_part(reply.key, fence=1, part=0, parts=1, text="late")
    assert decision is SendDecision.SILENCED, "what was being made is not sent"
    await scene.store.opt_out(conversation.id)
    assert (await reread(scene, conversation)).opted_out_since == out.opted_out_since
    back = await scene.store.opt_in(conversation.id)
    assert (back.opted_out_since, back.bot_enabled) == (None, True)
    assert (await scene.store.opt_in(conversation.id)).bot_enabled, "a second time changes nothing"
    with pytest.raises(NotFound):
        await scene.store.opt_in(str(uuid.uuid4()))
    await scene.store.opt_out(str(uuid.uuid4()))


async def test_where_a_person_has_the_conversation_opting_in_leaves_it_to_them(scene: Scene) -> None:
    conversation = await scene.receive()
    await scene.store.set_bot(conversation.id, enabled=False)
    await scene.store.opt_out(conversation.id)
    back = await scene.store.opt_in(conversation.id)
    assert (back.opted_out_since, back.bot_enabled) == (None, False)


async def test_a_person_switches_the_bot_on_all_the_same(scene: Scene) -> None:
    conversation = await scene.receive()
    await scene.store.opt_out(conversation.id)
    switched = await scene.store.set_bot(conversation.id, enabled=True)
    assert (switched.opted_out_since, switched.bot_enabled) == (None, True)
    await scene.store.open_reply(conversation.id, key="k", author=Author.HUMAN, covers=(), fence=0, body="hi")
    assert not (await scene.store.opt_in(conversation.id)).bot_enabled, "there is nothing to take back"


@pytest.mark.parametrize("first", [0, 1])
async def test_who_opted_out_as_one_of_two_contacts_has_opted_out(scene: Scene, first: int) -> None:
    store, account_id = scene.store, scene.account.id
    by_number = await store.record_inbound(account_id, wa_id="331", user_id=None, name="Ada", messages=[message()])
    by_user = await store.record_inbound(account_id, wa_id=None, user_id="FR.1", name=None, messages=[message()])
    await store.opt_out((by_number, by_user)[first].conversation.id)
    merged = await store.record_inbound(account_id, wa_id="331", user_id="FR.1", name=None, messages=[])
    assert merged.conversation.opted_out_since is not None
    assert not merged.conversation.bot_enabled
    assert (await store.opt_in(merged.conversation.id)).bot_enabled
