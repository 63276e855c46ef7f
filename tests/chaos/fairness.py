"""What a healthy account feels of another one's trouble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.sandbox.webhooks import Business

from .scenarios import Stage
from .traffic import Message, Traffic, sender
from .world import World

SETTINGS = {"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2"}
"""The default lease: nothing dies here. And a debounce short enough not to hide a delay behind it."""
RATIO = 1.5
CUSTOMERS_PER_SECOND = 30
SECONDS = 20.0
"""Longer than a call to Gemini may take: the first of the hung ones time out, all at once, while it is measured."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """Seconds from the 200 to the arrival of the reply, of each customer of the healthy account."""

    without: Sequence[float]
    during: Sequence[float]

    @property
    def ratio(self) -> float:
        return p99(self.during) / p99(self.without)

    def problems(self) -> list[str]:
        return [f"a ratio of {self.ratio:.2f}"] if self.ratio > RATIO else []

    def table(self) -> str:
        return "\n".join(
            f"{name:<50} {value}"
            for name, value in (
                ("healthy account, webhook -> send p99", f"{p99(self.without) * 1000:.0f} ms ({len(self.without)})"),
                ("  while another's Gemini calls hang", f"{p99(self.during) * 1000:.0f} ms ({len(self.during)})"),
                ("  ratio", f"{self.ratio:.2f}"),
            )
        )


async def hanging_gemini(world: World, *, seconds: float = SECONDS) -> Fairness:
    """`seconds` of the healthy account alone, and `seconds` beside one whose every call to Gemini hangs: more of its
    conversations than it may have places."""
    stage, (stuck, healthy) = Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await _replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)  # caches, connections
    without = await _replies(world, stage, healthy, count, seconds)
    before = (await world.sandbox.summary())["last_seq"]
    hang = await world.sandbox.add_fault("gemini", action="hang_before", match={"system_contains": "Orchard 1"})
    places = world.concurrency * len(world.fleet.replicas)
    waiting = [stage.conversation(1, stuck)[0] for _ in range(places)]
    await stage.post(*waiting, replica=0)
    # However many places one account may take, these are taken.
    await world.sandbox.wait(places // 2, kind="generate", after=before)
    during = await _replies(world, stage, healthy, count, seconds)
    await world.sandbox.remove_fault(hang)
    await stage.ends_well()
    return Fairness(without, during)


async def _replies(world: World, stage: Stage, business: Business, count: int, seconds: float) -> list[float]:
    """In an even stream of `count` customers."""
    asked: list[Message] = [stage.conversation(1, business)[0] for _ in range(count)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    traffic = Traffic(poster, [[message] for message in asked], seed=1, seconds=seconds, lanes=6)
    await traffic.run()
    stage.messages += asked
    sends = await stage.sends(1, *asked, timeout_seconds=90)
    at = {str(send["to"]): float(str(send["at"])) for send in sends}
    return [at[str(message.person.wa_id)] - traffic.accepted[message.id] for message in asked]


def p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1]
