"""Webhooks of an account over HTTP: owners change them, members see them without the secret, strangers see nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from app.services.endpoint_service import MOST_TESTS
from tests.support.replica import Replica, one_replica

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"url": "https://receiver.example/chorus", "events": ["message.sent", "conversation.needs_human"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: each has an account of its own."""
    async with one_replica(*module_stores) as api:
        yield api


async def test_an_owner_makes_changes_and_deletes_one_and_the_secret_is_shown_once(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/webhooks"
    made = await api("POST", path, user="ada", json=BODY, status=201)
    assert made["secret"].startswith("whsec_")
    assert (made["url"], made["events"], made["enabled"]) == (BODY["url"], BODY["events"], True)
    one = f"{path}/{made['id']}"
    shown = await api("GET", one, user="ada")
    assert made == {**shown, "secret": made["secret"]}
    assert await api("GET", path, user="ada") == [shown]
    off = await api("PATCH", one, user="ada", json={"enabled": False, "events": ["account.blocked"]})
    assert (off["enabled"], off["disabled_reason"], off["events"]) == (False, "by_hand", ["account.blocked"])
    assert off["secret"] is None
    turned = await api("PATCH", one, user="ada", json={"enabled": True, "rotate_secret": True})
    assert (turned["enabled"], turned["disabled_reason"]) == (True, None)
    assert turned["secret"].startswith("whsec_")
    assert turned["secret"] != made["secret"]
    left = datetime.fromisoformat(turned["previous_secret_until"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    leaked = await api("PATCH", one, user="ada", json={"rotate_secret": True, "overlap_hours": 0})
    assert leaked["previous_secret_until"] is None
    await api("DELETE", one, user="ada", status=204)
    assert (await api.refused("GET", one, user="ada", status=404))["code"] == "webhook_not_found"
    assert await api("GET", path, user="ada") == []


async def test_agents_and_viewers_read_only_and_strangers_see_nothing(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/webhooks"
    one = f"{path}/{(await api('POST', path, user='ada', json=BODY, status=201))['id']}"
    changes = (
        ("POST", path, {"json": BODY}), ("PATCH", one, {"json": {"enabled": False}}), ("DELETE", one, {}),
        ("POST", f"{one}/test", {}),
    )  # fmt: skip
    for role in ("agent", "viewer"):
        await api("PUT", f"/accounts/{account['id']}/members/bob", user="ada", json={"role": role})
        for read in (path, one, f"{one}/deliveries"):
            shown = str(await api("GET", read, user="bob"))
            assert "'secret'" not in shown
            assert "whsec_" not in shown
        for method, target, more in changes:
            assert (await api.refused(method, target, user="bob", status=403, **more))["code"] == "forbidden"
    for method, target, more in (*changes, ("GET", path, {}), ("GET", one, {}), ("GET", f"{one}/deliveries", {})):
        assert (await api.refused(method, target, user="eve", status=404, **more))["code"] == "account_not_found"


async def test_a_webhook_of_another_account_does_not_exist(api: Replica) -> None:
    mine, other = [f"/accounts/{(await api.new_account(owner='ada'))['id']}/webhooks" for _ in range(2)]
    made = await api("POST", mine, user="ada", json=BODY, status=201)
    for method, target, more in (
        ("GET", "", {}), ("PATCH", "", {"json": {"enabled": False}}), ("DELETE", "", {}), ("POST", "/test", {}),
        ("GET", "/deliveries", {}),
    ):  # fmt: skip
        wrong = f"{other}/{made['id']}{target}"
        assert (await api.refused(method, wrong, user="ada", status=404, **more))["code"] == "webhook_not_found"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "http://receiver.example/"), ("url", "https://127.0.0.1/"), ("url", "https://2130706433/"),
        ("url", "https://localhost/"), ("url", ""), ("url", None), ("events", []), ("events", ["message.eaten"]),
        ("events", ["message.sent", "message.sent"]), ("secret", "mine"),
    ],
)  # fmt: skip
async def test_what_no_event_may_be_sent_to_is_refused_by_name(api: Replica, field: str, value: object) -> None:
    path = f"/accounts/{(await api.new_account())['id']}/webhooks"
    assert (await api.refused("POST", path, json=BODY | {field: value}, status=422))["field"].startswith(field)
    one = f"{path}/{(await api('POST', path, json=BODY, status=201))['id']}"
    assert (await api.refused("PATCH", one, json={field: value}, status=422))["field"].startswith(field)


async def test_an_account_has_twenty_at_most(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account())['id']}/webhooks"
    for _ in range(20):
        await api("POST", path, json=BODY, status=201)
    assert (await api.refused("POST", path, json=BODY, status=409))["code"] == "too_many_webhooks"


async def test_a_test_is_sent_at_once_and_noted_among_the_deliveries(api: Replica) -> None:
    """There is no such name: a receiver that cannot be reached is an answer, too."""
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/webhooks"
    body = BODY | {"url": "https://no-such-name.invalid/"}
    one = f"{path}/{(await api('POST', path, user='ada', json=body, status=201))['id']}"
    told = await api("POST", f"{one}/test", user="ada")
    assert (told["outcome"], told["status"], told["text"]) == ("unreachable", None, "")
    (delivery,) = await api("GET", f"{one}/deliveries?limit=5", user="ada")
    assert (delivery["type"], delivery["outcome"], delivery["status"]) == ("webhook.test", "unreachable", None)
    assert (await api("GET", one, user="ada"))["failing_since"] is None  # a test counts for nothing


async def test_an_account_tests_its_webhooks_only_so_often(api: Replica) -> None:
    """Else its owner sends requests without end, to any place, over the connections that all accounts share."""
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/webhooks"
    body = BODY | {"url": "https://no-such-name.invalid/"}
    both = [f"{path}/{(await api('POST', path, user='ada', json=body, status=201))['id']}" for _ in range(2)]
    for n in range(MOST_TESTS):
        await api("POST", f"{both[n % 2]}/test", user="ada")
    refused = await api.refused("POST", f"{both[0]}/test", user="ada", status=429)
    assert refused["code"] == "rate_limited"
