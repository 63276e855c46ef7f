"""What the shared cache saves: customers who write, a panel that reads profiles, an owner who edits one now and then.

Every look-up of a profile or an account would be a read of the database; with the cache only the loads are.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from itertools import count
from typing import Any

from app.core.http_client import close_http_client
from app.demo.bakery import BAKERY
from app.localhost.fleet import LocalFleet
from app.sandbox.client import SandboxClient
from app.sandbox.webhooks import Business, Person, encode_like_meta, envelope, messages_change, text
from tests.bench.end_to_end import TIMEOUT_SECONDS, call_api
from tests.bench.machine import Stage
from tests.bench.report import Bar
from tests.bench.traffic import http_request, post

REPLICAS = 2
ACCOUNTS = 5
CUSTOMERS = 12
SECONDS = 10.0
EDIT_SECONDS = 2.0
IDLE_SECONDS = 30.0
FOUND = ("hits", "shared_hits", "coalesced", "misses")


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    with stage.fleet(replicas=REPLICAS, DEBOUNCE_SECONDS="0") as fleet:
        figures = asyncio.run(_measure(fleet, stage.keys.app_secret))
    looked_up, loads = figures["looked_up"], figures["loads"]
    saved = 100 * (1 - loads / looked_up)
    made = ", ".join(f"{figures[what]} {what}" for what in ("messages", "profile reads", "edits"))
    return [
        f"{REPLICAS} replicas, {ACCOUNTS} accounts, {CUSTOMERS} customers at once for {SECONDS:.0f} s: {made}",
        f"  {looked_up:,} look-ups of profiles and accounts, {loads:,} reads of the database",
    ], [Bar("cache, fall of database reads in the mixed load", saved, 80, " %")]


async def _measure(fleet: LocalFleet, app_secret: str) -> dict[str, int]:
    await SandboxClient(fleet.sandbox.url).change_behaviour(pair_interval_seconds=0, messages_per_second=0)
    accounts = [await _account(fleet, number) for number in range(ACCOUNTS)]
    made = dict.fromkeys(("messages", "profile reads", "edits"), 0)
    until = time.monotonic() + SECONDS
    numbers = count()

    async def customer(n: int) -> None:
        replica = fleet.replicas[n % REPLICAS]
        with socket.create_connection(("127.0.0.1", replica.port), timeout=TIMEOUT_SECONDS) as connection:
            while time.monotonic() < until:
                person = Person(f"3364{next(numbers):07d}", f"Customer {n}")
                change = messages_change(
                    Business(_number(n % ACCOUNTS)), [text(person, "Do you take cards?")], [person]
                )
                await asyncio.to_thread(post, connection, http_request(encode_like_meta(envelope(change)), app_secret))
                made["messages"] += 1
                await asyncio.sleep(random.uniform(0.05, 0.15))

    async def panel() -> None:
        while time.monotonic() < until:
            path = f"/bot/profile?account_id={random.choice(accounts)}"
            await call_api(fleet, "GET", path, replica=random.randrange(REPLICAS))
            made["profile reads"] += 1
            await asyncio.sleep(0.05)

    async def owner() -> None:
        while time.monotonic() < until:
            path = f"/bot/profile?account_id={random.choice(accounts)}"
            await call_api(fleet, "PUT", path, replica=random.randrange(REPLICAS), hours=f"since {time.time():.0f}")
            made["edits"] += 1
            await asyncio.sleep(EDIT_SECONDS)

    try:
        before = await _counts(fleet)
        await asyncio.gather(*(customer(n) for n in range(CUSTOMERS)), panel(), owner())
        async with asyncio.timeout(IDLE_SECONDS):
            while (await call_api(fleet, "GET", "/admin/queue"))["pending"]:
                await asyncio.sleep(0.1)
        after = await _counts(fleet)
    finally:
        await close_http_client()
    return made | {name: after[name] - before[name] for name in after}


async def _account(fleet: LocalFleet, number: int) -> str:
    account = await call_api(
        fleet, "POST", "/accounts", name=f"Bench {number}", slug=f"bench-{number}", phone_number_id=_number(number),
        access_token="a-token-of-the-sandbox", verify_token=f"a-verify-token-{number}",
    )  # fmt: skip
    await call_api(fleet, "PUT", f"/bot/profile?account_id={account['id']}", **BAKERY)
    return str(account["id"])


def _number(n: int) -> str:
    return f"1063405423{n:05d}"


async def _counts(fleet: LocalFleet) -> dict[str, int]:
    stats: list[dict[str, Any]] = [
        await call_api(fleet, "GET", "/admin/cache", replica=replica) for replica in range(REPLICAS)
    ]
    return {
        "looked_up": sum(each[name] for each in stats for name in FOUND),
        "loads": sum(each["loads"] for each in stats),
    }
