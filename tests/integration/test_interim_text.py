"""A customer who waits for the model is told once, in time, and gets the answer or the fallback text all the same."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.core.circuit_breaker import whatsapp_account_breakers
from app.core.deadline import Deadline
from app.demo.bakery import BAKERY
from app.domain.models import BlockReason, BotProfile, Generation, Prompt
from app.sandbox import webhooks as wa
from app.services import inbox_worker
from app.services.interim import Interim, Wait
from tests.support.office import MakeOffice, Office
from tests.support.patience import Within

INTERIM, FALLBACK = BAKERY["interim_text"], BAKERY["fallback_text"]
QUESTION = "Do you have vegan pastries?"


async def ask(office: Office, person: wa.Person, text: str = QUESTION, **more: Any) -> float:
    """A moment before it was accepted (Unix seconds)."""
    at = time.time()
    await office.receive(person, wa.text(person, text, **more))
    return at


async def texts(office: Office, person: wa.Person) -> list[str]:
    return [send["text"] for send in await office.sends(person)]


async def until_sent(office: Office, person: wa.Person, count: int) -> dict[str, Any]:
    """The last one of so many sends."""
    return (await office.control.wait(count, kind="send", to=person.wa_id, timeout_seconds=20))[-1]


async def conversation_id(office: Office) -> str:
    page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
    return page.items[0].id


async def interim_replies(office: Office) -> list[tuple[str, str | None]]:
    """State and body."""
    assert office.settings.database_url is not None
    database = await asyncpg.connect(office.settings.database_url.get_secret_value())
    try:
        rows = await database.fetch("select state, body from replies where fallback = 'interim' order by created_at")
        return [(row["state"], row["body"]) for row in rows]
    finally:
        await database.close()


async def until_interim_is(office: Office, state: str) -> None:
    async def there() -> bool:
        return [found for found, _ in await interim_replies(office)] == [state]

    await office.until(there)


async def test_the_interim_text_comes_once_and_then_the_answer(make_office: MakeOffice, within: Within) -> None:
    office = await make_office(interim_seconds=0.5)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    at = await ask(office, person)
    told = await until_sent(office, person, 1)
    assert (told["text"], await office.control.record(kind="generate")) == (INTERIM, []), "nothing was asked for it"
    assert 0.5 <= told["at"] - at < within(2)
    await asyncio.sleep(1)  # time itself: several tries of a conversation that waits
    assert await texts(office, person) == [INTERIM]
    office.breaker.reset()
    await office.until_idle()
    _, answer = await texts(office, person)
    assert "apple turnover" in answer
    (asked,) = await office.control.record(kind="generate")
    assert INTERIM not in str(asked["body"]), "the model does not read it"


async def test_who_waits_in_vain_gets_the_interim_text_and_then_the_fallback_text(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.3, reply_deadline_seconds=1.5)
    person = office.person()
    await office.control.add_fault("gemini", gemini="unavailable")
    await ask(office, person)
    await office.until_idle(timeout_seconds=20)
    assert await texts(office, person) == [INTERIM, FALLBACK]


async def test_a_conversation_put_off_for_long_comes_back_in_time_and_asks_nothing(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch, within: Within
) -> None:
    # The time of the interim text is not spread, as that of a try after an outage is: that would be six seconds here.
    monkeypatch.setattr(inbox_worker, "random", SimpleNamespace(random=lambda: 20.0))
    office = await make_office(interim_seconds=1.5)
    person = office.person()
    await office.control.add_fault("gemini", gemini="quota_per_minute", retry_delay="50s")
    at = await ask(office, person)
    told = await until_sent(office, person, 1)
    assert told["text"] == INTERIM
    assert 1.5 <= told["at"] - at < within(2.5, below=6)
    assert len(await office.control.record(kind="generate")) == 1


async def test_a_model_that_hangs_is_waited_for_and_the_customer_is_told_meanwhile(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.5)
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await ask(office, person)
    assert (await until_sent(office, person, 1))["text"] == INTERIM
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert "apple turnover" in (await texts(office, person))[1]
    assert len(await office.control.record(kind="generate")) == 1, "the answer in the making was not given up"


async def test_an_account_switched_off_before_its_time_comes_tells_nothing(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office(interim_seconds=0.3)
    person, its_time_came = office.person(), asyncio.Event()
    try_to_tell = Interim._try_to_tell

    async def switched_off_before(self: Interim, wait: Wait) -> None:
        await office.accounts.update(office.account.id, {"is_active": False})
        await try_to_tell(self, wait)
        its_time_came.set()

    monkeypatch.setattr(Interim, "_try_to_tell", switched_off_before)
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await ask(office, person)
    async with asyncio.timeout(20):
        await its_time_came.wait()
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert await texts(office, person) == []


async def test_what_is_being_told_is_finished_before_the_answer_goes_out(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.3)
    person = office.person()
    model = await office.control.add_fault("gemini", action="hang_before", count=1)
    slow = await office.control.add_fault("whatsapp", match={"operation": "send"}, latency_ms=700, count=1)
    await ask(office, person)
    async with asyncio.timeout(10):
        while not (await office.control.get_fault(slow))["fired"]:
            await asyncio.sleep(0.01)
    await office.control.remove_fault(model)  # the answer is there before the interim text has gone out
    await office.until_idle()
    told, answer = await texts(office, person)
    assert (told, "apple turnover" in answer) == (INTERIM, True)


async def test_an_answer_in_time_costs_no_call_of_the_database(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: Counter[str] = Counter()
    call = SqlStore._call

    async def counted(self: SqlStore, operation: str, /, **p: Any) -> Any:
        called[operation] += 1
        return await call(self, operation, **p)

    monkeypatch.setattr(SqlStore, "_call", counted)
    office = await make_office(interim_seconds=30)
    called.clear()
    await ask(office, office.person())
    await office.until_idle()
    lookups = {"get_account_by_phone_number_id", "get_profile"}
    of_an_answer = {"record_inbound", "save_and_begin", "complete_part"}
    assert {name: count for name, count in called.items() if name not in lookups} == dict.fromkeys(of_an_answer, 1)


async def test_one_silence_has_one_interim_text_and_an_answer_ends_it(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.3, reply_deadline_seconds=1)
    person = office.person()
    fault = await office.control.add_fault("gemini", gemini="unavailable")
    for text in ("Hello?", "Anybody?"):
        await ask(office, person, text)
        await office.until_idle(timeout_seconds=20)
    assert await texts(office, person) == [INTERIM, FALLBACK]
    await office.control.remove_fault(fault)
    office.breaker.reset()
    bot = office.replica.bot
    assert bot is not None
    # On a busy machine this answer may take longer than the texts above wait.
    quick, delivery = bot._interim, bot._delivery
    bot._delivery = replace(delivery, reply_deadline_seconds=30)
    bot._interim = Interim(office.store, office.outside.messenger, bot._delivery, after_seconds=20)
    await ask(office, person)
    await office.until_idle()
    bot._interim, bot._delivery = quick, delivery
    await office.control.add_fault("gemini", gemini="unavailable")
    await ask(office, person, "And where are you?")
    await office.until_idle(timeout_seconds=20)
    assert (await texts(office, person))[3:] == [INTERIM, FALLBACK]


async def test_a_person_who_takes_over_in_the_wait_keeps_the_bot_silent(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=1.5)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    await ask(office, person)

    async def stored() -> bool:
        return bool((await office.store.list_conversations(office.account.id, limit=1, cursor=None)).items)

    await office.until(stored)
    await office.store.set_bot(await conversation_id(office), enabled=False)
    await office.until_idle()
    assert await texts(office, person) == []


async def test_a_person_who_takes_over_while_the_model_is_asked_keeps_the_bot_silent(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=1.5)
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await ask(office, person)
    await office.control.wait(1, kind="generate")
    await office.store.set_bot(await conversation_id(office), enabled=False)
    await until_interim_is(office, "silenced")
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert await texts(office, person) == []


async def test_nothing_is_told_once_whatsapps_window_is_closed(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=1.5)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    await ask(office, person, at=time.time() - 24 * 3600 + 1)
    await office.until_idle()
    assert await texts(office, person) == []


async def test_nothing_is_tried_for_a_blocked_account(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.3, reply_deadline_seconds=1)
    person = office.person()
    await office.store.account_refused(
        office.account.id, access_token=office.account.access_token, reason=BlockReason.TOKEN_INVALID, confirm=1
    )
    office.breaker.force_open(who="test", why="test")
    await ask(office, person)
    await office.until_idle(timeout_seconds=20)
    assert (INTERIM in await texts(office, person), await interim_replies(office)) == (False, [])


async def test_nothing_is_tried_while_the_accounts_circuit_is_open(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened while the model was asked; the text is sent when WhatsApp takes something again."""
    office = await make_office(interim_seconds=1.0)
    person = office.person()
    circuit = whatsapp_account_breakers.get(office.account.phone_number_id)
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await ask(office, person)
    await office.control.wait(1, kind="generate")
    monkeypatch.setattr(circuit, "blocked_seconds", lambda: 0.2)
    await asyncio.sleep(1.3)  # time itself: the text would have gone out by now
    assert (await texts(office, person), await interim_replies(office)) == ([], [])
    monkeypatch.undo()
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert "apple turnover" in (await texts(office, person))[0]


@pytest.mark.parametrize(
    ("settings", "profile"),
    [
        pytest.param({"interim_seconds": 0}, {}, id="switched off"),
        pytest.param({"interim_seconds": 0.2}, {"interim_text": " "}, id="blank text"),
        pytest.param({"interim_seconds": 30}, {}, id="the deadline is earlier"),
        pytest.param({"interim_seconds": 0.9}, {}, id="the deadline is hardly later"),
    ],
)
async def test_without_a_time_or_a_text_there_is_only_the_fallback_text(
    make_office: MakeOffice, settings: dict[str, Any], profile: dict[str, Any]
) -> None:
    office = await make_office(reply_deadline_seconds=1, profile=profile, **settings)
    person = office.person()
    await office.control.add_fault("gemini", gemini="unavailable")
    await ask(office, person)
    await office.until_idle(timeout_seconds=20)
    assert await texts(office, person) == [FALLBACK]
    assert await interim_replies(office) == []


async def test_a_profile_without_a_text_has_that_of_the_application(make_office: MakeOffice) -> None:
    office = await make_office(interim_seconds=0.3, profile={"interim_text": None})
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    await ask(office, person)
    assert (await until_sent(office, person, 1))["text"] == BotProfile("any").interim_text


async def test_one_of_unknown_outcome_is_not_repeated_delays_no_answer_and_calls_no_person(
    make_office: MakeOffice,
) -> None:
    office = await make_office(interim_seconds=0.3, send_reconcile_seconds=60)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    await office.control.add_fault("whatsapp", match={"operation": "send"}, action="drop_after", count=1)
    await ask(office, person)
    told = await until_sent(office, person, 1)
    await until_interim_is(office, "failed")
    office.breaker.reset()
    await office.until_idle()
    sent, answer = await texts(office, person)
    assert (sent, "apple turnover" in answer) == (INTERIM, True)
    conversation = await office.store.get_conversation(await conversation_id(office))
    assert conversation is not None
    assert not conversation.needs_human
    status = wa.status(told["wamid"], "sent", recipient=str(person.wa_id), callback_data=told["callback_data"])
    await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [status])))
    await until_interim_is(office, "sent")


async def test_after_a_crash_in_the_middle_of_it_nothing_goes_out_twice_and_nothing_stays_open(
    make_office: MakeOffice,
) -> None:
    office = await make_office(interim_seconds=0.3, lease_seconds=1, send_reconcile_seconds=60)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    hang = await office.control.add_fault("whatsapp", match={"operation": "send"}, action="hang_after", count=1)
    await ask(office, person)
    await until_interim_is(office, "sending")
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.replica.drain(0)
    await office.control.remove_fault(hang)
    office.breaker.reset()
    await office.start_worker()
    await office.until_idle(timeout_seconds=20)
    told, answer = await texts(office, person)
    assert (told, "apple turnover" in answer) == (INTERIM, True)
    assert [state for state, _ in await interim_replies(office)] == ["failed"], "as long as no status proves it"


async def test_one_that_whatsapp_put_off_is_given_up_when_the_answer_has_come(make_office: MakeOffice) -> None:
    """Never after the answer, and not pending for ever."""
    office = await make_office(interim_seconds=0.3)
    person = office.person()
    office.breaker.force_open(who="test", why="test")
    await office.control.add_fault("whatsapp", match={"operation": "send"}, error="130429", count=1)
    await ask(office, person)
    await until_interim_is(office, "pending")
    office.breaker.reset()
    await office.until_idle(timeout_seconds=20)
    assert [text for text in await texts(office, person) if text != INTERIM] != []
    assert [state for state, _ in await interim_replies(office)] == ["failed"]


async def test_an_answer_that_is_ready_is_not_kept_back_by_what_came_meanwhile(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second making, with the news, finds the model away: the first answer goes out, and no interim text."""
    office = await make_office(interim_seconds=0.4)
    person = office.person()
    model, asked = office.outside.model, asyncio.Event()
    generate, go_on = model.generate, asyncio.Event()

    async def slow(prompt: Prompt, *, deadline: Deadline) -> Generation:
        asked.set()
        answer = await generate(prompt, deadline=deadline)
        await go_on.wait()
        return answer

    monkeypatch.setattr(model, "generate", slow)
    await ask(office, person)
    await asked.wait()
    await ask(office, person, "And where are you?")
    assert (await until_sent(office, person, 1))["text"] == INTERIM  # the first wait
    office.breaker.force_open(who="test", why="test")
    go_on.set()
    answer = (await until_sent(office, person, 2))["text"]
    assert "apple turnover" in answer
    office.breaker.reset()
    await office.until_idle()
    assert (await texts(office, person)).count(INTERIM) == 1
