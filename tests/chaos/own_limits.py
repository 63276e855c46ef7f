"""Load above our own limits is load: what waits is answered later, and nothing that was made is thrown away."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.sandbox import webhooks as wa

from .scenarios import Stage
from .traffic import Traffic, sender
from .verdict import judge
from .world import World

SETTINGS = {"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0", "SEND_RECONCILE_SECONDS": "20"}
"""As in production, but for the debounce: every message is a run of its own, so that answers can be counted."""
MODEL_SECONDS = 1.0
STALL_SECONDS = (0.15, 0.6)
BETWEEN_STALLS = (0.2, 0.6)
STATUSES_A_POST = 100


@dataclass(frozen=True, slots=True)
class Pressure:
    """What became of a run. `thrown_away`: answers of the model that no customer got."""

    answers: int
    seconds: float
    refused: int
    thrown_away: int
    postponed: int
    unpaced: int
    heartbeats_failed: int
    dependencies_lost: int
    reasons: Mapping[str, int]
    problems: list[str]

    @property
    def answers_per_second(self) -> float:
        return self.answers / self.seconds

    def table(self) -> str:
        rows = {
            "answers a second": f"{self.answers_per_second:.1f} ({self.answers} in {self.seconds:.1f} s)",
            "webhooks 503": self.refused,
            "answers of the model thrown away": self.thrown_away,
            "postponed": self.postponed,
            "sends unpaced": self.unpaced,
            "heartbeats failed": self.heartbeats_failed,
            "dependency lost": self.dependencies_lost,
            "reasons": dict(self.reasons),
        }
        return "\n".join(f"{name:<34} {value}" for name, value in rows.items())


async def pressed(world: World, *, customers: int, seconds: float, stalls: bool = False, statuses: int = 0) -> Pressure:
    """`customers` write once within `seconds`; until all are answered. `stalls`: Redis stands still again and again.
    `statuses`: so many more of messages that nobody knows, in POSTs of a hundred."""
    stage = Stage(world)
    await world.sandbox.change_behaviour(model_seconds=MODEL_SECONDS, duplicate_rate=0)
    conversations = [stage.conversation(1) for _ in range(customers)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    poster.timeout_seconds = 10
    before = (await world.sandbox.summary())["last_seq"]
    began = time.monotonic()
    traffic = Traffic(poster, conversations, seed=1, seconds=seconds, lanes=24)
    async with _stalling(world) if stalls else _calm():
        flood = asyncio.create_task(_flood(world, poster, statuses, seconds))
        await traffic.run()
        await flood
        stage.messages += traffic.messages
        await stage.sends(1, *traffic.messages, timeout_seconds=120)
    took = time.monotonic() - began
    await world.until_quiet(120)
    generated = await world.sandbox.record(kind="generate", after=before)
    verdict = await judge(world, stage.messages, run=stage.run)
    told = _told(world)
    return Pressure(
        answers=customers,
        seconds=took,
        refused=sum(post.status == 503 for post in poster.posts),
        thrown_away=sum("kumquat" in str(entry["text"]) for entry in generated) - customers,
        postponed=told["postponed"] + told["unavailable"] + told["failed"],
        unpaced=told["not paced"],
        heartbeats_failed=told["heartbeat failed"],
        dependencies_lost=told["dependency lost"],
        reasons={name[8:]: count for name, count in told.most_common() if name.startswith("reason: ")},
        problems=verdict.problems,
    )


def _told(world: World) -> Counter[str]:
    for replica in world.fleet.replicas:
        world.logs.look(replica.log_file)
    found: Counter[str] = Counter()
    for line in world.logs.text.splitlines():
        event = json.loads(line)
        if event["event"] == "handled":
            found[event["outcome"]] += 1
            if event["outcome"] in ("postponed", "unavailable", "failed"):
                found[f"reason: {event['reason']}"] += 1
        else:
            found[event["event"]] += 1
    return found


async def _flood(world: World, poster: object, statuses: int, seconds: float) -> None:
    number = 0
    pause = seconds / max(1, statuses / STATUSES_A_POST)
    flooder = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=2)
    flooder.posts = poster.posts  # type: ignore[attr-defined]
    while number < statuses:
        batch = [
            wa.status(f"wamid.flood-{n}", "delivered", recipient=f"3361{n:07d}")
            for n in range(number, number + STATUSES_A_POST)
        ]
        await flooder.deliver(wa.envelope(wa.statuses_change(world.businesses[0], batch)))
        number += STATUSES_A_POST
        await asyncio.sleep(pause)


@asynccontextmanager
async def _calm() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _stalling(world: World) -> AsyncIterator[None]:
    """Redis stands still for moments shorter than any time limit, as during a snapshot or beside a busy neighbour."""
    rng = random.Random(1)

    async def stall() -> None:
        while True:
            world.servers.valkey.pause()
            await asyncio.sleep(rng.uniform(*STALL_SECONDS))
            world.servers.valkey.resume()
            await asyncio.sleep(rng.uniform(*BETWEEN_STALLS))

    task = asyncio.create_task(stall())
    try:
        yield
    finally:
        task.cancel()
        world.servers.valkey.resume()
