"""A customer who asks for a person gets one: the flag, the bot's silence, the number that hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from app.core.errors import Unavailable
from app.demo.bakery import BAKERY
from app.domain.models import Conversation
from app.sandbox import webhooks as wa
from app.services.handover_notices import HandoverNotices
from tests.support.fakes import FakeClock
from tests.support.office import MakeOffice, Office

PROFILE = {"handover_keywords": ["human", "une personne"], "handover_pause_minutes": 30}
STAFF = wa.Person("33698000001", "Claire")


async def conversation_with(office: Office, person: wa.Person) -> Conversation:
    page = await office.store.list_conversations(office.account.id, limit=50, cursor=None)
    return next(found for found in page.items if found.contact.wa_id == person.wa_id)


async def say(office: Office, person: wa.Person, text: str) -> list[str]:
    """Everything that this customer has been sent so far."""
    await office.receive(person, wa.text(person, text))
    await office.until_idle()
    return [send["text"] for send in await office.sends(person)]


async def execute(office: Office, statement: str, *args: object) -> Any:
    assert office.settings.database_url is not None
    database = await asyncpg.connect(office.settings.database_url.get_secret_value())
    try:
        return await database.execute(statement, *args)
    finally:
        await database.close()


def notices(office: Office) -> HandoverNotices:
    return HandoverNotices(office.store, office.accounts, office.outside.messenger, office.outside.pacer)


async def test_a_keyword_calls_a_person_without_the_model_and_the_bot_is_silent_until_the_pause_ends(
    make_office: MakeOffice,
) -> None:
    office = await make_office(profile=PROFILE)
    person = office.person()
    office.breaker.force_open(who="test", why="the model is away")
    assert await say(office, person, "I want a HUMAN, please") == [BAKERY["fallback_text"]]
    assert await office.control.record(kind="generate") == []
    found = await conversation_with(office, person)
    assert (found.needs_human, found.needs_human_reason, found.bot_enabled) == (True, "customer_asked", True)
    office.breaker.reset()
    assert len(await say(office, person, "Do you have vegan pastries?")) == 1, "silent"
    assert (await conversation_with(office, person)).unread_count == 2

    await execute(office, "update conversations set bot_paused_until = now()")
    _, answer = await say(office, person, "Hello? Vegan pastries?")
    assert "apple turnover" in answer
    assert (await conversation_with(office, person)).needs_human, "no person has come"


ASKED = {
    "Can I talk to a human?": "A colleague has been told",
    "Je voudrais parler à un humain": "Un collègue est prévenu",
    "¿Puedo hablar con una persona?": "Un compañero está avisado",
    "Posso falar com um atendente?": "Um colega já foi avisado",
    "هل يمكنني التحدث إلى موظف؟": "تم إبلاغ أحد الزملاء",
}
PROMISES = (
    "I cannot do that, but a colleague will call you.", "Notre équipe vous recontactera.",
    "Alguien de nuestro equipo le responderá.", "Um colega vai ligar para você.", "سيتصل بك أحد زملائنا.",
)  # fmt: skip


async def test_the_model_calls_a_person_in_the_customers_language_at_the_price_of_one_call(
    make_office: MakeOffice,
) -> None:
    office = await make_office()
    for number, (words, told) in enumerate(ASKED.items(), 1):
        person = office.person()
        (answer,) = await say(office, person, words)
        assert told in answer
        found = await conversation_with(office, person)
        assert (found.needs_human_reason, found.bot_paused_until is None) == ("customer_asked", False)
        assert len(await say(office, person, "Do you have vegan pastries?")) == 1, "silent"
        assert len(await office.control.record(kind="generate")) == number


async def test_a_promise_without_the_call_calls_a_person_too(make_office: MakeOffice) -> None:
    office = await make_office()
    for promise in PROMISES:
        person = office.person()
        await office.control.add_fault("gemini", gemini="reply", text=promise, count=1)
        assert await say(office, person, "My cake is broken!") == [promise]
        found = await conversation_with(office, person)
        assert (found.needs_human_reason, found.bot_paused_until is None) == ("promised", False)


async def test_an_offer_calls_no_person(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini="reply", text="Would you like a colleague to call you?", count=1)
    await say(office, person, "My cake is broken!")
    assert not (await conversation_with(office, person)).needs_human
    assert len(await say(office, person, "Do you have vegan pastries?")) == 2


async def test_a_text_of_the_profile_that_promises_a_person_calls_one(make_office: MakeOffice) -> None:
    office = await make_office(
        profile={"non_text_reply": "A colleague will hear it and answer you.", "media_understanding": False}
    )
    person = office.person()
    await office.receive(person, wa.message(person, "audio", {"id": "1", "mime_type": "audio/ogg"}))
    await office.until_idle()
    assert (await conversation_with(office, person)).needs_human_reason == "promised"


async def test_a_call_without_words_is_told_in_the_words_of_the_profile(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini="function_call")
    assert await say(office, person, "My cake is broken!") == [BAKERY["fallback_text"]]
    assert (await conversation_with(office, person)).needs_human_reason == "needs_person"
    assert len(await office.control.record(kind="generate")) == 1


async def test_the_model_hears_when_a_person_is_there(make_office: MakeOffice) -> None:
    closed = {"business_hours": {"time_zone": "UTC", "weekly": {}}, "outside_hours_text": "We are back on Tuesday."}
    office = await make_office(profile=closed)
    await say(office, office.person(), "Do you have vegan pastries?")
    (asked,) = await office.control.record(kind="generate")
    (system,) = asked["body"]["systemInstruction"]["parts"]
    assert "no person is there" in system["text"]
    assert "is told, in their language: We are back on Tuesday." in system["text"]


async def test_a_person_who_gives_the_conversation_back_ends_the_pause(make_office: MakeOffice) -> None:
    office = await make_office(profile=PROFILE)
    person = office.person()
    await say(office, person, "une personne svp")
    found = await conversation_with(office, person)
    await office.store.set_bot(found.id, enabled=True)
    assert "apple turnover" in (await say(office, person, "Do you have vegan pastries?"))[-1]
    found = await conversation_with(office, person)
    assert (found.needs_human, found.bot_paused_until) == (False, None)


async def test_a_profile_that_says_so_lets_the_bot_go_on(make_office: MakeOffice) -> None:
    office = await make_office(profile=PROFILE | {"on_handover": "continue"})
    person = office.person()
    await say(office, person, "human")
    assert "apple turnover" in (await say(office, person, "Do you have vegan pastries?"))[-1]
    assert (await conversation_with(office, person)).needs_human


async def test_the_reply_that_calls_a_person_is_still_sent_after_an_attempt_that_failed(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office(profile=PROFILE)
    person, messenger = office.person(), office.outside.messenger
    send, trouble = messenger.send_text, [Unavailable("whatsapp", "away", retry_after=0.05)]

    async def send_in_the_end(*args: Any, **more: Any) -> str:
        if trouble:
            raise trouble.pop()
        return await send(*args, **more)

    monkeypatch.setattr(messenger, "send_text", send_in_the_end)
    assert await say(office, person, "human") == [BAKERY["fallback_text"]]
    assert not trouble
    assert len(await say(office, person, "Do you have vegan pastries?")) == 1, "silent"


async def test_outside_business_hours_the_text_for_them_is_sent(make_office: MakeOffice) -> None:
    closed = {"business_hours": {"time_zone": "UTC", "weekly": {}}, "outside_hours_text": "We are back on Tuesday."}
    office = await make_office(profile=PROFILE | closed, reply_deadline_seconds=0.2)
    asks, waits = office.person(), office.person()
    assert await say(office, asks, "human") == ["We are back on Tuesday."]
    await office.control.add_fault("gemini", gemini="permission_denied")
    assert await say(office, waits, "Do you have bread?") == ["We are back on Tuesday."]


async def test_the_number_of_the_profile_hears_of_it_once(make_office: MakeOffice) -> None:
    office = await make_office(profile=PROFILE | {"handover_notify_number": STAFF.wa_id})
    person = office.person()
    await say(office, STAFF, "Good morning")
    await say(office, person, "human")
    await notices(office).send()
    await notices(office).send()
    told = [send["text"] for send in await office.sends(STAFF)][1:]
    assert told == [f"Amina (+{person.wa_id}) is waiting for a person: asked for one."]
    assert (await conversation_with(office, person)).handover_notice == "sent"


async def test_calls_of_the_same_moment_come_in_one_text_and_no_faster_than_whatsapp_allows(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office(profile=PROFILE | {"handover_notify_number": STAFF.wa_id})
    await say(office, STAFF, "Good morning")
    people = [office.person(), office.person()]
    for person in people:
        await say(office, person, "human")

    async def too_soon(number: str, to: str) -> float:
        return 5.0

    with monkeypatch.context() as patched:
        patched.setattr(office.outside.pacer, "ask", too_soon)
        await notices(office).send()
    assert len(await office.sends(STAFF)) == 1, "the answer to its own message"
    await execute(office, "update handover_notices set due_at = now()")
    await notices(office).send()
    told = (await office.sends(STAFF))[1:]
    assert [sorted(send["text"].splitlines()) for send in told] == [
        sorted(f"Amina (+{person.wa_id}) is waiting for a person: asked for one." for person in people)
    ]
    assert {(await conversation_with(office, person)).handover_notice for person in people} == {"sent"}


async def test_a_number_whose_window_is_closed_is_not_written_to_and_that_is_told(
    make_office: MakeOffice, caplog: pytest.LogCaptureFixture
) -> None:
    office = await make_office(profile=PROFILE | {"handover_notify_number": STAFF.wa_id})
    person = office.person()
    await say(office, person, "human")
    await notices(office).send()
    assert await office.sends(STAFF) == []
    assert (await conversation_with(office, person)).handover_notice == "window_closed"
    (line,) = [line for line in caplog.records if "the text to the profile's number" in line.getMessage()]
    assert (line.levelname, line.__dict__["outcome"]) == ("WARNING", "window_closed")


async def test_a_notice_is_put_off_before_it_would_be_cut_off_on_its_way(make_office: MakeOffice) -> None:
    office = await make_office(profile=PROFILE | {"handover_notify_number": STAFF.wa_id})
    await say(office, STAFF, "Good morning")
    person, clock = office.person(), FakeClock()
    await say(office, person, "human")

    class Unreachable:
        async def send_text(self, *_: object, ensure_held: Callable[[], None], **__: object) -> str:
            while clock.seconds < 1010:  # the caretaker's ten seconds
                ensure_held()
                clock.advance(3)  # a connection that is not opened: certainly not sent, and tried again
            raise AssertionError

    slow: Any = Unreachable()
    await HandoverNotices(office.store, office.accounts, slow, office.outside.pacer, clock=clock).send()
    await execute(office, "update handover_notices set due_at = now()")
    await notices(office).send()
    assert (await conversation_with(office, person)).handover_notice == "sent"


async def test_a_notice_that_whatsapp_does_not_take_now_is_sent_later_and_one_it_refuses_is_not(
    make_office: MakeOffice,
) -> None:
    office = await make_office(profile=PROFILE | {"handover_notify_number": STAFF.wa_id})
    await say(office, STAFF, "Good morning")
    first, second = office.person(), office.person()
    fault = await office.control.add_fault("whatsapp", match={"recipient": STAFF.wa_id}, error="130429")
    await say(office, first, "human")
    await notices(office).send()
    assert (await conversation_with(office, first)).handover_notice is None
    await office.control.remove_fault(fault)
    await execute(office, "update handover_notices set due_at = now()")
    await notices(office).send()
    assert (await conversation_with(office, first)).handover_notice == "sent"

    await office.control.add_fault("whatsapp", match={"recipient": STAFF.wa_id}, error="131026")
    await say(office, second, "human")
    await notices(office).send()
    assert (await conversation_with(office, second)).handover_notice == "failed"
