"""While a circuit is open nobody takes work just to fail it, and what waited is answered when it closes."""

from __future__ import annotations

import logging
import time

import pytest

from app.core.circuit_breaker import supabase_circuit_breaker, whatsapp_account_breakers, whatsapp_circuit_breaker
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office


def _handled(caplog: pytest.LogCaptureFixture, outcome: str) -> list[dict[str, object]]:
    lines = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("kind") == "message"]
    return [line for line in lines if line["outcome"] == outcome]


async def _ask(office: Office, count: int) -> list[wa.Person]:
    people = [office.person() for _ in range(count)]
    for person in people:
        await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    return people


async def _postponed(office: Office, caplog: pytest.LogCaptureFixture, times: int) -> None:
    async def often_enough() -> bool:
        return len(_handled(caplog, "postponed")) >= times

    await office.until(often_enough)
    assert {line["attempt"] for line in _handled(caplog, "postponed")} == {1}, "not their failure"
    assert (await office.queue.stats()).dead == 0


async def test_conversations_wait_for_an_open_model_without_a_call(make_office: MakeOffice, caplog):
    caplog.set_level(logging.INFO)
    office = await make_office(max_attempts=2)
    office.breaker.force_open(who="test", why="test")
    people = await _ask(office, 5)
    await _postponed(office, caplog, 15)
    assert await office.control.record(kind="generate") == []
    assert await office.control.record(kind="read") == [], "nobody is going to answer soon"
    office.breaker.reset()
    await office.until_idle()
    assert [len(await office.sends(person)) for person in people] == [1] * 5


@pytest.mark.parametrize("whose", ["service", "account"])
async def test_no_answer_is_bought_that_cannot_be_sent(make_office: MakeOffice, caplog, monkeypatch, whose: str):
    caplog.set_level(logging.INFO)
    office = await make_office()
    account = whatsapp_account_breakers.get(office.account.phone_number_id)
    breaker = whatsapp_circuit_breaker if whose == "service" else account
    monkeypatch.setattr(breaker, "blocked_seconds", lambda: 0.2)
    await _ask(office, 1)
    await _postponed(office, caplog, 2)
    assert await office.control.record(kind="generate") == []
    monkeypatch.undo()
    await office.until_idle()
    assert len(await office.control.record(kind="send")) == 1


async def test_conversations_wait_until_an_open_database_would_admit_a_call_and_nothing_is_held_against_them(
    make_office: MakeOffice, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    office = await make_office(max_attempts=2)
    monkeypatch.setattr(supabase_circuit_breaker, "retry_after", lambda: 0.2)
    supabase_circuit_breaker.force_open(who="test", why="test")
    started = time.monotonic()
    people = await _ask(office, 5)

    async def often_enough() -> bool:
        return len(_handled(caplog, "unavailable")) >= 15

    await office.until(often_enough)
    assert time.monotonic() - started >= 2 * 0.2, "not before it would admit one"
    assert {line["attempt"] for line in _handled(caplog, "unavailable")} == {1}, "not their failure"
    supabase_circuit_breaker.reset()
    await office.until_idle()
    assert [len(await office.sends(person)) for person in people] == [1] * 5
    assert (await office.queue.stats()).dead == 0
