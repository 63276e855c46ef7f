"""The database in trouble while customers write: rows locked, slow, away. Real processes; each fails with `Broken`.

python -m tests.chaos.database                 # all of them, as long as issue reports had them, and their figures
python -m tests.chaos.database locked_account
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import httpx

from app.sandbox.webhooks import Business
from tests.support.proxy import proxied

from .scenarios import QUIET_SECONDS, Broken, Stage
from .traffic import Message, Traffic, sender
from .verdict import Verdict, judge
from .world import STATUSES_AFTER_SECONDS, ChaosWorld, running_world

SETTINGS = {"LEASE_SECONDS": "5", "DEBOUNCE_SECONDS": "0.2", "SEND_RECONCILE_SECONDS": "3"}
LATE_SECONDS = 10.0
"""More than a conversation waits for its next try and for a proof together."""
CUSTOMERS_PER_SECOND = 15
RATIO = 1.2
BACK_SECONDS = 2.0
GRACE_SECONDS = 0.1
"""For a machine that carries three replicas, their servers and the driver; far from the seconds that a lock costs."""


@dataclass(frozen=True, slots=True)
class Length:
    """Seconds of the fault."""

    locked: float
    away: float
    silent: float
    """Longer than a call may take, or each is answered in the end and nothing is at stake."""


SHORT, LONG = Length(locked=6, away=4, silent=9), Length(locked=40, away=25, silent=25)


# -- one account's conversations are locked ----------------------------------------------------------------------------


async def locked_account(world: ChaosWorld, length: Length = SHORT) -> str:
    """The other account's customers are answered as fast as before, and pages are shown."""
    stage, (locked, healthy) = Stage(world), world.businesses[:2]
    seconds = length.locked
    known = [stage.conversation(2, locked) for _ in range(2 * world.concurrency)]
    await _ask(stage, [messages[0] for messages in known])
    await world.until_quiet(QUIET_SECONDS)
    without, _ = await asyncio.gather(
        _replies(world, stage, healthy, seconds), _pages(world, [healthy, locked], seconds)
    )
    async with _locked(world, locked):
        await _ask(stage, [messages[1] for messages in known])
        during, pages = await asyncio.gather(
            _replies(world, stage, healthy, seconds), _pages(world, [healthy, locked], seconds)
        )
    ended = time.time()
    verdict = await _rest(world, stage)
    sends = await stage.sends(2, *[messages[1] for messages in known])
    first, *_, last = sorted(at - ended for send in sends if (at := float(str(send["at"]))) > ended)
    if first > BACK_SECONDS:
        raise Broken(f"the first of the locked customers was answered {first:.2f} s after the lock's end")
    before, beside = statistics.median(without), statistics.median(during)
    if beside > RATIO * before + GRACE_SECONDS:
        raise Broken(f"p50 of the other account: {before:.2f} s alone, {beside:.2f} s beside the locked one")
    if failed := len(pages) - pages.count(200):
        raise Broken(f"{failed} of {len(pages)} pages were not shown")
    return (
        f"p50 of the others {before * 1000:.0f} -> {beside * 1000:.0f} ms, {len(pages)} pages, 0 x 503,"
        f" {verdict.replies} replies, {verdict.lost} lost, {verdict.duplicated} twice; of {len(known)} locked ones the"
        f" first was answered {first:.2f} s and the last {last:.2f} s after the lock's end"
    )


@asynccontextmanager
async def _locked(world: ChaosWorld, business: Business) -> AsyncIterator[None]:
    """As somebody in Studio who began a transaction and went for lunch."""
    connection = await asyncpg.connect(world.servers.database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "select from conversations where account_id ="
                " (select id from whatsapp_accounts where phone_number_id = $1) for update",
                business.phone_number_id,
            )
            yield
    finally:
        await connection.close()


async def _pages(world: ChaosWorld, businesses: Sequence[Business], seconds: float) -> list[int]:
    """The statuses of what people look at meanwhile, on every replica."""
    statuses, until = [], asyncio.get_running_loop().time() + seconds
    accounts = await world.api("GET", "/accounts")
    wanted = {business.phone_number_id for business in businesses}
    ids = [account["id"] for account in accounts if account["phone_number_id"] in wanted]
    paths = ["/accounts", *(f"/conversations?account_id={account}" for account in ids)]
    urls = [replica.url + path for replica in world.fleet.replicas for path in paths]
    headers = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
    async with httpx.AsyncClient(timeout=10, headers=headers) as http:
        while asyncio.get_running_loop().time() < until:
            for url in urls:
                statuses.append(await _status(http, url))  # noqa: PERF401  one after the other, as they come
            await asyncio.sleep(0.1)  # time itself: people look now and then
    return statuses


async def _status(http: httpx.AsyncClient, url: str) -> int:
    """0: no answer in time."""
    try:
        return (await http.get(url)).status_code
    except httpx.TimeoutException:
        return 0


# -- away while sends are on their way ---------------------------------------------------------------------------------


async def gone_while_sending(world: ChaosWorld, length: Length = SHORT) -> str:
    """Killed, and started again later."""
    return await _away(world, length.away, world.servers.postgres.kill, world.servers.postgres.start)


async def frozen_while_sending(world: ChaosWorld, length: Length = SHORT) -> str:
    """It answers nothing, and carries out later what was asked before."""
    return await _without_statuses(world, length.silent, world.servers.postgres.pause, world.servers.postgres.resume)


async def slow_while_sending(world: ChaosWorld, length: Length = SHORT) -> str:
    """A second for each statement."""
    async with proxied(world.servers.database_url) as way:
        await world.replace_all({"DATABASE_URL": way.url})
        try:
            return await _without_statuses(
                world,
                length.silent,
                partial(setattr, way, "delay_seconds", 1.0),
                partial(setattr, way, "delay_seconds", 0.0),
            )
        finally:
            await world.replace_all({})


async def _without_statuses(
    world: ChaosWorld, seconds: float, end: Callable[[], object], begin: Callable[[], object]
) -> str:
    """As `_away`, and WhatsApp tells what became of the messages only when all is well again and they were judged."""
    late = seconds + LATE_SECONDS
    await world.sandbox.change_behaviour(**dict.fromkeys(STATUSES_AFTER_SECONDS, late))
    try:
        return await _away(world, seconds, end, begin)
    finally:
        await world.sandbox.change_behaviour(**STATUSES_AFTER_SECONDS)


async def _away(world: ChaosWorld, seconds: float, end: Callable[[], object], begin: Callable[[], object]) -> str:
    """`end` and `begin` are called on a thread of their own: they may wait."""
    stage = Stage(world)
    resending, cautious = world.businesses[:2]
    await _resend(world, resending)
    flagged_before = await _flagged(world)
    talks = [stage.conversation(1, business)[0] for business in (resending, cautious) for _ in range(30)]
    before = (await world.sandbox.summary())["last_seq"]
    slow = await world.sandbox.add_fault("whatsapp", latency_ms=1500, match={"operation": "send"})
    await _ask(stage, talks)
    await world.sandbox.wait(len(talks) // 3, kind="send", after=before)
    await asyncio.to_thread(end)
    try:
        await world.sandbox.remove_fault(slow)
        await asyncio.sleep(seconds)  # statuses come meanwhile, and time to reconcile would run out
    finally:
        await asyncio.to_thread(begin)
    verdict = await _rest(world, stage)
    if verdict.handed_over:
        raise Broken(f"people were called for {verdict.handed_over} customers")
    if flagged := await _flagged(world) - flagged_before:
        raise Broken(f"{len(flagged)} conversations are flagged")
    return f"{verdict.replies} replies, {verdict.lost} lost, {verdict.duplicated} twice, 0 flagged"


async def _flagged(world: ChaosWorld) -> set[str]:
    """Conversations that need a person: in a world that others have used, not only ours."""
    return {str(row["id"]) for row in await world.rows("select id from conversations where needs_human")}


async def _resend(world: ChaosWorld, business: Business) -> None:
    accounts = await world.api("GET", "/accounts")
    (account,) = [item["id"] for item in accounts if item["phone_number_id"] == business.phone_number_id]
    await world.api("PUT", f"/bot/profile?account_id={account}", json={"resend_ambiguous": True})


# -- what they share ---------------------------------------------------------------------------------------------------


async def _ask(stage: Stage, messages: Sequence[Message]) -> None:
    for at in range(0, len(messages), 20):
        await stage.post(*messages[at : at + 20], replica=at // 20 % len(stage.world.fleet.replicas))


async def _replies(world: ChaosWorld, stage: Stage, business: Business, seconds: float) -> list[float]:
    """Seconds from the 200 to the reply's arrival, of an even stream of customers."""
    asked = [stage.conversation(1, business)[0] for _ in range(round(CUSTOMERS_PER_SECOND * seconds))]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    traffic = Traffic(poster, [[message] for message in asked], seed=1, seconds=seconds, lanes=6)
    await traffic.run()
    stage.messages += asked
    sends = await stage.sends(1, *asked, timeout_seconds=90)
    at = {str(send["to"]): float(str(send["at"])) for send in sends}
    return [at[str(message.person.wa_id)] - traffic.accepted[message.id] for message in asked]


async def _rest(world: ChaosWorld, stage: Stage) -> Verdict:
    try:
        await world.until_quiet(2 * QUIET_SECONDS)
    except TimeoutError:
        raise Broken("the queue does not come to rest") from None
    verdict = await judge(world, stage.messages, run=stage.run)
    if verdict.problems:
        raise Broken("; ".join(verdict.problems))
    return verdict


Scenario = Callable[..., Awaitable[Any]]
DATABASE_SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (locked_account, gone_while_sending, frozen_while_sending, slow_while_sending)
}


async def play(names: Sequence[str], length: Length) -> int:
    """Print a line for each; how many broke their promise."""
    broken = 0
    for name in names:
        async with running_world(businesses=2, settings=SETTINGS) as world:
            try:
                said = await DATABASE_SCENARIOS[name](world, length)
            except (Broken, TimeoutError) as exc:
                broken, said = broken + 1, f"BROKEN: {exc}"
        sys.stdout.write(f"{name:<24} {said}\n")
        sys.stdout.flush()
    return broken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.database")
    parser.add_argument("names", nargs="*", help=", ".join(DATABASE_SCENARIOS))
    parser.add_argument("--short", action="store_true", help="seconds instead of tens of seconds")
    chosen = parser.parse_args()
    found = asyncio.run(play(chosen.names or list(DATABASE_SCENARIOS), SHORT if chosen.short else LONG))
    sys.exit(int(found > 0))
