"""A conversation or an account that has had its share of the model gets no more that day, and people are told."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from app.demo.bakery import BAKERY
from app.domain.models import Conversation, HandoverReason
from app.domain.usage import DailyLimits
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office

QUESTION = "Do you have vegan pastries?"


async def ask(office: Office, person: wa.Person, text: str = QUESTION) -> None:
    await office.receive(person, wa.text(person, text))
    await office.until_idle()


async def conversation_with(office: Office, person: wa.Person) -> Conversation:
    page = await office.store.list_conversations(office.account.id, limit=100, cursor=None)
    (found,) = [one for one in page.items if one.contact.wa_id == person.wa_id]
    return found


async def texts(office: Office, person: wa.Person) -> list[str]:
    return [send["text"] for send in await office.sends(person)]


async def asked(office: Office) -> int:
    return len(await office.control.record(kind="generate"))


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message.startswith("daily limit reached")]


def counted(limit: str) -> float:
    return REGISTRY.get_sample_value("chorus_daily_limit_total", {"reason": limit}) or 0.0


async def test_the_conversation_that_has_had_its_answers_gets_the_fallback_once_and_a_person(
    make_office: MakeOffice, caplog
):
    office = await make_office(limits=DailyLimits(messages_per_conversation=2))
    before = counted("daily_messages_per_conversation")
    amina, bruno = office.person(), office.person("Bruno")
    for _ in range(5):
        await ask(office, amina)
    await ask(office, bruno)
    assert [text == BAKERY["fallback_text"] for text in await texts(office, amina)] == [False, False, True]
    assert BAKERY["fallback_text"] not in await texts(office, bruno)
    assert await asked(office) == 3
    found = await conversation_with(office, amina)
    assert (found.needs_human, found.needs_human_reason) == (True, HandoverReason.DAILY_LIMIT)
    assert found.bot_enabled, "it answers again tomorrow"
    assert not (await conversation_with(office, bruno)).needs_human
    assert counted("daily_messages_per_conversation") == before + 3
    (line,) = told(caplog)
    assert line.limit == "daily_messages_per_conversation"
    assert line.conversation == found.id


@pytest.mark.parametrize("limits", [DailyLimits(messages_per_account=3), DailyLimits(tokens_per_account=1000)])
async def test_the_account_that_has_had_its_share_leaves_the_others_theirs(
    make_office: MakeOffice, caplog, limits: DailyLimits
):
    office = await make_office(limits=limits)
    other = await office.store.create_account(
        name="Other", slug="other", phone_number_id="7001", access_token=office.account.access_token, verify_token="v"
    )
    await office.store.update_profile(other.id, BAKERY)
    for _ in range(5):
        await ask(office, office.person())
    assert await asked(office) <= 3
    customer = office.person()
    text = wa.text(customer, QUESTION)
    await office.ingest.accept(wa.envelope(wa.messages_change(wa.Business("7001"), [text], [customer])))
    await office.until_idle()
    assert BAKERY["fallback_text"] not in await texts(office, customer)
    assert len(told(caplog)) == 1
    days = await office.accounts.spent_today([office.account, other])
    (reached,) = office.accounts.limits_reached(office.account, days[office.account.id])
    assert reached.is_of_the_account
    assert office.accounts.limits_reached(other, days[other.id]) == ()


async def test_an_account_that_has_used_up_its_own_budget_calls_people_and_is_told_of_once_a_day(
    make_office: MakeOffice, caplog
):
    office = await make_office()
    await ask(office, office.person())
    (day,) = await office.accounts.usage(office.account.id, days=1)
    spent = day.input_tokens + day.output_tokens
    await office.accounts.update(office.account.id, {"daily_token_budget": spent + 1})
    amina, bruno = office.person(), office.person("Bruno")
    await ask(office, amina)  # below it by one token: answered, and over it then
    before = counted("daily_token_budget")
    for person in (amina, bruno, amina, bruno):
        await ask(office, person)
    assert await asked(office) == 2
    assert [text == BAKERY["fallback_text"] for text in await texts(office, amina)] == [False, True]
    assert [text == BAKERY["fallback_text"] for text in await texts(office, bruno)] == [True]
    for person in (amina, bruno):
        found = await conversation_with(office, person)
        assert (found.needs_human, found.needs_human_reason) == (True, HandoverReason.TOKEN_BUDGET)
        assert found.bot_enabled, "it answers again tomorrow"
    assert counted("daily_token_budget") == before + 4
    beside = await office.start_worker()  # another replica, which has told nothing yet
    await beside.services.accounts.tell_budget(office.account)
    (line,) = [record for record in caplog.records if "token budget" in record.message]
    assert (line.account, line.limit) == (office.account.id, "daily_token_budget")
    account = await office.store.get_account(office.account.id)
    assert account is not None
    assert account.last_notice is not None
    assert (account.last_notice["field"], account.last_notice["event"]) == ("daily_token_budget", "USED_UP")
    assert office.accounts.limits_reached(account, (await office.accounts.usage(account.id, days=1))[0]) == (
        "daily_token_budget",
    )
    await office.accounts.update(office.account.id, {"daily_token_budget": None})
    await ask(office, bruno)
    assert await asked(office) == 3


async def test_the_next_day_is_another(make_office: MakeOffice):
    office = await make_office(limits=DailyLimits(messages_per_conversation=1))
    amina = office.person()
    await ask(office, amina)
    await ask(office, amina)
    assert await asked(office) == 1
    found = await conversation_with(office, amina)
    await office.move_usage_to_yesterday()
    await ask(office, amina)
    assert await asked(office) == 2
    assert (await conversation_with(office, amina)).needs_human == found.needs_human, "a person is still called"


@pytest.mark.parametrize("fault", ["safety", "blocked_prompt"])
async def test_what_the_model_refuses_costs_too(make_office: MakeOffice, fault: str):
    office = await make_office(limits=DailyLimits(tokens_per_conversation=700))
    await office.control.add_fault("gemini", gemini=fault)
    amina = office.person()
    for number in range(6):
        await ask(office, amina, f"{QUESTION} {number} " + "x" * 800)
    assert 1 <= await asked(office) <= 4
    assert (await conversation_with(office, amina)).needs_human


async def test_without_limits_what_was_spent_is_still_counted(make_office: MakeOffice):
    office = await make_office()
    amina = office.person()
    for _ in range(2):
        await ask(office, amina)
    (day,) = (await office.accounts.spent_today([office.account])).values()
    answers = [entry["body"] for entry in await office.control.record(kind="generate")]
    assert day.answers == len(answers) == 2
    assert day.input_tokens > 500
    assert day.output_tokens > 10


async def test_thirty_long_messages_and_hi_cost_one_bounded_prompt(make_office: MakeOffice):
    office = await make_office()
    amina = office.person()
    for _ in range(3):
        await office.receive(amina, *(wa.text(amina, "x" * 65_536) for _ in range(10)))
        await office.until_idle()
    await ask(office, amina, "hi")
    bodies = [entry["body"] for entry in await office.control.record(kind="generate")]
    sizes = [sum(len(part["text"]) for turn in body["contents"] for part in turn["parts"]) for body in bodies]
    assert max(sizes) <= 50_000
    assert bodies[-1]["contents"][-1]["parts"][0]["text"].endswith("hi")
    assert BAKERY["fallback_text"] not in await texts(office, amina)
