"""From a customer's message to the bot's reply, over three real replicas."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from math import inf

from app.demo.bakery import BAKERY
from app.sandbox import webhooks as wa
from tests.support.world import World

from .conftest import DEBOUNCE_SECONDS


async def test_a_question_is_answered_from_the_profile_and_everything_is_stored(world: World) -> None:
    customer = world.customer()
    message_id = await customer.say("Do you have vegan pastries?")
    (reply,) = await customer.wait_for_reply()
    assert "apple turnover" in reply.text
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    assert conversation["contact"]["name"] == "Amina"
    assert conversation["unread_count"] == 1
    page = await world.api("GET", f"/conversations/{conversation['id']}/messages", replica=1)
    answer, question = page["items"]
    assert (question["wa_message_id"], question["author"], question["status"]) == (message_id, "customer", "received")
    assert (answer["author"], answer["wa_message_id"]) == ("bot", reply.wamid)
    assert answer["text"] == reply.text


async def test_the_send_carries_plus_token_and_our_id_and_statuses_come_back_by_rank(world: World) -> None:
    await world.sandbox.change_behaviour(shuffle=True, duplicate_rate=0.5)
    customer = world.customer()
    message_id = await customer.say("Where are you?")
    await customer.wait_for_reply()
    (send,) = await world.sandbox.record(kind="send", to=customer.person.wa_id)
    assert send["body"]["to"] == f"+{customer.person.wa_id}"
    assert send["body"]["biz_opaque_callback_data"] == f"{message_id}#0"
    async with asyncio.timeout(10):
        while await _status(world, f"{message_id}#0") != "read":
            await asyncio.sleep(0.02)
    await world.until_idle()
    assert await _status(world, f"{message_id}#0") == "read"


async def _status(world: World, outbound_key: str) -> str:
    return str(await world.value("select status from messages where outbound_key = $1", outbound_key))


async def test_read_receipt_and_typing_are_shown_when_work_starts(world: World) -> None:
    customer = world.customer()
    # A replica that is busy shows them only while the answer is not there yet (`Courtesy`).
    fault = await world.sandbox.add_fault("gemini", action="hang_before")
    message_id = await customer.say("Where are you?")
    (read,) = await world.sandbox.wait(1, kind="read", phone_number_id=world.business.phone_number_id)
    await world.sandbox.remove_fault(fault)
    assert read["body"]["message_id"] == message_id
    assert read["body"]["typing_indicator"] == {"type": "text"}


async def test_quick_messages_get_one_reply(world: World) -> None:
    seconds = inf
    while seconds >= DEBOUNCE_SECONDS:  # else they were not quick: the machine was busy
        customer = world.customer()
        began = time.monotonic()
        await customer.burst("Hello", "I wonder", "do you have gluten-free bread?")
        seconds = time.monotonic() - began
    replies = await customer.wait_for_reply()
    await world.until_idle()
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == 1
    assert "gluten-free" in replies[0].text


async def test_a_batch_of_a_thousand_messages_of_two_hundred_people(world: World) -> None:
    await world.sandbox.change_behaviour(statuses=False, messages_per_second=0)
    people = [wa.Person(f"3371{n:07d}", f"P{n}") for n in range(200)]
    messages = [wa.text(person, f"question {n}") for n in range(5) for person in people]
    response = await world.post(wa.envelope(wa.messages_change(world.business, messages, people)))
    assert response.status_code == 200
    sends = await world.sandbox.wait(
        200, kind="send", phone_number_id=world.business.phone_number_id, processed="true", timeout_seconds=40
    )
    await world.until_idle()
    assert len({send["to"] for send in sends}) == 200
    stored = await world.value(
        "select count(*) from messages where account_id = $1 and direction = 'inbound'", world.account["id"]
    )
    assert stored == 1000


async def test_an_image_gets_the_polite_request_and_no_model_call(world: World) -> None:
    customer = world.customer()
    await customer.send_image()
    (reply,) = await customer.wait_for_reply()
    assert reply.text == BAKERY["non_text_reply"]
    assert await world.sandbox.record(kind="generate") == []


async def test_a_button_is_read_as_its_title(world: World) -> None:
    customer = world.customer()
    await customer.press_button("d", "Delivery in Lyon 4")
    (reply,) = await customer.wait_for_reply()
    assert "5 EUR" in reply.text


async def test_reactions_and_unknown_types_are_stored_and_not_answered(world: World) -> None:
    customer = world.customer()
    await customer.react("wamid.x", "👍")
    await customer.write(wa.message(customer.person, "hologram", {"x": 1}))
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    assert conversation["needs_human"] is True
    page = await world.api("GET", f"/conversations/{conversation['id']}/messages")
    assert sorted(m["type"] for m in page["items"] if m["direction"] == "inbound") == ["hologram", "reaction", "text"]
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == 1


async def test_a_customer_without_number_is_answered_by_user_id(world: World) -> None:
    customer = world.customer()
    hidden = wa.Person(None, "Noor", f"NL.{customer.person.wa_id}")
    payload = wa.envelope(wa.messages_change(world.business, [wa.text(hidden, "Where are you?")], [hidden]))
    assert (await world.post(payload)).status_code == 200
    (send,) = await world.sandbox.wait(1, kind="send", to=hidden.user_id)
    assert send["body"]["recipient"] == hidden.user_id


async def test_the_model_reads_the_whole_conversation_with_alternating_roles(world: World) -> None:
    customer = world.customer()
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    await world.until_idle()
    await customer.say("And when do you open on Sunday?")
    await customer.wait_for_reply()
    *_, last = await world.sandbox.record(kind="generate")
    assert [turn["role"] for turn in last["body"]["contents"]] == ["user", "model", "user"]
    assert "Maison Levain" in last["body"]["systemInstruction"]["parts"][0]["text"]


async def test_a_long_reply_is_split_and_sent_in_order(world: World) -> None:
    fallback = "\n\n".join(f"{n} " + "word " * 300 for n in range(3)).strip()[:4096]
    long_text = ("paragraph " * 300 + "\n\n") * 2
    await world.api(
        "PUT", f"/bot/profile?account_id={world.account['id']}", json={"knowledge_base": "", "fallback_text": fallback}
    )
    customer = world.customer()
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    conversation = await world.conversation_of(customer)
    await world.api("POST", f"/conversations/{conversation['id']}/messages", json={"text": long_text}, status=202)
    sends = await world.sandbox.wait(3, kind="send", to=customer.person.wa_id)
    parts = [send["body"]["text"]["body"] for send in sends[1:]]
    assert all(len(part) <= 4096 for part in parts)
    assert "".join(" ".join(parts).split()) == "".join(long_text.split())


async def test_a_person_on_the_phone_silences_the_bot(world: World) -> None:
    customer = world.customer()
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    echo = wa.echo(world.business, str(customer.person.wa_id), "I am Claire, let me help")
    assert (await world.post(wa.envelope(wa.echoes_change(world.business, [echo])))).status_code == 200
    await world.until_idle()
    await customer.say("And when do you open?")
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    assert conversation["bot_enabled"] is False
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == 1
    await world.api("POST", f"/conversations/{conversation['id']}/bot", json={"enabled": True})
    await customer.say("Hello?")
    await customer.wait_for_reply()


async def test_two_hundred_conversations_over_three_replicas_in_order_and_answered_once(world: World) -> None:
    """One message in five is delivered twice, to different replicas; at most one holder of a conversation at a time."""
    await world.sandbox.change_behaviour(statuses=False, messages_per_second=0)
    chance = random.Random(5)
    customers = [world.customer(f"C{n}") for n in range(200)]

    async def talk(customer: wa.Person, n: int) -> None:
        for turn in range(5):
            message = wa.text(customer, f"question {turn} #c{n}t{turn}")
            payload = wa.envelope(wa.messages_change(world.business, [message], [customer]))
            copies = [world.post(payload, replica=(n + turn) % 3)]
            if chance.random() < 0.2:
                copies.append(world.post(payload, replica=(n + turn + 1) % 3))
            assert {response.status_code for response in await asyncio.gather(*copies)} == {200}

    await asyncio.gather(*(talk(customer.person, n) for n, customer in enumerate(customers)))
    await world.until_idle()
    rows = await world.rows(
        """select c.wa_id, r.covers, r.state, r.reply_key, r.fence, r.created_at from replies r
           join conversations v on v.id = r.conversation_id join contacts c on c.id = v.contact_id
           where v.account_id = $1 order by r.created_at""",
        world.account["id"],
    )
    received = await world.rows(
        "select wa_message_id, text from messages where account_id = $1 and direction = 'inbound'", world.account["id"]
    )
    assert len(received) == 1000
    text_of = {row["wa_message_id"]: row["text"] for row in received}
    asked = defaultdict(list)
    for row in rows:
        assert row["state"] == "sent"
        asked[row["wa_id"]] += [text_of[message] for message in row["covers"]]
    # Every message is covered by exactly one reply, in the order it was written.
    for n, customer in enumerate(customers):
        assert asked[customer.person.wa_id] == [f"question {turn} #c{n}t{turn}" for turn in range(5)]
    fences = defaultdict(list)
    for row in rows:
        fences[row["wa_id"]].append(row["fence"])
    assert all(tokens == sorted(set(tokens)) for tokens in fences.values())
    sends = await world.sandbox.record(kind="send", phone_number_id=world.business.phone_number_id)
    keys = [send["callback_data"] for send in sends]
    assert len(keys) == len(set(keys)) == len(rows)
    by_customer = defaultdict(list)
    for send in sends:
        by_customer[send["to"].lstrip("+")].append(send["callback_data"].removesuffix("#0"))
    for row_customer, sent_keys in by_customer.items():
        assert sent_keys == [row["reply_key"] for row in rows if row["wa_id"] == row_customer]
