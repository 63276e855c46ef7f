"""An account whose token was revoked, over three real replicas: told everywhere, and mended by one PATCH."""

from __future__ import annotations

import asyncio
import time

from app.sandbox.customers import Customer

from .conftest import World

ANSWERED_SECONDS = 5.0


async def test_a_revoked_token_is_told_and_its_replacement_answers_who_waits(world: World) -> None:
    account = world.account
    await world.sandbox.add_account(account["phone_number_id"], "the-right-token")
    customers: list[Customer] = [world.customer() for _ in range(4)]
    for customer in customers:
        await customer.say("Do you have vegan pastries?")

    async with asyncio.timeout(30):
        while (await _listed(world))["blocked_reason"] is None:
            await asyncio.sleep(0.05)
    assert (await _listed(world))["blocked_reason"] == "token_invalid"
    async with asyncio.timeout(15):
        while not (health := await world.api("GET", "/health", replica=2))["accounts"]["blocked"]:
            await asyncio.sleep(0.05)
    assert health["status"] == "degraded"
    assert account["id"] in [named["id"] for named in health["accounts"]["named"]]
    metrics = (await world.http.get(world.fleet.replicas[2].url + "/metrics")).text
    assert 'chorus_account_blocked{reason="token_invalid"} 1.0' in metrics
    customers.append(world.customer())
    await customers[-1].say("Where are you?")

    patched = time.monotonic()
    changed = await world.api("PATCH", f"/accounts/{account['id']}", json={"access_token": "the-right-token"})
    assert (changed["blocked_reason"], changed["blocked_since"]) == (None, None)
    for customer in customers:
        await customer.wait_for_reply()
    assert time.monotonic() - patched < ANSWERED_SECONDS
    await world.until_idle()
    breakers = await world.api("GET", "/admin/breakers")
    assert breakers.get(f"whatsapp_api:{account['phone_number_id']}", {"state": "closed"})["state"] == "closed"


async def _listed(world: World) -> dict[str, str | None]:
    (found,) = [row for row in await world.api("GET", "/accounts", replica=1) if row["id"] == world.account["id"]]
    return dict(found)
