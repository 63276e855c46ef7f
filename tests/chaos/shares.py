"""What a healthy account feels of another one that fills the queue: a refused token, the longest messages.

python -m tests.chaos.shares            # the table at full length
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.sandbox import webhooks as wa

from .scenarios import Stage
from .traffic import Message, Post, TimedSender, sender
from .world import ChaosWorld

SETTINGS = {
    "LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2", "QUEUE_MAX_PENDING": "400", "QUEUE_MAX_BYTES": "8000000",
}  # fmt: skip
"""Small enough to be filled in seconds, at the rate at which an account would fill the default in hours."""
RATIO = 1.5
QUIET_PER_SECOND = 10
LOUD_PER_SECOND = 1.2
LONG_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class Shares:
    """Seconds from the 200 to the arrival of the reply, of each customer of the healthy account, by what the other
    account did meanwhile; and every POST of both."""

    without: Sequence[float]
    during: dict[str, Sequence[float]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    diverted: dict[str, int] = field(default_factory=dict)

    def ratio(self, way: str) -> float:
        return p95(self.during[way]) / p95(self.without)

    def problems(self) -> list[str]:
        found = [f"{way}: a ratio of {self.ratio(way):.2f}" for way in self.during if self.ratio(way) > RATIO]
        found += [f"{way}: {count} POSTs refused" for way, count in self.refused.items() if count]
        return found + [f"{way}: the queue was never filled" for way, count in self.diverted.items() if not count]

    def table(self) -> str:
        rows = [("healthy account, webhook -> send p95", f"{p95(self.without) * 1000:.0f} ms ({len(self.without)})")]
        for way, seconds in self.during.items():
            rows.append((f"  while another one {way}", f"{p95(seconds) * 1000:.0f} ms, ratio {self.ratio(way):.2f}"))
            rows.append(
                ("    POSTs refused, conversations kept for a person", f"{self.refused[way]}, {self.diverted[way]}")
            )
        return "\n".join(f"{name:<50} {value}" for name, value in rows)


def p95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(len(seconds) * 0.95) - 1]


async def measure(world: ChaosWorld, *, seconds: float) -> Shares:
    """`seconds` of the healthy account alone, then beside each way in which the other one fills the queue."""
    shares = Shares(await _quiet(world, seconds))
    for way, loud in {"is refused by WhatsApp": _refused_token, "sends the longest texts": _longest_texts}.items():
        poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret)
        before = await _recorded(world)
        async with asyncio.timeout(10 * seconds + 60):
            fault = await loud(world, poster)
            # It was filled within a second, for which the machine is busy; an account takes hours for that.
            await _until_settled(world)
            going_on = asyncio.create_task(_write_on(world, poster))
            shares.during[way] = await _quiet(world, seconds, poster)
            going_on.cancel()
            await _until_recorded(world, before + 1)
        shares.refused[way] = _refusals(poster.posts)
        shares.diverted[way] = await _recorded(world) - before
        await world.sandbox.remove_fault(fault)
        await _forget_the_loud(world)
    return shares


async def _quiet(world: ChaosWorld, seconds: float, poster: TimedSender | None = None) -> list[float]:
    """One customer after the other, each in a POST of their own, timed from the 200."""
    stage, asked = Stage(world), []
    poster = poster or sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret)
    accepted: dict[str, float] = {}
    started = time.monotonic()
    for n in range(round(QUIET_PER_SECOND * seconds)):
        message = stage.conversation(1, world.businesses[1])[0]
        await poster.deliver(_payload(message))
        accepted[str(message.person.wa_id)] = time.time()
        asked.append(message)
        await asyncio.sleep(started + (n + 1) / QUIET_PER_SECOND - time.monotonic())
    sends = await stage.sends(1, *asked, timeout_seconds=60)
    return [float(str(send["at"])) - accepted[str(send["to"])] for send in sends]


async def _until_settled(world: ChaosWorld) -> None:
    """No question to the model for a second: what was accepted is worked off, or waits."""
    seen, since = -1, time.monotonic()
    async with asyncio.timeout(60):
        while time.monotonic() - since < 1.0:
            asked = (await world.sandbox.summary())["kinds"].get("generate", {}).get("received", 0)
            if asked != seen:
                seen, since = asked, time.monotonic()
            await asyncio.sleep(0.05)


async def _write_on(world: ChaosWorld, poster: TimedSender) -> None:
    """The other account's customers, at the rate of the report."""
    stage = Stage(world)
    while True:
        await poster.deliver(_payload(stage.conversation(1, world.businesses[0])[0]))
        await asyncio.sleep(1 / LOUD_PER_SECOND)


async def _refused_token(world: ChaosWorld, poster: TimedSender) -> str:
    """Its conversations stay in the queue: 300 of them, where it may hold half of 400."""
    loud, stage = world.businesses[0], Stage(world)
    match = {"operation": "send", "phone_number_id": loud.phone_number_id}
    fault = await world.sandbox.add_fault("whatsapp", error="190", match=match)
    for _ in range(60):
        await poster.deliver(_payload(*(stage.conversation(1, loud)[0] for _ in range(5))))
    return fault


async def _longest_texts(world: ChaosWorld, poster: TimedSender) -> str:
    """Two customers whose model hangs, 60 texts of 65,536 characters each: 20 MB, where it may hold half of 8."""
    loud, stage = world.businesses[0], Stage(world)
    fault = await world.sandbox.add_fault("gemini", action="hang_before", match={"system_contains": "Orchard 1"})
    people = [stage.conversation(1, loud)[0].person for _ in range(2)]
    for n in range(60):
        for person in people:
            node = wa.text(person, "é" * LONG_TEXT, id=f"wamid.long-{stage.run}-{person.wa_id}-{n}")
            await poster.deliver(wa.envelope(wa.messages_change(loud, [node], [person])))
    return fault


def _payload(*messages: Message) -> wa.JsonObject:
    business = messages[0].business
    people = [message.person for message in messages]
    return wa.envelope(wa.messages_change(business, [message.node() for message in messages], people))


def _refusals(posts: Sequence[Post]) -> int:
    return sum(post.status != 200 for post in posts)


async def _recorded(world: ChaosWorld) -> int:
    """Conversations whose overflow a person was called for, as the database knows them."""
    query = "select count(*) from conversations where needs_human_reason = 'overflow'"
    return int((await world.rows(query))[0][0])


async def _until_recorded(world: ChaosWorld, count: int) -> None:
    async with asyncio.timeout(30):
        while await _recorded(world) < count:
            await asyncio.sleep(0.05)


async def _forget_the_loud(world: ChaosWorld) -> None:
    """The next way begins with an empty queue."""
    loud = world.businesses[0].phone_number_id
    (account,) = await world.rows("select id from whatsapp_accounts where phone_number_id = $1", loud)
    await world.api("PATCH", f"/accounts/{account['id']}", json={"access_token": "another-token"})
    await world.until_quiet(120)
