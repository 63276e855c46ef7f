"""Every type of event, from what a customer, a person or Meta does to the receiver; and what it did not take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from app.domain.endpoints import EventType
from app.sandbox import webhooks as wa
from app.sandbox.customers import Customer
from app.sandbox.delivery import WebhookSender
from tests.support.receiving import Receivers, Told, receivers
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica
from tests.support.serving import APP_SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Shop(NamedTuple):
    """An account whose number the sandbox knows, and a customer of it."""

    api: Replica
    outside: Receivers
    account: dict[str, Any]
    customer: Customer
    sender: WebhookSender

    async def meta_says(self, field: str, **value: object) -> None:
        business = wa.Business(NUMBER)
        change = (business, {"field": field, "value": {"phone_number": business.display_phone_number, **value}})
        await self.sender.deliver(wa.envelope(change))

    async def told(self, kind: str, path: str = "/all") -> Told:
        """The first event of that type."""
        async with asyncio.timeout(10):
            while True:
                for told in self.outside.told.get(path, []):
                    if told.type == kind:
                        return told
                await asyncio.sleep(0.02)

    async def listen(self, path: str, *events: str) -> str:
        body = {"url": self.outside.url + path, "events": events}
        made = await self.api("POST", f"/accounts/{self.account['id']}/webhooks", json=body, status=201)
        return f"/accounts/{self.account['id']}/webhooks/{made['id']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(module_stores: tuple[str, str]) -> AsyncIterator[Shop]:
    async with receivers() as outside, one_replica(*module_stores, events_allow_private=True) as api:
        account = await api.new_account(phone_number_id=NUMBER, access_token=NUMBERS_TOKEN, phone_number="+15550783881")
        sender = WebhookSender([f"{api.url}/webhook/whatsapp"], app_secret=APP_SECRET)
        await api.sandbox.set_callbacks([f"{api.url}/webhook/whatsapp"], app_secret=APP_SECRET)
        customer = Customer(sender, "33612345678", "Amina", business=wa.Business(NUMBER), sandbox=api.sandbox)
        yield Shop(api, outside, account, customer, sender)


async def test_each_type_of_event_reaches_a_receiver_that_asked_for_it(shop: Shop) -> None:
    await shop.listen("/all", *EventType)
    await shop.customer.say("Hello, do you have bread?")
    received = await shop.told("message.received")
    assert received.data["message"]["text"] == "Hello, do you have bread?"
    assert received.data["contact"]["wa_id"] == "33612345678"
    talk = received.data["conversation_id"]
    sent = await shop.told("message.sent")
    assert (sent.data["conversation_id"], sent.data["message"]["author"]) == (talk, "bot")
    status = await shop.told("message.status")
    assert status.data["message"]["wa_message_id"] == sent.data["message"]["wa_message_id"]
    await shop.api("POST", f"/conversations/{talk}/bot", json={"enabled": False})
    switched = await shop.told("conversation.bot_switched")
    assert (switched.data["conversation"]["id"], switched.data["conversation"]["bot_enabled"]) == (talk, False)
    await shop.api("POST", f"/conversations/{talk}/bot", json={"enabled": True})
    await shop.api.sandbox.add_fault("gemini", gemini="safety", for_seconds=5)
    await shop.customer.say("What the model refuses")
    needs = await shop.told("conversation.needs_human")
    assert needs.data["conversation"]["id"] == talk
    assert needs.data["conversation"]["needs_human_reason"]
    await shop.meta_says("account_update", event="DISABLED_UPDATE", ban_info={"waba_ban_state": "DISABLE"})
    assert (await shop.told("account.blocked")).data["account"]["blocked_reason"] == "account_locked"
    await shop.meta_says("account_update", event="DISABLED_UPDATE", ban_info={"waba_ban_state": "REINSTATE"})
    assert (await shop.told("account.restored")).data["account"]["id"] == shop.account["id"]
    await shop.api("GET", f"/accounts/{shop.account['id']}/health?refresh=true")
    about = {"event": "REJECTED", "message_template_id": 12, "message_template_name": "promo", "reason": "PROMOTIONAL"}
    await shop.sender.deliver(
        wa.envelope((wa.Business(NUMBER), {"field": "message_template_status_update", "value": about}))
    )
    assert (await shop.told("template.updated")).data["template"] == {
        "id": "12", "name": "promo", "language": None, "field": "message_template_status_update", "event": "REJECTED",
        "words": "a template was rejected", "reason": "PROMOTIONAL",
    }  # fmt: skip
    shop.outside.answers["/gone"] = 410
    gone = await shop.listen("/gone", "conversation.bot_switched")
    await shop.api("POST", f"/conversations/{talk}/bot", json={"enabled": False})
    assert (await shop.told("webhook.disabled")).data["webhook"]["id"] == gone.rpartition("/")[2]
    assert {told.type for told in shop.outside.told["/all"]} == set(EventType)
    order = [told.type for told in shop.outside.told["/all"] if told.data.get("conversation_id") == talk][:3]
    assert order == ["message.received", "message.sent", "message.status"]


async def test_what_a_receiver_did_not_take_is_listed_apart_from_messages_and_replayed(shop: Shop) -> None:
    shop.outside.answers["/refuses"] = 410
    webhook = await shop.listen("/refuses", "message.received")
    await shop.customer.say("Anyone there?")
    async with asyncio.timeout(10):
        while True:
            letters = (await shop.api("GET", "/admin/dead-letters"))["items"]
            letters = [letter for letter in letters if letter.get("webhook_id") == webhook.rpartition("/")[2]]
            if letters:
                break
            await asyncio.sleep(0.02)
    (letter,) = letters
    assert (letter["kind"], letter["id"][0], letter["reason"]) == (
        "event", "e", "refused 410; the webhook is switched off",
    )  # fmt: skip
    assert letter["event_id"] == shop.outside.told["/refuses"][0].id
    assert "Anyone" not in str(letter)
    shown = await shop.api("GET", webhook)
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")
    assert (await shop.api("GET", f"{webhook}/deliveries"))[0]["status"] == 410
    await shop.api("PATCH", webhook, json={"enabled": True})
    shop.outside.answers["/refuses"] = 200
    assert await shop.api("POST", "/admin/dead-letters/replay", json={"ids": [letter["id"]]}) == {"replayed": 1}
    assert await shop.outside.until("/refuses", 1) == [letter["event_id"]]
