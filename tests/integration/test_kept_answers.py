"""What the model has answered reaches the customer, whatever fails between the answer and the send."""

from __future__ import annotations

import asyncio

import asyncpg

from app.localhost.servers import Valkey
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office


async def generated(office: Office) -> int:
    return len(await office.control.record(kind="generate"))


async def asked_and_held(office: Office, text: str) -> tuple[wa.Person, int]:
    """A customer has asked, and Gemini holds its answer back until the fault is removed."""
    person = office.person()
    hold = await office.control.add_fault("gemini", action="hang_before", count=1)
    await office.receive(person, wa.text(person, text))
    await office.control.wait(1, kind="generate")
    return person, hold


async def test_an_answer_goes_out_while_redis_stands_still_and_is_made_once(
    make_office: MakeOffice, valkey: Valkey
) -> None:
    office = await make_office()
    person, hold = await asked_and_held(office, "Do you have vegan pastries?")
    valkey.pause()
    try:
        await office.control.remove_fault(hold)
        (send,) = await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=10)
    finally:
        valkey.resume()
    assert "apple turnover" in send["text"]
    await office.until_idle()
    assert (await generated(office), len(await office.sends(person))) == (1, 1)


async def test_an_answer_goes_out_when_a_second_one_to_more_cannot_be_made(make_office: MakeOffice) -> None:
    office = await make_office()
    person, hold = await asked_and_held(office, "Do you have vegan pastries?")
    await office.receive(person, wa.text(person, "And where are you?"))
    outage = await office.control.add_fault("gemini", gemini="unavailable")
    await office.control.remove_fault(hold)
    (first,) = await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=20)
    assert "apple turnover" in first["text"]
    await office.control.remove_fault(outage)
    office.breaker.reset()
    await office.control.wait(2, kind="send", to=person.wa_id, timeout_seconds=20)
    await office.until_idle()
    first, second = [send["text"] for send in await office.sends(person)]
    assert "apple turnover" in first
    assert second != first


async def test_an_answer_that_must_wait_for_whatsapp_s_limits_is_stored_and_made_once(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.outside.pacer.hold(office.account.phone_number_id, person.wa_id)  # for four seconds
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.control.wait(1, kind="generate")
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=15)
    assert "apple turnover" in send["text"]
    await office.until_idle()
    assert (await generated(office), len(await office.sends(person))) == (1, 1)


async def test_an_answer_to_a_conversation_that_is_locked_is_stored_and_made_once(make_office: MakeOffice) -> None:
    office = await make_office()
    person, hold = await asked_and_held(office, "Do you have vegan pastries?")
    assert office.settings.database_url is not None
    other = await asyncpg.connect(office.settings.database_url.get_secret_value())
    try:
        async with other.transaction():
            await other.execute("update conversations set unread_count = 0 where account_id = $1", office.account.id)
            await office.control.remove_fault(hold)
            async with asyncio.timeout(10):
                while not await other.fetchval(
                    "select count(*) from replies where account_id = $1 and body is not null", office.account.id
                ):
                    await asyncio.sleep(0.01)
    finally:
        await other.close()
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=15)
    assert "apple turnover" in send["text"]
    await office.until_idle()
    assert (await generated(office), len(await office.sends(person))) == (1, 1)
