"""One account's model and profile are its own affair: a whole replica, over HTTP."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import asyncpg
import pytest

from app import wiring
from app.core.circuit_breaker import BreakerFleet, gemini_circuit_breaker
from tests.support.breaker_kit import PATIENT
from tests.support.patience import Within

from .test_open_circuit_load import Town, town

__all__ = ["town"]
OWN = "gemini-2.5-flash"


async def save(town: Town, account_id: str, **changes: Any) -> Any:
    return await town.http.put(f"/bot/profile?account_id={account_id}", json=changes)


async def answers(town: Town, shop: Any, many: int) -> float:
    """Seconds until all of so many new customers have theirs."""
    started = asyncio.get_running_loop().time()
    await town.answered(shop, await town.ask(shop, many))
    return asyncio.get_running_loop().time() - started


@pytest.fixture
def patient_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "BreakerFleet", partial(BreakerFleet, timings=PATIENT))


@pytest.mark.usefixtures("patient_circuits")
async def test_a_model_that_is_down_is_shown_by_name_and_opens_nothing_for_others(town: Town, within: Within) -> None:
    broken, other = await town.new_shop(), await town.new_shop()
    await answers(town, other, 5)
    assert (await save(town, broken.account["id"], model=OWN)).status_code == 200
    await town.outside.add_fault("gemini", gemini="unavailable", match={"model": OWN})
    await town.ask(broken, 5)
    name = f"gemini_api:{OWN}"
    async with asyncio.timeout(10):
        while (listed := (await town.http.get("/admin/breakers")).json()).get(name, {}).get("state") != "open":
            await asyncio.sleep(0.02)
    assert listed["gemini"]["state"] == "closed"
    assert await answers(town, other, 10) < within(5)
    assert gemini_circuit_breaker.snapshot().failure_count == 0
    async with asyncio.timeout(10):
        while not (shown := (await town.http.get("/health")).json())["model_circuits"]:
            await asyncio.sleep(0.05)
    assert [(one["name"], one["state"]) for one in shown["model_circuits"]] == [(name, "open")]
    assert shown["circuit_breakers"]["gemini"]["state"] == "closed"
    assert shown["status"] == "ok", "not an outage of the service"
    metrics = (await town.http.get("/metrics")).text
    assert 'chorus_circuit_breaker_state{name="gemini_api:*",state="open"} 1.0' in metrics
    assert OWN not in metrics


@pytest.mark.parametrize(("changes", "field"), [
    ({"max_output_tokens": 2049}, "max_output_tokens"),
    ({"custom_fields": {"menu": "x" * 66_000}}, "custom_fields"),
    ({"description": "x" * 65_537}, "description"),
    ({"knowledge_base": "x" * 40_000, "template_config": {"faq": "y" * 30_000}}, "knowledge_base"),
])  # fmt: skip
async def test_a_profile_that_costs_too_much_is_refused_by_the_name_of_its_field(
    town: Town, changes: dict[str, Any], field: str
) -> None:
    shop = await town.new_shop()
    refused = await save(town, shop.account["id"], **changes)
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == field
    assert (await save(town, shop.account["id"], max_output_tokens=2048, custom_fields={"a": "b"})).status_code == 200


async def test_a_stored_profile_with_too_much_is_cut_for_the_model(town: Town, store_url: str) -> None:
    shop = await town.new_shop()
    connection = await asyncpg.connect(store_url)
    await connection.execute(
        "update bot_profiles set max_output_tokens = 65536, description = repeat('d', 3000000) where account_id = $1",
        shop.account["id"],
    )
    await connection.close()
    await answers(town, shop, 1)
    (asked,) = await town.outside.record(kind="generate")
    assert asked["body"]["generationConfig"]["maxOutputTokens"] == 2048
    assert len(asked["body"]["systemInstruction"]["parts"][0]["text"]) < 80_000


async def test_the_list_of_accounts_shows_what_today_cost(town: Town) -> None:
    busy, idle = await town.new_shop(), await town.new_shop()
    await answers(town, busy, 3)
    spent = {account["id"]: account["spent_today"] for account in (await town.http.get("/accounts")).json()}
    assert spent[idle.account["id"]] == {
        "answers": 0, "input_tokens": 0, "output_tokens": 0, "limits_reached": [],
    }  # fmt: skip
    assert spent[busy.account["id"]]["answers"] == 3
    assert spent[busy.account["id"]]["input_tokens"] > 1000
