"""Why a customer was not simply answered stands on the canonical line of their conversation, in codes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from app.adapters.postgres_store import PostgresStore
from app.core.cache import invalidate_cache_pattern
from app.core.secrets import TokenCipher
from app.domain.webhook import Kind
from app.sandbox import webhooks as wa
from app.services.account_service import AccountService
from tests.support.office import MakeOffice, Office


class Lines:
    """The canonical lines of this process, each as its fields."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog

    def handled(self, kind: str = Kind.MESSAGE) -> list[dict[str, Any]]:
        fields = [line.fields for line in self._caplog.records if line.getMessage() == "handled"]
        return [each for each in fields if each["kind"] == kind]

    async def first(self, kind: str = Kind.MESSAGE, *, outcome: str = "") -> tuple[str, str]:
        async with asyncio.timeout(10):
            while True:
                for line in self.handled(kind):
                    if outcome in {"", line["outcome"]}:
                        return line["outcome"], line["reason"]
                await asyncio.sleep(0.01)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


async def ask(office: Office, message: dict[str, Any] | None = None) -> wa.Person:
    person = office.person()
    await office.receive(person, message or wa.text(person, "Do you have vegan pastries?"))
    return person


async def test_a_wrong_key_is_named_with_the_first_conversation_that_waits_for_it(
    make_office: MakeOffice, lines: Lines
) -> None:
    office = await make_office()
    await office.control.add_fault("gemini", gemini="api_key_invalid")
    await ask(office)
    assert await lines.first() == ("postponed", "model unavailable: HTTP 400 API_KEY_INVALID")
    assert office.breaker.snapshot().last_failure == "HTTP 400 API_KEY_INVALID"


async def test_a_conversation_that_waits_for_an_open_circuit_names_what_opened_it(
    make_office: MakeOffice, lines: Lines
) -> None:
    office = await make_office()
    await office.control.add_fault("gemini", gemini="api_key_invalid")
    for _ in range(office.breaker.policy.failure_threshold):
        await ask(office)
    await office.until(lambda: _is(office.breaker.snapshot().state == "open"))
    await ask(office)
    wanted = "model unavailable: circuit open (failures: HTTP 400 API_KEY_INVALID)"
    await office.until(lambda: _is(any(line["reason"] == wanted for line in lines.handled())))


async def test_a_fallback_says_what_kept_the_model_from_answering(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    await office.control.add_fault("gemini", gemini="quota_per_day")
    await ask(office)
    assert await lines.first() == ("replied", "model unavailable: HTTP 429 RESOURCE_EXHAUSTED (daily quota)")


async def test_a_refusal_is_named_by_the_models_own_word(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    await office.control.add_fault("gemini", gemini="safety")
    await ask(office)
    assert await lines.first() == ("replied", "model refused: SAFETY")


async def test_a_plain_answer_has_an_empty_reason(make_office: MakeOffice, lines: Lines) -> None:
    await ask(await make_office())
    assert await lines.first() == ("replied", "")


async def test_a_message_without_text_says_so(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    person = office.person()
    await office.receive(person, wa.reaction(person, "wamid.x", "👍"))
    assert await lines.first() == ("nothing_to_answer", "no text: reaction")


async def test_a_bot_that_is_off_says_for_whom(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    person = await ask(office)
    await lines.first(outcome="replied")
    await office.until_idle()
    page = await office.store.list_conversations(office.account.id, limit=1, cursor=None)
    await office.store.set_bot(page.items[0].id, enabled=False)
    await office.receive(person, wa.text(person, "Hello?"))
    assert await lines.first(outcome="bot_off") == ("bot_off", "the conversation's bot is off")


async def test_a_send_that_whatsapp_rejects_names_its_code(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    await office.control.add_fault("whatsapp", match={"operation": "send"}, error="131026")
    await ask(office)
    assert await lines.first() == ("send_failed", "send rejected: code 131026")


async def test_an_account_that_whatsapp_rejects_names_its_code(make_office: MakeOffice, lines: Lines) -> None:
    office = await make_office()
    await office.control.add_fault("whatsapp", match={"operation": "send"}, error="190")
    await ask(office)
    outcome, reason = await lines.first()
    assert outcome == "account_rejected"
    assert "code 190" in reason


async def test_an_event_that_is_given_up_on_is_named_and_says_why(
    make_office: MakeOffice, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    office = await make_office()
    await office.ingest.accept(wa.envelope(wa.messages_change(office.business, [{"no": "id"}])))
    outcome, reason = await lines.first(Kind.UNKNOWN)
    assert (outcome, reason) == ("parked", "malformed messages")
    (line,) = [line for line in caplog.records if line.getMessage().startswith("event given up on")]
    assert (line.kind, line.field, line.reason) == ("unknown", "messages", reason)


async def test_a_bug_is_told_by_its_place_and_never_quotes_the_customer(
    make_office: MakeOffice, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office(max_attempts=1)

    async def stumble(*_args: object, **_more: object) -> None:
        raise KeyError("my secret kumquat")

    monkeypatch.setattr("app.services.bot_service.BotService._record", stumble)
    await ask(office)
    outcome, reason = await lines.first()
    assert (outcome, reason.partition(":")[0]) == ("parked", "KeyError in test_reasons.py")
    await office.until_idle()
    (letter,), _ = await office.queue.dead_letters.page(limit=10)
    assert letter.reason == reason
    assert "kumquat" not in repr(letter.history)


async def test_a_message_that_fails_after_whatsapp_accepted_it_is_told_with_its_code(
    make_office: MakeOffice, lines: Lines
) -> None:
    office = await make_office()
    failed = wa.status("wamid.x", "failed", recipient=office.person().wa_id, errors=[{"code": 131026}])
    await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [failed])))
    assert await lines.first(Kind.STATUS) == ("kept_for_later", "message failed: code 131026")


async def _is(value: bool) -> bool:
    return value


async def test_a_first_account_whose_name_another_number_has_is_told(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = PostgresStore(store_url)
    accounts = AccountService(store, TokenCipher([TokenCipher.generate_key()]))
    try:
        for number in ("5550001", "5550001", "5550002"):
            await accounts.bootstrap(phone_number_id=number, access_token="a-token", verify_token="verify-me")
    finally:
        await store.aclose()
        await invalidate_cache_pattern("*")
    (line,) = [line for line in caplog.records if line.getMessage() == "no account bootstrapped"]
    assert (line.levelname, line.code) == ("ERROR", "slug_taken")
