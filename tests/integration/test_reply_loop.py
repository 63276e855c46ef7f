"""A robot on the other side: after so many automatic replies a person is called, and the bot pauses there."""

from __future__ import annotations

import logging

import pytest

from app.domain.models import HandoverReason, User
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office


async def write(office: Office, person: wa.Person, times: int) -> None:
    """One message after the other, each answered before the next, as robots do."""
    for _ in range(times):
        await office.receive(person, wa.text(person, "Thank you for your message. Where are you?"))
        await office.until_idle()


async def test_after_so_many_replies_a_person_is_called_and_the_bot_pauses(
    make_office: MakeOffice, caplog: pytest.LogCaptureFixture
) -> None:
    office = await make_office(profile={"auto_reply_limit": 4, "auto_reply_minutes": 10})
    robot, customer = office.person("Robot"), office.person("Amina")
    await write(office, robot, 8)
    assert len(await office.sends(robot)) == 4
    assert "bot paused: too many replies" in caplog.text
    await write(office, customer, 1)
    assert len(await office.sends(customer)) == 1
    page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
    found = {conversation.contact.wa_id: conversation for conversation in page.items}
    paused, other = found[robot.wa_id], found[customer.wa_id]
    assert (paused.bot_enabled, paused.needs_human, paused.needs_human_reason) == (
        False,
        True,
        HandoverReason.REPLY_LOOP,
    )
    assert (other.bot_enabled, other.needs_human) == (True, False)


async def test_a_person_turns_the_bot_on_again(make_office: MakeOffice) -> None:
    office = await make_office(profile={"auto_reply_limit": 2, "auto_reply_minutes": 10})
    person = office.person()
    await write(office, person, 4)
    (conversation,) = (await office.store.list_conversations(office.account.id, limit=1, cursor=None)).items
    await office.conversations.set_bot(User("ada", is_operator=True), conversation.id, enabled=True)
    await write(office, person, 4)
    assert len(await office.sends(person)) == 4, "two more, then the bot pauses again"


async def test_the_loop_is_the_robots_and_the_model_is_not_asked_for_nothing(
    make_office: MakeOffice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    office = await make_office(profile={"auto_reply_limit": 1, "auto_reply_minutes": 10})
    await write(office, office.person(), 2)
    assert len(await office.control.record(kind="generate")) == 1
    outcomes = [r.fields["outcome"] for r in caplog.records if getattr(r, "fields", {}).get("kind") == "message"]
    assert outcomes == ["replied", "reply_loop"]


async def test_twenty_replies_in_ten_minutes_are_the_default(make_office: MakeOffice) -> None:
    office = await make_office()
    robot = office.person()
    await write(office, robot, 24)
    assert len(await office.sends(robot)) == 20
