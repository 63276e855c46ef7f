"""Asking for a person, over three real replicas: the bot is silent, a phone of the business hears of it, people take
over and give back."""

from __future__ import annotations

import asyncio

from app.demo.bakery import BAKERY
from tests.support.world import World


async def test_a_customer_asks_for_a_person_and_a_phone_of_the_business_hears_of_it(world: World) -> None:
    staff, customer = world.customer("Claire"), world.customer("Amina")
    profile = f"/bot/profile?account_id={world.account['id']}"
    await world.api("PUT", profile, json={"handover_notify_number": f"+{staff.person.wa_id}"})
    await staff.say("Where are you?")
    await staff.wait_for_reply()

    await customer.say("Can I talk to a human, please?")
    (reply,) = await customer.wait_for_reply()
    assert reply.text == "Of course. A colleague has been told and will answer you here."
    told = await world.sandbox.wait(2, kind="send", to=staff.person.wa_id, timeout_seconds=15)
    assert told[-1]["text"] == f"Amina (+{customer.person.wa_id}) is waiting for a person: asked for one."

    await customer.say("Do you have vegan pastries?")
    await world.until_idle()
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == 1, "the bot is silent"
    async with asyncio.timeout(10):
        while (conversation := await world.conversation_of(customer))["handover_notice"] is None:
            await asyncio.sleep(0.05)
    assert (conversation["needs_human"], conversation["needs_human_reason"]) == (True, "customer_asked")
    assert (conversation["bot_enabled"], conversation["handover_notice"]) == (True, "sent")
    assert conversation["needs_human_since"] < conversation["bot_paused_until"]

    back = await world.api("POST", f"/conversations/{conversation['id']}/bot", json={"enabled": True}, replica=1)
    assert (back["needs_human"], back["bot_paused_until"], back["handover_notice"]) == (False, None, None)
    await customer.say("Do you have vegan pastries?")
    assert "apple turnover" in (await customer.wait_for_reply())[-1].text


async def test_a_text_that_whatsapp_accepts_and_does_not_deliver_is_told_in_the_conversation(world: World) -> None:
    staff, customer = world.customer("Claire"), world.customer("Amina")
    profile = f"/bot/profile?account_id={world.account['id']}"
    await world.api("PUT", profile, json={"handover_notify_number": f"+{staff.person.wa_id}"})
    await staff.say("Where are you?")
    await staff.wait_for_reply()
    await world.sandbox.add_fault("whatsapp", failed_status="131026", match={"recipient": staff.person.wa_id})

    await customer.say("Can I talk to a human, please?")
    await customer.wait_for_reply()
    async with asyncio.timeout(20):
        while (conversation := await world.conversation_of(customer))["handover_notice"] != "failed":
            await asyncio.sleep(0.05)
    assert conversation["handover_notice_error"] == {"code": 131026}
    assert conversation["needs_human"]


async def test_a_keyword_is_heard_by_every_replica_as_soon_as_it_is_in_the_profile(world: World) -> None:
    profile = f"/bot/profile?account_id={world.account['id']}"
    first, second = world.customer(), world.customer()
    await first.say("Mayday: do you have vegan pastries?")
    assert "apple turnover" in (await first.wait_for_reply())[-1].text
    await world.api("PUT", profile, json={"handover_keywords": ["mayday"]})
    await second.say("Mayday: do you have vegan pastries?")
    assert (await second.wait_for_reply())[-1].text == BAKERY["fallback_text"]
