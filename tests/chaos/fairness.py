"""What a healthy account feels of another one's trouble."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from app.sandbox.webhooks import Business

from .scenarios import Broken, Stage, chosen_model
from .traffic import Message, Traffic, sender
from .world import FALLBACK_TEXT, ChaosWorld

SETTINGS = {"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2"}
"""The default lease: nothing dies here. And a debounce short enough not to hide a delay behind it."""
IMPATIENT_SETTINGS = SETTINGS | {"REPLY_DEADLINE_SECONDS": "10"}
"""Who waits for a model that is down gets the fallback text before the run ends."""
RATIO = 1.5
LEAST_SECONDS = 0.025
"""Less than that is the machine's."""
SLOW_SECONDS = 13.7
"""What 2,048 tokens take at 150 a second: the longest answer that a profile may ask for."""
MOST_BYTES = 150_000
"""Of one request to the model: profile, rules and 48 KB of turns, as JSON."""
CUSTOMERS_PER_SECOND = 30
SECONDS = 20.0
"""Longer than a call to Gemini may take: the first of the hung ones time out, all at once, while it is measured."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """Seconds from the 200 to the arrival of the reply, of each customer of the healthy account."""

    trouble: str
    without: Sequence[float]
    during: Sequence[float]
    share: float = 0.99
    others: Sequence[str] = ()
    """What else did not hold."""
    what: str = "webhook -> send"

    @property
    def ratio(self) -> float:
        return quantile(self.during, self.share) / quantile(self.without, self.share)

    def problems(self) -> list[str]:
        slower = quantile(self.during, self.share) - quantile(self.without, self.share)
        worse = self.ratio > RATIO and slower > LEAST_SECONDS
        return [*([f"a ratio of {self.ratio:.2f}"] if worse else []), *self.others]

    def table(self) -> str:
        p, without, during = f"p{self.share * 100:.0f}", self.without, self.during
        rows = (
            (
                f"healthy account, {self.what} {p}",
                f"{quantile(without, self.share) * 1000:.0f} ms ({len(without)})",
            ),
            (f"  while {self.trouble}", f"{quantile(during, self.share) * 1000:.0f} ms ({len(during)})"),
            ("  ratio", f"{self.ratio:.2f}"),
        )
        return "\n".join(f"{name:<66} {value}" for name, value in rows)


async def hanging_gemini(world: ChaosWorld, *, seconds: float = SECONDS) -> Fairness:
    """`seconds` of the healthy account alone, and `seconds` beside one whose every call to Gemini hangs: more of its
    conversations than it may have places."""
    stage, (stuck, healthy) = Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)  # caches, connections
    without = await replies(world, stage, healthy, count, seconds)
    before = (await world.sandbox.summary())["last_seq"]
    hang = await world.sandbox.add_fault("gemini", action="hang_before", match={"system_contains": "Orchard 1"})
    places = world.concurrency * len(world.fleet.replicas)
    waiting = [stage.conversation(1, stuck)[0] for _ in range(places)]
    await stage.post(*waiting, replica=0)
    # However many places one account may take, these are taken.
    await world.sandbox.wait(places // 2, kind="generate", after=before)
    during = await replies(world, stage, healthy, count, seconds)
    await world.sandbox.remove_fault(hang)
    await stage.ends_well()
    return Fairness("another's Gemini calls hang", without, during)


async def broken_model(world: ChaosWorld, *, seconds: float = 6.0) -> Fairness:
    """Another account has chosen a model that answers 503, and five of its customers write."""
    stage, (broken, healthy) = Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)
    without = await replies(world, stage, healthy, count, seconds)
    async with chosen_model(world, broken, gemini="unavailable"):
        talks = [stage.conversation(1, broken)[0] for _ in range(5)]
        await stage.post(*talks, replica=0)
        during = await replies(world, stage, healthy, count, seconds)
    await stage.ends_well()
    return Fairness("another's own model is down", without, during, 0.95)


async def slow_model(world: ChaosWorld, *, seconds: float = 6.0) -> Fairness:
    """Another account has chosen a model that takes as long as the longest answer may, and five of its customers
    write, again as soon as they are answered."""
    stage, (slow, healthy) = Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)
    without = await replies(world, stage, healthy, count, seconds)
    async with chosen_model(world, slow, latency_ms=SLOW_SECONDS * 1000):
        talks = [stage.conversation(2, slow) for _ in range(5)]
        during, answers = await asyncio.gather(
            replies(world, stage, healthy, count, seconds), _write_twice(stage, talks)
        )
        await stage.ends_well()
    problems = [f"its answers took {answers:.1f} s"] if answers < 2 * SLOW_SECONDS else []
    return Fairness(f"another's own model takes {SLOW_SECONDS:g} s", without, during, 0.95, problems)


async def _write_twice(stage: Stage, talks: Sequence[Sequence[Message]]) -> float:
    """The seconds until all have both answers."""
    started = time.time()
    await stage.post(*(first for first, _ in talks), replica=0)
    await stage.sends(1, *(first for first, _ in talks), timeout_seconds=60)
    await stage.post(*(second for _, second in talks), replica=1)
    sends = await stage.sends(2, *(second for _, second in talks), timeout_seconds=60)
    return max(float(str(send["at"])) for send in sends) - started


async def long_messages(world: ChaosWorld, *, seconds: float = 6.0) -> Fairness:
    """Two customers of another account send 30 messages of 65,000 characters each, then "hi"."""
    # The stand-in's replies do not repeat what is cut from the prompt: those conversations are not judged.
    stage, unjudged, (long, healthy) = Stage(world), Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)
    without = await replies(world, stage, healthy, count, seconds)
    before = (await world.sandbox.summary())["last_seq"]
    during, _ = await asyncio.gather(
        replies(world, stage, healthy, count, seconds), _write_at_length(unjudged, long, seconds / 31)
    )
    await stage.ends_well()
    asked = await world.sandbox.record(kind="generate", after=before)
    largest = max(len(orjson.dumps(entry["body"])) for entry in asked)
    problems = [f"{largest} bytes went to the model"] if largest > MOST_BYTES else []
    return Fairness(f"another's prompts have up to {largest} bytes", without, during, 0.95, problems)


async def _write_at_length(stage: Stage, business: Business, pause_seconds: float) -> None:
    talks = [stage.conversation(31, business) for _ in range(2)]
    for number, messages in enumerate(zip(*talks, strict=True)):
        more = "x" * 65_000 if number < 30 else " hi"
        await stage.post(*(replace(message, text=message.text + more) for message in messages), replica=number % 3)
        await asyncio.sleep(pause_seconds)


async def replies(world: ChaosWorld, stage: Stage, business: Business, count: int, seconds: float) -> list[float]:
    """In an even stream of `count` customers."""
    asked: list[Message] = [stage.conversation(1, business)[0] for _ in range(count)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    traffic = Traffic(poster, [[message] for message in asked], seed=1, seconds=seconds, lanes=6)
    await traffic.run()
    if refused := [post.status for post in poster.posts if post.status != 200]:
        raise Broken(f"{len(refused)} webhooks of the healthy account were answered {set(refused)}")
    stage.messages += asked
    sends = await stage.sends(1, *asked, timeout_seconds=90)
    if any(send["text"] == FALLBACK_TEXT for send in sends):
        raise Broken("a customer of the healthy account got the fallback text")
    at = {str(send["to"]): float(str(send["at"])) for send in sends}
    return [at[str(message.person.wa_id)] - traffic.accepted[message.id] for message in asked]


def quantile(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[math.ceil(len(seconds) * share) - 1]
