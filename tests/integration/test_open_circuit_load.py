"""Many conversations wait for an open circuit, and everything else goes on as if it were closed: a whole replica."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import httpx
import pytest

from app.core.cache import invalidate_cache_pattern
from app.core.circuit_breaker import CircuitBreaker, gemini_circuit_breaker, whatsapp_account_breakers
from app.core.http_client import close_http_client
from app.demo.bakery import BAKERY
from app.main import create_app
from app.sandbox import webhooks as wa
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import Behaviour, SandboxConfig
from tests.support.serving import APP_SECRET, OPERATOR_KEY, served, settings_of

HEALTH = {"number", "debug_token", "subscribed_apps"}
"""What a look at an account's health asks."""
WAITING = 100
OPEN_SECONDS = 2.0
"""Shorter than any real policy's: what waits comes back so often that it could be in the way."""
STATUSES = 20
QUESTIONS = 10
SLOWER = 5.0
GRACE_SECONDS = 0.5
"""An open circuit may cost others this factor, on top of this: far from the seconds that a queue behind it costs."""

_numbers = count(1)


@dataclass
class Shop:
    """A business; `conversations` of its first customers, by theirs."""

    account: dict[str, Any]
    conversations: dict[str, str] = field(default_factory=dict)

    @property
    def business(self) -> wa.Business:
        return wa.Business(self.account["phone_number_id"])

    def newcomers(self, many: int) -> list[wa.Person]:
        return [wa.Person(f"3363{next(_numbers):07d}", "Amina") for _ in range(many)]


@dataclass
class Town:
    """The replica's interface, WhatsApp and Gemini."""

    http: httpx.AsyncClient
    outside: SandboxClient

    async def new_shop(self) -> Shop:
        number = next(_numbers)
        body = {
            "name": f"Shop {number}", "slug": f"shop-{number}", "phone_number_id": f"7000{number:06d}",
            "access_token": "a-token-of-the-sandbox", "verify_token": f"verify-token-{number}",
        }  # fmt: skip
        account = (await self.http.post("/accounts", json=body)).raise_for_status().json()
        profile = await self.http.put(f"/bot/profile?account_id={account['id']}", json=BAKERY)
        assert profile.status_code == 200, profile.text
        return Shop(account)

    async def deliver(self, change: Any) -> None:
        raw = wa.encode_like_meta(wa.envelope(change))
        async with asyncio.timeout(20):
            while True:  # as Meta does: a busy machine may be late with what a 200 promises
                headers = wa.signed_headers(APP_SECRET, raw)
                answer = await self.http.post("/webhook/whatsapp", content=raw, headers=headers)
                if answer.status_code != 503:
                    break
                await asyncio.sleep(0.02)
        assert answer.status_code == 200

    async def ask(self, shop: Shop, many: int) -> list[wa.Person]:
        people = shop.newcomers(many)
        for person in people:
            await self.deliver(wa.messages_change(shop.business, [wa.text(person, "Do you have rye bread?")], [person]))
        return people

    async def answered(self, shop: Shop, people: list[wa.Person]) -> list[dict[str, Any]]:
        """Their sends, once each of them has one."""
        wanted = {person.wa_id for person in people}
        async with asyncio.timeout(20):
            while True:
                sends = await self.outside.record(kind="send", phone_number_id=shop.account["phone_number_id"])
                if wanted <= {send["to"] for send in sends}:
                    return [send for send in sends if send["to"] in wanted]
                await asyncio.sleep(0.01)

    async def first_customers(self, shop: Shop, many: int) -> list[dict[str, Any]]:
        """Their sends."""
        sends = await self.answered(shop, await self.ask(shop, many))
        page = (await self.http.get(f"/conversations?account_id={shop.account['id']}&limit=100")).json()
        shop.conversations = {item["contact"]["wa_id"]: item["id"] for item in page["items"]}
        return sends

    async def force(self, name: str, action: str) -> None:
        (await self.http.post(f"/admin/breakers/{name}", json={"action": action, "why": "test"})).raise_for_status()

    # -- what goes on meanwhile: seconds

    async def statuses_applied(self, shop: Shop, sends: list[dict[str, Any]]) -> float:
        """From the first of these webhooks to the last conversation that shows its message as read."""
        began = time.monotonic()
        for send in sends:
            await self.deliver(
                wa.statuses_change(shop.business, [wa.status(send["wamid"], "read", recipient=send["to"])])
            )
        async with asyncio.timeout(20):
            for send in sends:
                while await self._status(shop.conversations[send["to"]], send["wamid"]) != "read":
                    await asyncio.sleep(0.005)
        return time.monotonic() - began

    async def _status(self, conversation_id: str, wamid: str) -> str:
        items = (await self.http.get(f"/conversations/{conversation_id}/messages")).json()["items"]
        return next(item["status"] for item in items if item["wa_message_id"] == wamid)

    async def pages_answered(self, shop: Shop) -> float:
        began = time.monotonic()
        for _ in range(QUESTIONS):
            for path in ("/health", "/health/ready", f"/conversations?account_id={shop.account['id']}", "/admin/queue"):
                assert (await self.http.get(path)).status_code == 200
        return time.monotonic() - began

    async def questions_answered(self, shop: Shop) -> float:
        began = time.monotonic()
        await self.answered(shop, await self.ask(shop, QUESTIONS))
        return time.monotonic() - began


@pytest.fixture
async def town(valkey_url: str, store_url: str) -> AsyncIterator[Town]:
    config = SandboxConfig(behaviour=Behaviour(statuses=False, messages_per_second=0))
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with running_sandbox(config) as sandbox:
        settings = settings_of(
            sandbox.url, valkey_url, store_url, debounce_seconds=0, whatsapp_messages_per_second=1000
        )
        async with (
            served(create_app(settings)) as base,
            httpx.AsyncClient(base_url=base, headers=operator, timeout=20) as http,
        ):
            yield Town(http, SandboxClient(sandbox.url))
        await close_http_client()
    await invalidate_cache_pattern("*")


def postponed(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    lines = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("kind") == "message"]
    return [line for line in lines if line["outcome"] == "postponed"]


async def all_wait(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(20):
        while len(postponed(caplog)) < WAITING:
            await asyncio.sleep(0.01)
    assert (await town.http.get("/admin/queue")).json()["pending"] == WAITING


def opens_briefly(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "policy", replace(breaker.policy, open_seconds=OPEN_SECONDS))


async def waited_unharmed(town: Town, caplog: pytest.LogCaptureFixture, *, for_seconds: float) -> None:
    """Nobody was looked at more often than the circuit's time allows, and no attempt was counted."""
    lines = postponed(caplog)
    assert {line["attempt"] for line in lines} == {1}, "not their failure"
    assert len(lines) <= WAITING * (2 + for_seconds / OPEN_SECONDS)
    assert (await town.http.get("/admin/queue")).json()["dead"] == 0


async def test_with_the_models_circuit_open_statuses_api_and_health_go_on(town: Town, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    shop = await town.new_shop()
    sends = await town.first_customers(shop, 2 * STATUSES)
    closed_statuses = await town.statuses_applied(shop, sends[:STATUSES])
    closed_pages = await town.pages_answered(shop)

    opens_briefly(gemini_circuit_breaker, monkeypatch)
    asked = len(await town.outside.record(kind="generate"))
    await town.force("gemini", "open")
    began = time.monotonic()
    people = await town.ask(shop, WAITING)
    await all_wait(town, caplog)
    assert await town.statuses_applied(shop, sends[STATUSES:]) <= SLOWER * closed_statuses + GRACE_SECONDS
    assert await town.pages_answered(shop) <= SLOWER * closed_pages + GRACE_SECONDS
    await waited_unharmed(town, caplog, for_seconds=time.monotonic() - began)
    assert len(await town.outside.record(kind="generate")) == asked, "the model was not asked"

    await town.force("gemini", "auto")
    assert len(await town.answered(shop, people)) == WAITING, "once each"


async def test_with_one_accounts_circuit_open_another_account_is_answered(town: Town, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    blocked, other = await town.new_shop(), await town.new_shop()
    sends = await town.first_customers(other, 2 * STATUSES)
    closed_answers = await town.questions_answered(other)
    closed_statuses = await town.statuses_applied(other, sends[:STATUSES])
    closed_pages = await town.pages_answered(other)

    number = blocked.account["phone_number_id"]
    opens_briefly(whatsapp_account_breakers.get(number), monkeypatch)
    await town.force(f"whatsapp_api:{number}", "open")
    began = time.monotonic()
    people = await town.ask(blocked, WAITING)
    await all_wait(town, caplog)
    assert await town.questions_answered(other) <= SLOWER * closed_answers + GRACE_SECONDS
    assert await town.statuses_applied(other, sends[STATUSES:]) <= SLOWER * closed_statuses + GRACE_SECONDS
    assert await town.pages_answered(other) <= SLOWER * closed_pages + GRACE_SECONDS
    await waited_unharmed(town, caplog, for_seconds=time.monotonic() - began)
    asked = await town.outside.record(phone_number_id=number)
    assert [entry for entry in asked if entry["kind"] not in HEALTH] == [], "nothing was sent for it, no answer bought"

    await town.force(f"whatsapp_api:{number}", "auto")
    assert len(await town.answered(blocked, people)) == WAITING, "once each"
