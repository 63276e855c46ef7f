"""An account whose token was revoked, over three real replicas: told everywhere, and mended by one PATCH."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from app.sandbox.customers import Customer
from tests.support.world import World

ANSWERED_SECONDS = 5.0


@pytest.mark.parametrize("seconds", [0, pytest.param(240, marks=[pytest.mark.timed, pytest.mark.timeout(400)])])
async def test_a_revoked_token_is_told_and_its_replacement_answers_who_waits(world: World, seconds: float) -> None:
    account = world.account
    right = f"the-right-token-{seconds}"
    await world.sandbox.add_account(account["phone_number_id"], right)
    customers: list[Customer] = [world.customer() for _ in range(4)]
    for customer in customers:
        await customer.say("Do you have vegan pastries?")

    async with asyncio.timeout(30):
        while (await _listed(world))["blocked_reason"] is None:
            await asyncio.sleep(0.05)
    assert (await _listed(world))["blocked_reason"] == "token_invalid"
    health = await _health(world, 2, blocked=1, status="degraded")
    assert [named["id"] for named in health["accounts"]["named"]] == [account["id"]]
    public = (await world.http.get(world.fleet.replicas[2].url + "/health")).json()
    assert (public["status"], public["accounts"]) == ("degraded", {"blocked": 1})
    metrics = (await world.http.get(world.fleet.replicas[2].url + "/metrics", headers=world.operator)).text
    assert 'chorus_account_blocked{reason="token_invalid"} 1.0' in metrics
    customers.append(world.customer())
    await customers[-1].say("Where are you?")

    await asyncio.sleep(seconds)  # time itself: of refusals, while circuits open for longer and longer
    patched = time.monotonic()
    changed = await world.api("PATCH", f"/accounts/{account['id']}", json={"access_token": right})
    assert (changed["blocked_reason"], changed["blocked_since"]) == (None, None)
    for customer in customers:
        await customer.wait_for_reply()
    waited = time.monotonic() - patched
    print(f"\nblocked for {seconds} s: the last waiting conversation was answered {waited:.2f} s after the PATCH")
    assert waited < ANSWERED_SECONDS
    await world.until_idle()
    breakers = await world.api("GET", "/admin/breakers")
    assert breakers.get(f"whatsapp_api:{account['phone_number_id']}", {"state": "closed"})["state"] == "closed"
    for replica in range(len(world.fleet.replicas)):
        await _health(world, replica, blocked=0, status="ok")


async def _health(world: World, replica: int, *, blocked: int, status: str) -> dict[str, Any]:
    """As soon as the replica has looked, at the accounts and at everything else."""
    async with asyncio.timeout(15):
        while True:
            health = await world.api("GET", "/health", replica=replica)
            if (health["accounts"]["blocked"], health["status"]) == (blocked, status):
                return dict(health)
            await asyncio.sleep(0.05)


async def _listed(world: World) -> dict[str, str | None]:
    (found,) = [row for row in await world.api("GET", "/accounts", replica=1) if row["id"] == world.account["id"]]
    return dict(found)
