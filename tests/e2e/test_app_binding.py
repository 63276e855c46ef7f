"""Two businesses with a Meta app each, one Chorus: neither app speaks for the other's number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.sandbox import webhooks as wa
from app.sandbox.webhooks import Business, Person, encode_like_meta, signed_headers
from app.services.app_binding import MAX_NUMBERS
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica

SECRETS = {"11111": "one" * 11, "22222": "two" * 11, "": "one" * 11}
FOREIGN = "chorus_webhook_foreign_numbers_total"


@pytest.fixture
async def api(valkey_url: str, store_url: str) -> AsyncIterator[Replica]:
    named = ",".join(f"{app}:{secret}" for app, secret in SECRETS.items() if app)
    async with one_replica(valkey_url, store_url, meta_app_secret=named, debounce_seconds=0) as api:
        yield api


def a_change(number: str, text: str) -> Any:
    customer = Person("33612345678", "Amina")
    return wa.messages_change(Business(number), [wa.text(customer, text)], [customer])


async def post(api: Replica, app_id: str, *changes: Any) -> httpx.Response:
    raw = encode_like_meta(wa.envelope(*changes))
    return await api.http.post(f"{api.url}/webhook/whatsapp", content=raw, headers=signed_headers(SECRETS[app_id], raw))


async def texts_of(api: Replica, account: dict[str, Any], *, until: str | None = None) -> set[str]:
    """What customers have written to the account, once `until` is there. What was dropped before a later delivery was
    answered will not come either."""
    async with asyncio.timeout(20):
        while True:
            conversations = await api("GET", f"/conversations?account_id={account['id']}")
            pages = [await api("GET", f"/conversations/{each['id']}/messages") for each in conversations["items"]]
            texts = {m["text"] for page in pages for m in page["items"] if m["direction"] == "inbound"}
            if until is None or until in texts:
                return texts
            await asyncio.sleep(0.02)


async def foreign_numbers(api: Replica) -> float:
    lines = (await api.raw("GET", "/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{FOREIGN} "))


async def test_what_an_app_signs_about_another_apps_number_is_dropped_and_the_rest_is_kept(api: Replica) -> None:
    first = await api.new_account()
    second = await api.new_account(app_id="22222")
    before = await foreign_numbers(api)
    changes = [a_change(account["phone_number_id"], "both") for account in (first, second)]
    assert (await post(api, "11111", *changes)).status_code == 200
    assert await texts_of(api, first, until="both") == {"both"}
    assert await texts_of(api, second) == set()
    assert await foreign_numbers(api) == before + 1
    assert (await post(api, "22222", a_change(first["phone_number_id"], "yours"))).status_code == 200
    assert (await post(api, "22222", a_change(second["phone_number_id"], "mine"))).status_code == 200
    assert await texts_of(api, second, until="mine") == {"mine"}
    assert await texts_of(api, first) == {"both"}, "an account without an app is the first one's"


async def test_an_account_changes_its_app_at_once(api: Replica) -> None:
    account = await api.new_account(phone_number_id=NUMBER, access_token=NUMBERS_TOKEN)
    path = f"/accounts/{account['id']}"
    assert account["app_id"] is None
    changed = await api("PATCH", path, json={"app_id": "22222"})
    assert changed["app_id"] == "22222"
    await post(api, "11111", a_change(account["phone_number_id"], "of the former app"))
    await post(api, "22222", a_change(account["phone_number_id"], "of the new app"))
    assert await texts_of(api, account, until="of the new app") == {"of the new app"}
    assert (await api("PATCH", path, json={"app_id": None}))["app_id"] is None
    await post(api, "11111", a_change(account["phone_number_id"], "of the first app"))
    assert await texts_of(api, account, until="of the first app") == {"of the new app", "of the first app"}
    await api.refused("PATCH", path, status=422, json={"app_id": "no number"})


async def test_a_number_without_an_account_waits_for_one_as_ever(api: Replica) -> None:
    assert (await post(api, "22222", a_change("999000111222333", "early"))).status_code == 200
    async with asyncio.timeout(20):
        while not (letters := (await api("GET", "/admin/dead-letters"))["items"]):
            await asyncio.sleep(0.02)
    assert letters[0]["reason"] == "unknown phone_number_id 999000111222333"


async def test_among_too_many_numbers_an_app_reaches_no_number_of_another(api: Replica) -> None:
    first = await api.new_account()
    second = await api.new_account(app_id="22222")
    numbers = [str(999_000_111_222_000 + n) for n in range(MAX_NUMBERS)]
    delivery = [
        a_change(number, "hidden") for number in (first["phone_number_id"], *numbers, second["phone_number_id"])
    ]
    assert (await post(api, "11111", *delivery)).status_code == 200
    assert await texts_of(api, first, until="hidden") == {"hidden"}
    async with asyncio.timeout(20):
        while len(letters := (await api("GET", "/admin/dead-letters?limit=200"))["items"]) < len(delivery) - 1:
            await asyncio.sleep(0.05)
    (letter,) = [each for each in letters if each["phone_number_id"] == second["phone_number_id"]]
    assert letter["reason"] == "beyond the 100 numbers of a delivery that are looked up"
    assert await texts_of(api, second) == set()


async def test_who_sent_a_persons_message_is_recorded_and_shown(api: Replica) -> None:
    account = await api.new_account(owner="ada", phone_number_id=NUMBER, access_token=NUMBERS_TOKEN)
    await api("PUT", f"/accounts/{account['id']}/members/bob", json={"role": "agent"})
    await post(api, "11111", a_change(account["phone_number_id"], "hello"))
    await texts_of(api, account, until="hello")
    (conversation,) = (await api("GET", f"/conversations?account_id={account['id']}"))["items"]
    path = f"/conversations/{conversation['id']}/messages"
    repeated = {"headers": {"Idempotency-Key": "once"}, "json": {"text": "Bob here"}, "status": 202}
    assert (await api("POST", path, user="bob", **repeated))["sent_by"] == "bob"
    assert (await api("POST", path, user="ada", **repeated))["sent_by"] == "bob", "the first one who sent it"
    await api("POST", path, json={"text": "The operator here"}, status=202)
    async with asyncio.timeout(20):
        while len(sent := [m for m in (await api("GET", path))["items"] if m["author"] == "human"]) < 2:
            await asyncio.sleep(0.02)
    assert {message["text"]: message["sent_by"] for message in sent} == {
        "Bob here": "bob", "The operator here": "operator",
    }  # fmt: skip
    others = [message["sent_by"] for message in (await api("GET", path))["items"] if message["author"] != "human"]
    assert set(others) == {None}
