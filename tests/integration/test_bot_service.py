"""What becomes of a message when the model, WhatsApp or a person gets in the way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import asyncpg
import pytest

from app.core.errors import Unavailable
from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.domain.models import Author, BotProfile, Conversation, HandoverReason, ReplyState
from app.domain.webhook import parse_webhook
from app.localhost.servers import Valkey
from app.sandbox import webhooks as wa
from app.services.ingest_service import encode
from tests.support.office import MakeOffice, Office


async def conversation(office: Office) -> Conversation:
    page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
    (found,) = page.items
    return found


async def covers(office: Office) -> list[list[str]]:
    assert office.settings.database_url is not None
    database = await asyncpg.connect(office.settings.database_url.get_secret_value())
    try:
        return [row["covers"] for row in await database.fetch("select covers from replies order by created_at")]
    finally:
        await database.close()


async def test_the_model_down_for_a_moment_only_delays_the_answer(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini="unavailable", count=4)
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=20)
    assert "apple turnover" in send["text"]
    assert (await conversation(office)).bot_enabled


async def test_the_model_down_for_too_long_gives_the_fallback_once_and_calls_a_person(make_office: MakeOffice) -> None:
    office = await make_office(reply_deadline_seconds=1)
    person = office.person()
    await office.control.add_fault("gemini", gemini="unavailable")
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.control.wait(1, kind="send", to=person.wa_id, timeout_seconds=20)
    await office.until_idle()
    assert [send["text"] for send in await office.sends(person)] == [BAKERY["fallback_text"]]
    found = await conversation(office)
    assert (found.needs_human, found.bot_enabled) == (True, True)


async def test_a_used_up_daily_quota_hands_over_at_once(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini="quota_per_day")
    await office.receive(person, wa.text(person, "Hello?"))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    assert send["text"] == BAKERY["fallback_text"]


async def test_while_the_circuit_is_open_for_a_day_every_customer_is_told_at_once_and_its_return_is_noticed(
    make_office: MakeOffice,
) -> None:
    office = await make_office()
    fault = await office.control.add_fault("gemini", gemini="quota_per_day")
    first, second, third = (office.person() for _ in range(3))
    for person in (first, second):
        await office.receive(person, wa.text(person, "Hello?"))
        (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
        assert send["text"] == BAKERY["fallback_text"]
    page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
    assert [found.needs_human for found in page.items] == [True, True]
    assert len(await office.control.record(kind="generate")) == 1, "the circuit was open for the second"
    await office.control.remove_fault(fault)
    await office.breaker.seen_well()  # as the background's probe tells it
    await office.receive(third, wa.text(third, "Do you have vegan pastries?"))
    (send,) = await office.control.wait(1, kind="send", to=third.wa_id)
    assert "apple turnover" in send["text"]


async def test_five_messages_over_an_outage_get_one_fallback_and_the_next_is_answered(make_office: MakeOffice) -> None:
    office = await make_office(reply_deadline_seconds=0.2)
    person = office.person()
    await office.control.add_fault("gemini", gemini="permission_denied")
    for text in ("Hello?", "Anybody?", "Please", "Do you hear me?", "??"):
        await office.receive(person, wa.text(person, text))
        await office.until_idle()
    assert [send["text"] for send in await office.sends(person)] == [BAKERY["fallback_text"]]
    assert (await conversation(office)).needs_human
    await office.control.clear_faults()
    office.breaker.reset()
    bot = office.replica.bot
    assert bot is not None
    # The outage is over; a busy machine takes its time.
    bot._delivery = replace(bot._delivery, reply_deadline_seconds=30)
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.until_idle()
    first, second = [send["text"] for send in await office.sends(person)]
    assert "apple turnover" in second
    asked = (await office.control.record(kind="generate"))[-1]["body"]["contents"]
    assert first not in str(asked)
    assert "Anybody?" in str(asked), "what nobody answered stays in the conversation"


@pytest.mark.parametrize("refusal", ["blocked_prompt", "safety", "thought_only"])
async def test_a_refused_turn_does_not_spoil_the_next_question(make_office: MakeOffice, refusal: str) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini=refusal, match={"conversation_contains": "awful"})
    await office.receive(person, wa.text(person, "Something awful"))
    await office.until_idle()
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.until_idle()
    fallback, second = [send["text"] for send in await office.sends(person)]
    assert (fallback, "apple turnover" in second) == (BAKERY["fallback_text"], True)
    asked = (await office.control.record(kind="generate"))[-1]["body"]["contents"]
    assert "awful" not in str(asked)
    assert fallback not in str(asked)


async def test_words_that_no_bot_was_asked_about_do_not_spoil_the_next_question(make_office: MakeOffice) -> None:
    """Nothing marks them as refused: they were written while a person had the conversation."""
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini="blocked_prompt", match={"conversation_contains": "awful"})
    await office.receive(person, wa.text(person, "Where are you?"))
    await office.until_idle()
    found = await conversation(office)
    await office.store.set_bot(found.id, enabled=False)
    await office.receive(person, wa.text(person, "Something awful"))
    await office.until_idle()
    await office.store.set_bot(found.id, enabled=True)
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.until_idle()
    assert "apple turnover" in (await office.sends(person))[-1]["text"]


async def test_a_model_that_refuses_the_thinking_level_answers_its_customers(make_office: MakeOffice) -> None:
    office = await make_office(profile={"model": "gemini-2.5-flash"})
    await office.control.add_fault("gemini", gemini="thinking_level_unsupported", match={"model": "gemini-2.5-flash"})
    for name in ("A", "B"):
        person = office.person(name)
        await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
        (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
        assert "apple turnover" in send["text"]
    await office.until_idle()
    assert [entry["status"] for entry in await office.control.record(kind="generate")] == [400, 200, 200]


async def test_the_customer_reads_whatsapps_marks_not_markdown(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    said = "### Bread\n* **Baguette**: ~~2 €~~ 1 €\n\n[Menu](https://levain.example/menu)"
    shown = "*Bread*\n- *Baguette*: ~2 €~ 1 €\n\nMenu (https://levain.example/menu)"
    await office.control.add_fault("gemini", gemini="reply", text=said)
    await office.receive(person, wa.text(person, "Bread?"))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    assert send["text"] == shown
    await office.until_idle()
    page = await office.store.list_messages((await conversation(office)).id, limit=1, cursor=None)
    assert page.items[0].text == shown


async def test_half_an_emoji_in_an_answer_reaches_the_customer_as_a_replacement(make_office: MakeOffice) -> None:
    office = await make_office()
    for index, name in enumerate(("lone_surrogate", "nul_character", "invalid_utf8")):
        person = office.person(name)
        await office.control.add_fault("gemini", gemini=name, count=1)
        await office.receive(person, wa.text(person, "Hello?"))
        (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
        assert send["text"] == "Good morning \ufffd we open at seven."
        assert len(await office.control.record(kind="generate")) == index + 1


@pytest.mark.parametrize("error", ["safety", "blocked_prompt", "thought_only"])
async def test_a_refusal_or_an_empty_answer_gives_the_fallback_and_calls_a_person(
    make_office: MakeOffice, error: str
) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("gemini", gemini=error)
    await office.receive(person, wa.text(person, "Hello?"))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    assert send["text"] == BAKERY["fallback_text"]
    await office.until_idle()
    assert (await conversation(office)).needs_human


async def test_messages_that_arrive_while_the_answer_is_made_are_answered_together(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.control.wait(1, kind="generate")
    await office.receive(person, wa.text(person, "And where are you?"))
    await office.control.remove_fault(rule)
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    assert "Tables Claudiennes" in send["text"]
    assert "apple turnover" in send["text"]
    await office.until_idle()
    assert len(await office.sends(person)) == 1


async def test_a_person_who_answers_while_the_bot_thinks_silences_it(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="generate")
    echo = wa.echo(office.business, str(person.wa_id), "Claire here")
    await office.ingest.accept(wa.envelope(wa.echoes_change(office.business, [echo])))

    async def taken_over() -> bool:
        return not (await conversation(office)).bot_enabled

    await office.until(taken_over)
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert await office.sends(person) == []


@pytest.mark.parametrize("meanwhile", ["nothing", "STOP"])
async def test_an_account_switched_off_while_the_bot_thinks_says_nothing_more(
    make_office: MakeOffice, meanwhile: str
) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="generate")
    if meanwhile == "STOP":  # which is confirmed as a rule
        await office.receive(person, wa.text(person, meanwhile))
    await office.accounts.update(office.account.id, {"is_active": False})
    await office.control.remove_fault(rule)
    await office.until_idle()
    assert await office.sends(person) == []


async def test_a_message_older_than_a_day_is_left_to_people(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.receive(person, wa.text(person, "Hello?", at=time.time() - 25 * 3600))

    async def flagged() -> bool:
        page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
        return any(found.needs_human for found in page.items)

    await office.until(flagged)
    await office.until_idle()
    assert await office.sends(person) == []


async def test_a_rejected_send_is_final_and_calls_a_person(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("whatsapp", match={"operation": "send"}, error="131026")
    message = wa.text(person, "Hello?")
    await office.receive(person, message)
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    found = await conversation(office)
    assert found.needs_human
    page = await office.store.list_messages(found.id, limit=1, cursor=None)
    assert (page.items[0].status, page.items[0].error and page.items[0].error["code"]) == ("failed", 131026)


async def test_a_person_is_called_although_the_database_went_away_before_that(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office()
    person, call = office.person(), office.store.set_needs_human
    trouble = [Unavailable("database", "away", retry_after=0.05)]

    async def call_in_the_end(conversation_id: str, reason: HandoverReason) -> None:
        if trouble:
            raise trouble.pop()
        await call(conversation_id, reason)

    monkeypatch.setattr(office.store, "set_needs_human", call_in_the_end)
    await office.control.add_fault("whatsapp", match={"operation": "send"}, error="131026")
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    assert not trouble
    assert (await conversation(office)).needs_human
    assert len(await office.sends(person)) == 1


async def test_a_message_is_stored_although_the_profile_cannot_be_read(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office()
    person = office.person()

    async def away(_account_id: str) -> BotProfile:
        raise Unavailable("database", "away", retry_after=0.05)

    async def stored() -> bool:
        page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
        found = [each for each in page.items if each.contact.wa_id == person.wa_id]
        return bool(found and (await office.store.list_messages(found[0].id, limit=1, cursor=None)).items)

    with monkeypatch.context() as patched:
        patched.setattr(office.store, "get_profile", away)
        await office.receive(person, wa.text(person, "Hello?"))
        await office.until(stored)
    await office.control.wait(1, kind="send", to=person.wa_id)


async def test_service_trouble_is_retried_and_the_text_is_generated_once(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault(
        "whatsapp", match={"recipient": person.wa_id, "operation": "send"}, error="131000", count=2
    )
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="send", to=person.wa_id, processed="true", timeout_seconds=20)
    await office.until_idle()
    assert len([send for send in await office.sends(person) if send["processed"]]) == 1
    assert len(await office.control.record(kind="generate")) == 1


async def test_a_send_whose_answer_was_lost_is_proven_by_its_status_and_not_repeated(make_office: MakeOffice) -> None:
    office = await make_office(send_reconcile_seconds=2)
    person = office.person()
    message = wa.text(person, "Hello?")
    await office.control.add_fault(
        "whatsapp", match={"recipient": person.wa_id, "operation": "send"}, action="drop_after", count=1
    )
    await office.receive(person, message)
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    status = wa.status(send["wamid"], "sent", recipient=str(person.wa_id), callback_data=send["callback_data"])
    await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [status])))
    await office.until_idle()
    assert len(await office.sends(person)) == 1
    assert not (await conversation(office)).needs_human


async def test_a_send_of_unknown_outcome_without_proof_calls_a_person(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault(
        "whatsapp", match={"recipient": person.wa_id, "operation": "send"}, action="drop_before", count=1
    )
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    assert len(await office.sends(person)) == 1
    assert (await conversation(office)).needs_human


async def test_a_send_of_unknown_outcome_is_repeated_only_if_the_profile_says_so(make_office: MakeOffice) -> None:
    office = await make_office(profile={"resend_ambiguous": True})
    person = office.person()
    await office.control.add_fault(
        "whatsapp", match={"recipient": person.wa_id, "operation": "send"}, action="drop_before", count=1
    )
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(2, kind="send", to=person.wa_id)
    await office.until_idle()
    assert [send["processed"] for send in await office.sends(person)] == [False, True]
    assert not (await conversation(office)).needs_human


async def test_what_always_fails_ends_as_a_dead_letter_and_delays_no_other(make_office: MakeOffice) -> None:
    office = await make_office(max_attempts=2)
    poisoned, other = office.person("P"), office.person("O")
    # No index takes an id of this length: whatever the reason, this message always fails.
    await office.receive(poisoned, wa.text(poisoned, "x", id="".join(map(str, range(3000)))), wa.text(poisoned, "y"))
    await office.receive(other, wa.text(other, "Where are you?"))
    await office.control.wait(1, kind="send", to=other.wa_id)
    await office.control.wait(1, kind="send", to=poisoned.wa_id, timeout_seconds=20)
    await office.until_idle()
    (letter,), _ = await office.queue.dead_letters.page(limit=10)
    assert (letter.attempts, "Error" in letter.reason) == (2, True)


async def test_a_rejected_account_waits_for_people_and_others_go_on(make_office: MakeOffice) -> None:
    office = await make_office()
    # Encrypted with a key that nobody has any more: the same as a token that Meta has revoked.
    lost = TokenCipher([TokenCipher.generate_key()]).encrypt("token")
    stopped = await office.store.create_account(
        name="Lost", slug="lost", phone_number_id="80001", access_token=lost, verify_token="verify-me-too"
    )
    waiting, other = office.person("W"), office.person("O")
    change = wa.messages_change(wa.Business("80001"), [wa.media(waiting, "sticker")], [waiting])
    await office.ingest.accept(wa.envelope(change))
    await office.receive(other, wa.text(other, "Where are you?"))
    await office.control.wait(1, kind="send", to=other.wa_id)

    async def flagged() -> bool:
        page = await office.store.list_conversations(stopped.id, limit=1, cursor=None)
        return bool(page.items) and page.items[0].needs_human

    await office.until(flagged)
    assert (await office.queue.stats()).dead == 0


async def test_a_reply_that_is_reported_as_failed_later_calls_a_person(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.receive(person, wa.text(person, "Where are you?"))
    (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    assert not (await conversation(office)).needs_human
    failed = wa.status(send["wamid"], "failed", recipient=str(person.wa_id), errors=[{"code": 131026, "title": "x"}])
    await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [failed])))
    await office.until_idle()
    assert (await conversation(office)).needs_human


async def test_a_customer_who_gets_too_much_is_left_alone_and_others_are_not(make_office: MakeOffice) -> None:
    office = await make_office()
    person, other = office.person("P"), office.person("O")
    match = {"recipient": person.wa_id, "operation": "send"}
    await office.control.add_fault("whatsapp", match=match, error="131056", count=1)
    await office.receive(person, wa.text(person, "Where are you?"))
    (refused,) = await office.control.wait(1, kind="send", to=person.wa_id)
    await office.receive(other, wa.text(other, "Where are you?"))
    await office.control.wait(1, kind="send", to=other.wa_id)
    _, sent = await office.control.wait(2, kind="send", to=person.wa_id, timeout_seconds=15)
    assert sent["monotonic"] - refused["monotonic"] >= 4


async def test_redis_away_when_the_work_is_done_costs_no_attempt(make_office: MakeOffice, valkey: Valkey) -> None:
    office = await make_office(max_attempts=1, lease_seconds=3)
    person = office.person()
    match = {"recipient": person.wa_id, "operation": "send"}
    rule = await office.control.add_fault("whatsapp", match=match, action="hang_after", count=1)
    await office.receive(person, wa.text(person, "Where are you?"))
    await office.control.wait(1, kind="send", to=person.wa_id, processed="true")
    await asyncio.to_thread(valkey.kill)
    await office.control.remove_fault(rule)
    await office.control.wait(1, kind="send", to=person.wa_id, status=200)
    await asyncio.to_thread(valkey.start)
    await office.until_idle()
    assert (await office.queue.stats()).dead == 0
    assert len(await office.sends(person)) == 1


async def test_drain_gives_back_what_is_held_without_counting_an_attempt(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    rule = await office.control.add_fault("gemini", action="hang_before", count=1)
    await office.receive(person, wa.text(person, "Hello?"))
    await office.control.wait(1, kind="generate")
    await office.worker.loop.drain(0.05)
    await office.control.remove_fault(rule)
    (claim,) = await office.queue.claim(10)
    assert claim.attempts == 0


async def test_a_reply_found_finished_is_not_made_again(make_office: MakeOffice) -> None:
    """As after a crash between the recorded send and the queue's `done`: the same message is handled again."""
    office = await make_office()
    person = office.person()
    message = wa.text(person, "Where are you?")
    await office.receive(person, message)
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    found = await conversation(office)
    # Past the queue's dedupe, as a redelivery after its eight days, or a worker that died before `done`.
    payload = wa.envelope(wa.messages_change(office.business, [message], [person]))
    await office.queue.put([encode(event)._replace(id="again") for event in parse_webhook(payload)])
    await office.until_idle()
    assert len(await office.sends(person)) == 1
    reply = await office.store.open_reply(found.id, key=message["id"], author=Author.BOT, covers=(), fence=0)
    assert reply.state is ReplyState.SENT


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
async def test_each_message_is_answered_once_in_whatever_order_a_lost_queue_is_filled_again(
    make_office: MakeOffice, order: str
) -> None:
    """`a` and `b` got their answer before the queue was lost, `c` did not."""
    office = await make_office()
    person = office.person()
    messages = {name: wa.text(person, f"Where are you? {name}") for name in "abc"}
    await office.receive(person, messages["a"], messages["b"])
    await office.control.wait(1, kind="send", to=person.wa_id)
    await office.until_idle()
    payload = wa.envelope(wa.messages_change(office.business, [messages[name] for name in order], [person]))
    await office.queue.put([encode(event)._replace(id=f"again-{n}") for n, event in enumerate(parse_webhook(payload))])
    await office.until_idle()
    told = [{name for name, message in messages.items() if message["id"] in reply} for reply in await covers(office)]
    assert told == [{"a", "b"}, {"c"}]
    assert len(await office.sends(person)) == 2
