"""An account's health and its cost over HTTP: what members see, strangers do not, and what a change does to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.support.replica import Replica, one_replica

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING = {"day": None, "answers": 0, "prompt_tokens": 0, "output_tokens": 0, "messages": 0}
TOKEN = "EAAG-a-token-that-opens-the-number"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: each has an account of its own."""
    async with one_replica(*module_stores) as api:
        yield api


async def until(api: Replica, path: str, **wanted: object) -> dict[str, Any]:
    """The health, as soon as it is so."""
    async with asyncio.timeout(15):
        while True:
            health: dict[str, Any] = await api("GET", path)
            if all(health[name] == value for name, value in wanted.items()):
                return health
            await asyncio.sleep(0.05)


async def test_an_account_is_checked_by_itself_and_after_a_new_token_at_once(api: Replica) -> None:
    account = await api.new_account(owner="ada", access_token=TOKEN)
    path = f"/accounts/{account['id']}/health"
    unknown = await until(api, path, verdict="unhealthy")  # the sandbox does not know the number
    assert unknown["problems"][0]["code"] == unknown["blocked_reason"] == "number_not_registered"
    assert (unknown["number"]["said"]["code"], unknown["number"]["said"]["subcode"]) == (100, 33)
    await api.sandbox.add_account(account["phone_number_id"], TOKEN, display_phone_number="33123456789")
    await api("PATCH", f"/accounts/{account['id']}", json={"access_token": TOKEN})
    well = await until(api, path, verdict="healthy")
    assert well == await api("GET", path, user="ada")
    assert (well["problems"], well["failure"], well["blocked_reason"]) == ([], None, None)
    assert (well["token"]["valid"], well["token"]["expires_at"]) == (True, None)
    assert (well["number"]["display_phone_number"], well["number"]["quality_rating"]) == ("33123456789", "GREEN")
    assert (well["subscription"]["subscribed"], well["circuit"]["state"]) == (True, "closed")
    assert well["last_inbound_at"] is None
    assert TOKEN not in str(well)


async def test_who_asks_now_gets_metas_present_words(api: Replica) -> None:
    await api.sandbox.add_account("9111000001", TOKEN, quality_rating="RED")
    account = await api.new_account(owner="ada", phone_number_id="9111000001", access_token=TOKEN)
    now = await api("GET", f"/accounts/{account['id']}/health?refresh=true", user="ada")
    assert (now["verdict"], now["number"]["quality_rating"]) == ("attention", "RED")
    assert [problem["code"] for problem in now["problems"]] == ["quality_low"]


async def test_members_see_it_and_strangers_do_not(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/health"
    await api("PUT", f"/accounts/{account['id']}/members/bob", user="ada", json={"role": "viewer"})
    assert (await api("GET", path, user="bob"))["account_id"] == account["id"]
    for query in ("", "?refresh=true"):
        assert (await api.refused("GET", path + query, user="eve", status=404))["code"] == "account_not_found"
    assert (await api.refused("GET", path + "?fresh=1", user="ada", status=422))["field"] == "fresh"
    assert (await api.refused("GET", path + "?refresh=maybe", user="ada", status=422))["field"] == "refresh"


async def test_the_days_of_an_account_are_shown_with_those_that_cost_nothing(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/usage"
    days = await api("GET", path + "?days=3", user="ada")
    today = datetime.now(UTC).date()
    assert today - timedelta(days=1) <= date.fromisoformat(days[0]["day"]) <= today  # it may be midnight
    assert [(date.fromisoformat(days[0]["day"]) - date.fromisoformat(row["day"])).days for row in days] == [0, 1, 2]
    assert all({**row, "day": None} == NOTHING for row in days)
    assert len(await api("GET", path, user="ada")) == 30
    for wrong in ("0", "367", "x"):
        assert (await api.refused("GET", f"{path}?days={wrong}", user="ada", status=422))["field"] == "days"
    assert (await api.refused("GET", path, user="eve", status=404))["code"] == "account_not_found"


async def test_owners_give_an_account_a_budget_and_take_it_away(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}"
    assert account["daily_token_budget"] is None
    await api("PUT", f"{path}/members/bob", user="ada", json={"role": "agent"})
    for budget in (5000, None):
        assert (await api("PATCH", path, user="ada", json={"daily_token_budget": budget}))[
            "daily_token_budget"
        ] == budget
    for wrong in (0, -1, 1.5, "5", True, 10**16):
        error = await api.refused("PATCH", path, user="ada", status=422, json={"daily_token_budget": wrong})
        assert error["field"] == "daily_token_budget"
    await api.refused("PATCH", path, user="bob", status=403, json={"daily_token_budget": 1})
