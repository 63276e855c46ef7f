"""Whose a message is, from webhook to answer: changed ids, groups, edits, one message id in two accounts."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.api.schemas import MessagePage
from app.demo.bakery import BAKERY
from app.domain.errors import Conflict
from app.domain.models import Conversation, ReplyState, User
from app.domain.webhook import to_inbound
from app.sandbox import webhooks as wa
from app.services.inbox_worker import _Hold
from app.services.ingest_service import decode
from tests.support.office import MakeOffice, Office

OPERATOR = User("operator", is_operator=True)
VEGAN, WHERE = "Do you have vegan pastries?", "Where are you?"
TURNOVER, STREET = "apple turnover", "Tables Claudiennes"


async def conversations(office: Office) -> list[Conversation]:
    return list((await office.store.list_conversations(office.account.id, limit=50, cursor=None)).items)


async def deliver(office: Office, *messages: dict[str, Any]) -> None:
    """Without contact cards, as system messages come."""
    await office.ingest.accept(wa.envelope(wa.messages_change(office.business, messages)))


async def say(office: Office, person: wa.Person, text: str, count: int = 1, **more: Any) -> str:
    """Returns the text of the latest of `count` answers so far."""
    await office.receive(person, wa.text(person, text, **more))
    sends = await office.control.wait(count, kind="send", to=person.wa_id or person.user_id)
    await office.until_idle()
    return str(sends[-1]["text"])


async def prompts(office: Office) -> str:
    return str(await office.control.record(kind="generate"))


# -- changed ids --


async def test_after_a_new_number_the_answers_go_there_in_the_same_conversation(make_office: MakeOffice) -> None:
    office = await make_office()
    old, new = office.person("Mira"), office.person("Mira")
    await say(office, old, VEGAN)
    await deliver(office, wa.number_changed(old, str(new.wa_id)))
    assert STREET in await say(office, new, WHERE)
    (only,) = await conversations(office)
    assert (only.contact.wa_id, len(await office.sends(old))) == (new.wa_id, 1)
    assert VEGAN in (await prompts(office)).rpartition(WHERE)[0], "the model knows what was said before"


@pytest.mark.parametrize("system_first", [True, False])
async def test_a_take_over_stays_through_a_change_of_number(make_office: MakeOffice, *, system_first: bool) -> None:
    office = await make_office()
    old, new = office.person("Mira"), office.person("Mira")
    await say(office, old, VEGAN)
    (before,) = await conversations(office)
    await office.conversations.set_bot(OPERATOR, before.id, enabled=False)
    if not system_first:
        await say(office, new, WHERE)
    await deliver(office, wa.number_changed(old, str(new.wa_id)))
    await office.until_idle()
    await office.receive(new, wa.text(new, "Hello?"))
    await office.until_idle()
    (only,) = await conversations(office)
    assert (only.id, only.bot_enabled, only.contact.wa_id) == (before.id, False, new.wa_id)
    assert len(await office.sends(new)) == (0 if system_first else 1)
    assert (await office.queue.stats()).dead == 0


async def test_a_new_user_id_keeps_the_conversation_and_gets_the_answers(make_office: MakeOffice) -> None:
    office = await make_office()
    old = wa.Person(None, "Noor", "NL.9")
    new = replace(old, user_id="NL.10")
    await say(office, old, VEGAN)
    await deliver(office, wa.user_id_changed(old, "NL.10"))
    await say(office, new, WHERE)
    (only,) = await conversations(office)
    assert only.contact.user_id == "NL.10"
    assert (await office.queue.stats()).dead == 0


async def test_an_answer_that_waits_for_the_model_follows_the_customer_to_the_new_number(
    make_office: MakeOffice,
) -> None:
    """The report does not wait behind the messages of the old number."""
    office = await make_office()
    old, new = office.person("Mira"), office.person("Mira")
    rule = await office.control.add_fault("gemini", gemini="unavailable")
    await office.receive(old, wa.text(old, VEGAN))
    await office.control.wait(1, kind="generate")
    await deliver(office, wa.number_changed(old, str(new.wa_id), at=time.time() + 2))

    async def moved() -> bool:
        return [c.contact.wa_id for c in await conversations(office)] == [new.wa_id]

    await office.until(moved)
    await office.control.remove_fault(rule)
    (send,) = await office.control.wait(1, kind="send", to=new.wa_id, timeout_seconds=20)
    assert TURNOVER in send["text"]
    await office.until_idle()
    assert await office.sends(old) == []


async def test_the_next_owner_of_a_number_gets_a_conversation_of_their_own(make_office: MakeOffice) -> None:
    office = await make_office()
    old, new = office.person("Mira"), office.person("Mira")
    await say(office, old, "My door code is 4711")
    note = wa.number_changed(old, str(new.wa_id))
    await deliver(office, note)
    await office.until_idle()
    await say(office, replace(old, name="Igor"), WHERE, count=2)
    assert "4711" not in str((await office.control.record(kind="generate"))[-1])
    assert {c.contact.wa_id: c.contact.name for c in await conversations(office)} == {
        new.wa_id: "Mira", old.wa_id: "Igor"}  # fmt: skip


async def test_two_mailboxes_of_one_conversation_answer_each_message_once(make_office: MakeOffice) -> None:
    """By number and by user id: the mailboxes have two names, and two workers may hold them at the same moment."""
    office = await make_office()
    both = replace(office.person("Rosa"), user_id="MX.77")
    await say(office, both, "Hello")
    by_number, by_user = replace(both, user_id=None), replace(both, wa_id=None)
    rule = await office.control.add_fault("gemini", action="hang_before", count=2)
    await office.receive(by_number, wa.text(by_number, VEGAN))
    await office.receive(by_user, wa.text(by_user, WHERE))
    await office.control.wait(3, kind="generate")
    await office.control.remove_fault(rule)
    await office.control.wait(3, kind="send")
    await office.until_idle()
    assert len(await office.control.record(kind="send")) == 3
    (only,) = await conversations(office)
    assert only.unread_count == 3


async def test_a_persons_answer_accepted_before_a_merge_is_sent_after_it(make_office: MakeOffice) -> None:
    office = await make_office()
    old, new = office.person("Mira"), office.person("Mira")
    await say(office, old, VEGAN)
    await say(office, new, WHERE)
    (early,) = [c for c in await conversations(office) if c.contact.wa_id == new.wa_id]
    office.worker.loop.stop_claiming()
    await office.conversations.reply_as_human(OPERATOR, early.id, "Claire here", idempotency_key=None)
    (claim,) = await office.queue.claim(1)
    note = wa.number_changed(old, str(new.wa_id))
    await office.store.record_inbound(
        office.account.id, wa_id=old.wa_id, user_id=None, name=None, messages=[to_inbound(note, datetime.now(UTC))]
    )
    outcome = await office.conversations.send_human(decode(claim.events[0]), _Hold(office.queue, claim, set()))
    assert outcome.state is ReplyState.SENT
    assert (await office.sends(new))[-1]["text"] == "Claire here"


async def test_a_card_with_another_form_of_the_number_is_the_senders(make_office: MakeOffice) -> None:
    office = await make_office()
    sender = wa.Person("5215512345678", "Rosa", None)
    _, change = wa.messages_change(
        office.business, [wa.text(sender, VEGAN)], [wa.Person("525512345678", "Rosa", "MX.77")]
    )
    await office.ingest.accept({"entry": [{"id": "W", "changes": [change]}]})
    await office.control.wait(1, kind="send", to=sender.wa_id)
    for again in (wa.Person("525512345678"), wa.Person(None, None, "MX.77"), sender):
        await deliver(office, wa.text(again, "Hello"))
    await office.until_idle()
    (only,) = await conversations(office)
    assert (only.contact.name, only.contact.user_id, only.unread_count) == ("Rosa", "MX.77", 4)


# -- groups --


async def test_a_group_is_read_apart_and_never_answered(make_office: MakeOffice) -> None:
    office = await make_office()
    mira = office.person("Mira")
    secret = wa.text(mira, "team: our margin on the oak desk is 40 percent", group_id="Y2FwaV9ncm91cDox")
    await office.receive(mira, secret)
    await office.until_idle()
    assert await office.control.record(kind="send") == []
    await say(office, mira, WHERE)
    assert "margin" not in await prompts(office)
    (private,) = [c for c in await conversations(office) if c.contact.group_id is None]
    (group,) = [c for c in await conversations(office) if c.contact.group_id]
    assert (private.unread_count, private.needs_human, group.unread_count) == (1, False, 1)
    with pytest.raises(Conflict) as refused:
        await office.conversations.reply_as_human(OPERATOR, group.id, "hi", idempotency_key=None)
    assert refused.value.code == "group_read_only"
    with pytest.raises(Conflict):
        await office.conversations.set_bot(OPERATOR, group.id, enabled=True)


async def test_an_echo_in_a_group_leaves_the_bot_on_in_private(make_office: MakeOffice) -> None:
    office = await make_office()
    mira = office.person("Mira")
    await say(office, mira, VEGAN)
    echo = wa.echo(office.business, str(mira.wa_id), "hello all", group_id="Y2FwaV9ncm91cDox")
    await office.ingest.accept(wa.envelope(wa.echoes_change(office.business, [echo])))
    await office.until_idle()
    assert STREET in await say(office, mira, WHERE, count=2)


# -- one message id in two accounts --


async def test_a_message_id_that_two_accounts_get_is_answered_by_both(make_office: MakeOffice) -> None:
    office = await make_office(statuses=True)
    person = office.person()
    same = wa.text(person, VEGAN)
    second = await office.store.create_account(
        name="Second", slug="second", phone_number_id="800099", access_token=office.account.access_token,
        verify_token="verify-2",
    )  # fmt: skip
    await office.store.update_profile(second.id, BAKERY)
    for account in (office.account, second):
        office.account = account
        await office.receive(person, same)
    sends = await office.control.wait(2, kind="send", to=person.wa_id)
    await office.until_idle()
    assert len({send["phone_number_id"] for send in sends}) == 2


# -- edits --


async def test_a_message_edited_while_its_answer_is_made_is_answered_as_edited_once(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    original = wa.text(person, VEGAN)
    await office.receive(person, original)
    await office.control.wait(1, kind="generate")
    await office.receive(person, wa.edit(person, original["id"], WHERE))
    await office.control.remove_fault(rule)
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    assert STREET in send["text"]
    assert TURNOVER not in send["text"]
    assert len(await office.sends(person)) == 1


async def test_an_answer_that_waits_to_be_sent_is_made_again_for_the_edited_words(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("whatsapp", match={"operation": "send"}, error="131056", count=1)
    original = wa.text(person, VEGAN)
    await office.receive(person, original)
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.receive(person, wa.edit(person, original["id"], WHERE))
    await office.control.remove_fault(rule)
    sends = await office.control.wait(2, kind="send", to=person.wa_id, timeout_seconds=20)
    await office.until_idle()
    assert STREET in sends[-1]["text"]
    assert TURNOVER not in sends[-1]["text"]
    assert len(await office.sends(person)) == 2, "the one that was refused, and the one that was sent"


async def test_an_edit_after_the_answer_is_answered_if_it_says_something_else(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    original = wa.text(person, VEGAN)
    await office.receive(person, original)
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.receive(person, wa.edit(person, original["id"], "do you have vegan  pastries"))
    await office.until_idle()
    assert len(await office.sends(person)) == 1, "only case, spaces and punctuation changed"
    await office.receive(person, wa.edit(person, original["id"], WHERE))
    sends = await office.control.wait(2, kind="send", to=person.wa_id)
    await office.until_idle()
    assert STREET in sends[-1]["text"]
    (only,) = await conversations(office)
    assert only.unread_count == 1
    page = await office.store.list_messages(only.id, limit=10, cursor=None)
    (found,) = [item for item in page.items if item.wa_message_id == original["id"]]
    assert (found.text, [entry["text"] for entry in found.edits]) == (WHERE, [VEGAN, "do you have vegan  pastries"])


async def test_an_edit_of_an_unknown_message_is_answered_and_its_original_is_not(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    original = wa.text(person, VEGAN)
    await office.receive(person, wa.edit(person, original["id"], WHERE))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    assert STREET in send["text"]
    await office.receive(person, original)
    await office.until_idle()
    assert len(await office.sends(person)) == 1


async def test_an_edited_message_is_shown_as_such_over_http(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    original = wa.text(person, VEGAN)
    await office.receive(person, original, wa.edit(person, original["id"], WHERE))
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    (only,) = await conversations(office)
    page = await office.conversations.messages(OPERATOR, only.id, limit=10, cursor=None)
    shown = MessagePage.model_validate(page).items[-1]
    assert (shown.text, shown.edits[0]["text"]) == (WHERE, VEGAN)
    assert shown.edited_at is not None
