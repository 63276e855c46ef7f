"""A customer who writes STOP gets no automatic answers until they write START or a person switches the bot on."""

from __future__ import annotations

from app.domain.models import Conversation
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office
from tests.support.store_kit import message

VEGAN = "Do you have vegan pastries?"


async def conversation_with(office: Office, person: wa.Person) -> Conversation:
    page = await office.store.list_conversations(office.account.id, limit=50, cursor=None)
    return next(found for found in page.items if found.contact.wa_id == person.wa_id)


async def say(office: Office, person: wa.Person, *texts: str) -> list[str]:
    """Everything that this customer has been sent so far."""
    for text in texts:
        await office.receive(person, wa.text(person, text))
    await office.until_idle()
    return [send["text"] for send in await office.sends(person)]


async def test_stop_is_confirmed_once_and_keeps_the_bot_silent_until_start(make_office: MakeOffice) -> None:
    office = await make_office()
    person = wa.Person("33600000777", "Ada")
    (confirmed,) = await say(office, person, "STOP")
    assert confirmed.startswith("Vous ne recevrez plus de réponses automatiques")
    found = await conversation_with(office, person)
    assert found.opted_out_since is not None
    assert (found.bot_enabled, found.needs_human) == (False, False)
    assert len(await say(office, person, VEGAN, "stop")) == 1, "neither an answer nor a second word"
    again = await conversation_with(office, person)
    assert again.opted_out_since == found.opted_out_since
    assert await office.control.record(kind="generate") == []

    assert len(await say(office, person, "START")) == 2
    back = await conversation_with(office, person)
    assert (back.opted_out_since, back.bot_enabled) == (None, True)
    assert "apple turnover" in (await say(office, person, VEGAN))[-1]


async def test_who_stopped_can_ask_for_a_person_all_the_same(make_office: MakeOffice) -> None:
    office = await make_office(profile={"handover_keywords": ["human"]})
    person = office.person()
    assert len(await say(office, person, "unsubscribe", "I want a human")) == 1
    found = await conversation_with(office, person)
    assert (found.needs_human, found.needs_human_reason) == (True, "customer_asked")


async def test_stop_and_start_are_confirmed_once_also_in_a_pause_and_where_a_person_answers(
    make_office: MakeOffice,
) -> None:
    office = await make_office(profile={"handover_keywords": ["human"], "handover_pause_minutes": 30})
    waiting, taken = office.person(), office.person()
    assert len(await say(office, waiting, "a human please")) == 1
    *_, stopped = said = await say(office, waiting, "STOP", "stop")
    assert (len(said), stopped.split(".")[0]) == (2, "Vous ne recevrez plus de réponses automatiques ici")
    found = await conversation_with(office, waiting)
    assert (found.opted_out_since is not None, found.bot_enabled) == (True, False)
    *_, started = said = await say(office, waiting, "START", "start")
    assert (len(said), started.split(" ici")[0]) == (3, "Vous pouvez à nouveau recevoir des réponses automatiques")
    assert len(await say(office, waiting, VEGAN)) == 3, "the pause goes on"

    await office.receive(taken, wa.text(taken, VEGAN))
    await office.until_idle()
    await office.store.record_echo(office.account.id, wa_id=taken.wa_id, user_id=None, message=message("Claire here"))
    sent = len(await office.sends(taken))
    assert len(await say(office, taken, "STOP", "STOP", VEGAN)) == sent + 1
    assert len(await say(office, taken, "START", VEGAN)) == sent + 2, "Claire has it"
    assert not (await conversation_with(office, taken)).bot_enabled


async def test_a_person_who_switches_the_bot_on_ends_it_and_one_who_answers_keeps_it_off(
    make_office: MakeOffice,
) -> None:
    office = await make_office(profile={"stop_words": ["genug"]})
    person = office.person()
    await say(office, person, "Genug!")
    stopped = await conversation_with(office, person)
    assert stopped.opted_out_since is not None
    switched = await office.store.set_bot(stopped.id, enabled=True)
    assert switched.opted_out_since is None
    assert len(await say(office, person, VEGAN)) == 2

    await say(office, person, "STOP")
    await office.store.record_echo(office.account.id, wa_id=person.wa_id, user_id=None, message=message("Claire here"))
    sent = len(await office.sends(person))
    assert len(await say(office, person, "START", VEGAN)) == sent + 1, "that it was heeded, and no answer"
    taken = await conversation_with(office, person)
    assert (taken.opted_out_since, taken.bot_enabled) == (None, False)


async def test_stop_while_an_answer_is_made_keeps_the_answer_back(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    fault = await office.control.add_fault("gemini", action="hang_before")
    await office.receive(person, wa.text(person, VEGAN))

    async def is_asked() -> bool:
        return bool((await office.control.get_fault(fault))["fired"])

    await office.until(is_asked)
    await office.receive(person, wa.text(person, "stop"))
    await office.control.remove_fault(fault)
    await office.until_idle()
    (only,) = [send["text"] for send in await office.sends(person)]
    assert "automati" in only
    assert (await conversation_with(office, person)).opted_out_since is not None


async def test_what_whatsapp_does_not_take_is_heeded_all_the_same(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("whatsapp", error="131026", count=50, match={"operation": "send"})
    await say(office, person, "STOP")
    await office.control.clear_faults()
    assert (await conversation_with(office, person)).opted_out_since is not None
