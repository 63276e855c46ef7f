"""What a healthy account feels of another one that fills the queue, one mailbox of it, or all of a small Redis.

python -m tests.chaos --only shares --only "a full mailbox, a small Redis"
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.sandbox import webhooks as wa

from .scenarios import Stage
from .traffic import Message, Post, TimedSender, sender
from .world import ChaosWorld

SETTINGS = {
    "LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2", "QUEUE_MAX_PENDING": "400", "QUEUE_MAX_BYTES": "8000000",
}  # fmt: skip
"""Small enough to be filled in seconds, at the rate at which an account would fill the default in hours."""
DEFAULT_SIZE = {"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2"}
"""The queue as large as it is by default, for a Redis of `REDIS_BYTES`."""
REDIS_BYTES = 200 * 1024 * 1024
MAILBOX_EVENTS = 1000
RATIO = 1.5
QUIET_PER_SECOND = 10
LOUD_PER_SECOND = 1.2
LONG_TEXT = "é€€" * 21_845 + "x"
"""65,536 characters, 175 KB in Redis."""


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


@dataclass(frozen=True, slots=True)
class Loud:
    """What the other account has done: the fault that keeps it waiting, and what its customers write next."""

    fault: str
    more: Callable[[], wa.JsonObject]


Way = Callable[[ChaosWorld, TimedSender], Awaitable[Loud]]


async def measure(world: ChaosWorld, *, seconds: float) -> Shares:
    """`seconds` of the healthy account alone, then beside each way in which the other one fills the queue."""
    ways = {"is refused by WhatsApp": _refused_token, "sends the longest texts": _longest_texts}
    return await _measure(world, ways, seconds)


async def measure_default_size(world: ChaosWorld, *, seconds: float) -> Shares:
    """The same with a queue of the default size, in a Redis that holds little more."""
    await world.redis.config_set("maxmemory", REDIS_BYTES)
    ways = {"has a full mailbox": _full_mailbox, "fills a Redis of 200 MB": _texts_of_many}
    return await _measure(world, ways, seconds)


async def _measure(world: ChaosWorld, ways: Mapping[str, Way], seconds: float) -> Shares:
    shares = Shares(await _quiet(world, seconds))
    for way, fill in ways.items():
        poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret)
        before = await _recorded(world)
        async with asyncio.timeout(10 * seconds + 60):
            loud = await fill(world, poster)
            # It was filled within a second, for which the machine is busy; an account takes hours for that.
            await _until_settled(world)
            going_on = asyncio.create_task(_write_on(loud, poster))
            shares.during[way] = await _quiet(world, seconds, poster)
            going_on.cancel()
            await _until_recorded(world, before + 1)
        shares.refused[way] = _refusals(poster.posts)
        shares.diverted[way] = await _recorded(world) - before
        await world.sandbox.remove_fault(loud.fault)
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
    """No question to the model for a second, and no overflow to be recorded: the rest of what was accepted waits."""
    seen, since = -1, time.monotonic()
    async with asyncio.timeout(60):
        while time.monotonic() - since < 1.0:
            asked = (await world.sandbox.summary())["kinds"].get("generate", {}).get("received", 0)
            if asked != seen or (await world.rows("select 1 from overflow limit 1")):
                seen, since = asked, time.monotonic()
            await asyncio.sleep(0.05)


async def _write_on(loud: Loud, poster: TimedSender) -> None:
    """The other account's customers, at the rate of the report."""
    while True:
        await poster.deliver(loud.more())
        await asyncio.sleep(1 / LOUD_PER_SECOND)


async def _refused_token(world: ChaosWorld, poster: TimedSender) -> Loud:
    """Its conversations stay in the queue: 300 of them, where it may hold half of 400."""
    loud, stage = world.businesses[0], Stage(world)
    fault = await _refuse_sends(world)
    for _ in range(60):
        await poster.deliver(_payload(*(stage.conversation(1, loud)[0] for _ in range(5))))
    return Loud(fault, lambda: _payload(stage.conversation(1, loud)[0]))


async def _longest_texts(world: ChaosWorld, poster: TimedSender) -> Loud:
    """Two customers whose model hangs, 60 of the longest texts each: 21 MB, where it may hold half of 8."""
    stage = Stage(world)
    fault = await _hang(world)
    for person in [stage.conversation(1)[0].person for _ in range(2)]:
        for _ in range(60):
            await poster.deliver(_written(stage, person, LONG_TEXT))
    return Loud(fault, lambda: _payload(stage.conversation(1)[0]))


async def _full_mailbox(world: ChaosWorld, poster: TimedSender) -> Loud:
    """One customer whose model hangs, 1,100 messages where a mailbox holds 1,000; and the customer writes on."""
    stage = Stage(world)
    fault = await _hang(world)
    person = stage.conversation(1)[0].person
    for _ in range(MAILBOX_EVENTS // 50 + 2):
        await poster.deliver(_written(stage, person, *["flood"] * 50))
    return Loud(fault, lambda: _written(stage, person, "flood"))


async def _texts_of_many(world: ChaosWorld, poster: TimedSender) -> Loud:
    """1,300 of the longest texts, 227 MB, of customers whose answers WhatsApp refuses: ten of each, since a mailbox
    holds 2 MB; and new customers write on at that length."""
    stage = Stage(world)
    fault = await _refuse_sends(world)
    for _ in range(130):
        person = stage.conversation(1)[0].person
        for _ in range(10):
            await poster.deliver(_written(stage, person, LONG_TEXT))
    return Loud(fault, lambda: _written(stage, stage.conversation(1)[0].person, LONG_TEXT))


async def _refuse_sends(world: ChaosWorld) -> str:
    match = {"operation": "send", "phone_number_id": world.businesses[0].phone_number_id}
    return await world.sandbox.add_fault("whatsapp", error="190", match=match)


async def _hang(world: ChaosWorld) -> str:
    return await world.sandbox.add_fault("gemini", action="hang_before", match={"system_contains": "Orchard 1"})


def _written(stage: Stage, person: wa.Person, *texts: str) -> wa.JsonObject:
    """A POST of one customer of the other account."""
    nodes = [wa.text(person, words) for words in texts]
    return wa.envelope(wa.messages_change(stage.world.businesses[0], nodes, [person]))


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
