"""How many transactions of the database an answered message takes, and the statuses that follow it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from app import wiring
from app.adapters.postgres_store import PostgresStore
from app.domain.models import Status
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office

ANSWERED = ["chorus_record_inbound", "chorus_save_and_begin", "chorus_complete_part"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that were called in the database, in order. Each call is one statement, and so one transaction."""
    called: list[str] = []
    fetch: Callable[..., Awaitable[str]] = PostgresStore._fetch

    async def counted(store: PostgresStore, connection: asyncpg.Connection, function: str, body: str) -> str:
        called.append(function)
        return str(await fetch(store, connection, function, body))

    monkeypatch.setattr(PostgresStore, "_fetch", counted)
    return called


async def answer(office: Office, person: wa.Person, question: str, sends: int) -> None:
    await office.receive(person, wa.text(person, question))
    await office.control.wait(sends, kind="send", to=person.wa_id, timeout_seconds=10)
    await office.until_idle()


async def test_an_answered_message_takes_three(make_office: MakeOffice, calls: list[str]) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, "Do you have vegan pastries?", 1)
    calls.clear()  # from now on account and profile are in the cache
    await answer(office, person, "And bread?", 2)
    assert calls == ANSWERED


async def test_the_statuses_of_a_message_take_one(
    make_office: MakeOffice, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "GATHER_SECONDS", 2.0)  # in which all three webhooks must come
    office = await make_office()
    person = office.person()
    await answer(office, person, "Do you have vegan pastries?", 1)
    (send,) = await office.sends(person)
    calls.clear()
    for name in (Status.SENT, Status.DELIVERED, Status.READ):
        status = wa.status(send["wamid"], name, recipient=person.wa_id, callback_data=send["callback_data"])
        await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [status])))
    await office.until_idle()
    assert calls == ["chorus_apply_status"]
    page = await office.store.list_conversations(office.account.id, limit=1, cursor=None)
    messages = await office.store.list_messages(page.items[0].id, limit=1, cursor=None)
    assert messages.items[0].status is Status.READ
