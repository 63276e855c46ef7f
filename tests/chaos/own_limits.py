"""Load above our own limits is load: what waits is answered later, and nothing that was made is thrown away."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sandbox import webhooks as wa
from app.sandbox.webhooks import encode_like_meta

from .scenarios import Broken, Stage
from .traffic import Post, Traffic, payload, sender
from .verdict import judge
from .world import ChaosWorld, running_world

SETTINGS = {"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0", "SEND_RECONCILE_SECONDS": "20"}
"""As in production, but for the debounce: every message is a run of its own, so that answers can be counted."""
MODEL_SECONDS = 1.0
STALL_SECONDS = (0.15, 0.6)
BETWEEN_STALLS = (0.2, 0.6)
STATUSES_A_POST = 100
STALLS = {"customers": 600, "seconds": 15, "stalls": True, "statuses": 6000}
BUSY = {"customers": 400, "seconds": 3}
RUNS: Sequence[tuple[str, int, Mapping[str, Any]]] = (
    ("Redis stands still, statuses flood", 50, STALLS),
    ("400 customers at once", 50, BUSY),
    ("400 customers at once", 200, BUSY),
)
"""Of `limits_as_load`: name, WORKER_CONCURRENCY, and what `pressed` is told."""
NOISE = 0.9
"""Of a run on a machine that does other things too."""


AT_ONCE = 40
"""Answers that are ready in one moment: all the places that one account may have on a replica."""
NEW_ONES = 30
STALL = 0.4

TALKS = 48
"""Nearly all the places of a replica, in two accounts: together they may make ten calls of the fifteen at a time."""
WRITE_SECONDS = 0.25
"""Of one write to a reply: the last handler in the row waits for more than a second, for each of them. Less than calls
wait for a row, which its other writes keep."""
SLOW_SECONDS = 60.0
PUT_OFF = ("postponed", "unavailable", "failed")


async def answers_of_one_moment(world: ChaosWorld) -> None:
    """More answers are ready at once than Redis used to get connections, and it stands still: none is made twice, none
    goes out unpaced, no webhook is refused."""
    stage = Stage(world)
    hang = await world.sandbox.add_fault("gemini", action="hang_before")
    before = (await world.sandbox.summary())["last_seq"]
    unpaced = told(world)["pacing without Redis"]
    poster = sender(world.fleet.webhook_urls[:1], app_secret=world.fleet.keys.app_secret)
    with stage.only(0):
        talks = [stage.conversation(1)[0] for _ in range(AT_ONCE)]
        await stage.post(*talks, replica=0)
        await world.sandbox.wait(AT_ONCE, kind="generate", after=before)
        late = [stage.conversation(1)[0] for _ in range(NEW_ONES)]
        world.servers.valkey.pause()
        try:
            await world.sandbox.remove_fault(hang)
            posting = asyncio.gather(*(poster.post(encode_like_meta(payload([message]))) for message in late))
            await asyncio.sleep(STALL)
        finally:
            world.servers.valkey.resume()
        await posting
    refused = sum(post.status != 200 for post in poster.posts)
    if refused:
        raise Broken(f"{refused} of {NEW_ONES} webhooks were refused")
    stage.messages += late
    await stage.ends_well()
    made = [str(entry["text"]) for entry in await world.sandbox.record(kind="generate", after=before)]
    twice = sum(sum(message.marker in text for text in made) > 1 for message in talks)
    if twice:
        raise Broken(f"{twice} answers of the model were thrown away and made again")
    unpaced = told(world)["pacing without Redis"] - unpaced
    if unpaced:
        raise Broken(f"sends were paced without Redis {unpaced} times")


async def database_slots_taken(world: ChaosWorld) -> None:
    """Writes take so long that all the calls a replica may make are under way: its handlers wait in order. None
    is postponed, no answer is made twice, the database does not count as lost."""
    stage = Stage(world)
    before, told_before = (await world.sandbox.summary())["last_seq"], told(world)
    with stage.only(0):
        async with _slow_writes(world, WRITE_SECONDS):
            talks = [stage.conversation(1, business)[0] for business in world.businesses[:2] for _ in range(TALKS // 2)]
            await stage.post(*talks, replica=0)
            await stage.sends(1, *talks, timeout_seconds=SLOW_SECONDS)
            found = told(world)
    found.subtract(told_before)
    await stage.ends_well()
    made = [str(entry["text"]) for entry in await world.sandbox.record(kind="generate", after=before)]
    counts = {
        "conversations postponed": sum(found[outcome] for outcome in PUT_OFF),
        "dependencies lost": found["dependency lost"],
        "answers of the model thrown away": sum(sum(m.marker in text for text in made) > 1 for m in talks),
    }
    if problems := [f"{count} {what}" for what, count in counts.items() if count]:
        raise Broken(", ".join([*problems, str({name: n for name, n in found.items() if n and ":" in name})]))


@asynccontextmanager
async def _slow_writes(world: ChaosWorld, seconds: float) -> AsyncIterator[None]:
    """As on a disk that is busy with something else. Reads and pings are as fast as ever."""
    await world.execute(
        "create function public.slow_write() returns trigger language plpgsql as $$"
        f" begin perform pg_sleep({seconds}); return new; end $$;"
        " create trigger slow_write before insert or update on public.replies"
        " for each row execute function public.slow_write()"
    )
    try:
        yield
    finally:
        await world.execute("drop trigger slow_write on public.replies; drop function public.slow_write()")


@dataclass(frozen=True, slots=True)
class Pressure:
    """What became of a run. `thrown_away`: answers of the model that no customer got."""

    answers: int
    seconds: float
    cpu_seconds: float
    """Of the replicas' processes."""
    refused: int
    thrown_away: int
    postponed: int
    unpaced: int
    heartbeats_failed: int
    dependencies_lost: int
    reasons: Mapping[str, int]
    verdict: Sequence[str]

    @property
    def answers_per_second(self) -> float:
        return self.answers / self.seconds

    def problems(self) -> list[str]:
        counts = {
            "webhooks refused": self.refused,
            "answers of the model thrown away": self.thrown_away,
            "conversations postponed by our own limits": self.postponed,
            "sends paced without Redis": self.unpaced,
            "heartbeats failed": self.heartbeats_failed,
            "dependencies lost": self.dependencies_lost,
        }
        return [*self.verdict, *(f"{count} {what}" for what, count in counts.items() if count)]

    def table(self) -> str:
        rows = {
            "answers a second": f"{self.answers_per_second:.1f} ({self.answers} in {self.seconds:.1f} s)",
            "CPU of an answer": f"{self.cpu_seconds / self.answers * 1000:.1f} ms",
            "webhooks 503": self.refused,
            "answers of the model thrown away": self.thrown_away,
            "postponed": self.postponed,
            "sends unpaced": self.unpaced,
            "heartbeats failed": self.heartbeats_failed,
            "dependency lost": self.dependencies_lost,
            "reasons": dict(self.reasons),
        }
        return "\n".join(f"{name:<34} {value}" for name, value in rows.items())


@dataclass(frozen=True, slots=True)
class Limits:
    """What several runs found."""

    tables: Sequence[str]
    broken: Sequence[str]

    def problems(self) -> Sequence[str]:
        return self.broken

    def table(self) -> str:
        return "\n\n".join(self.tables)


async def limits_as_load(_world: ChaosWorld) -> Limits:
    """The long run. Each of its parts has a world with settings of its own."""
    tables, problems, rates = [], [], {}
    for name, concurrency, options in RUNS:
        settings = SETTINGS | {"WORKER_CONCURRENCY": str(concurrency)}
        async with running_world(replicas=1, settings=settings) as world:
            found = await pressed(world, **options)
        tables.append(f"{name}, WORKER_CONCURRENCY={concurrency}\n{found.table()}")
        problems += [f"{name}, {concurrency}: {problem}" for problem in found.problems()]
        rates[concurrency] = found.answers_per_second
    if rates[200] < NOISE * rates[50]:
        problems.append(f"{rates[200]:.1f} answers a second with 200 places, {rates[50]:.1f} with 50")
    return Limits(tables, problems)


async def pressed(
    world: ChaosWorld, *, customers: int, seconds: float, stalls: bool = False, statuses: int = 0
) -> Pressure:
    """`customers` write once within `seconds`; until all are answered. `stalls`: Redis stands still again and again.
    `statuses`: so many more of messages that nobody knows, in POSTs of a hundred."""
    stage = Stage(world)
    await world.sandbox.change_behaviour(model_seconds=MODEL_SECONDS, duplicate_rate=0)
    conversations = [stage.conversation(1) for _ in range(customers)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    poster.timeout_seconds = 10
    before = (await world.sandbox.summary())["last_seq"]
    began, cpu = time.monotonic(), _cpu_seconds(world)
    traffic = Traffic(poster, conversations, seed=1, seconds=seconds, lanes=24)
    async with _stalling(world) if stalls else _calm():
        flood = asyncio.create_task(_flood(world, poster.posts, statuses, seconds))
        await traffic.run()
        await flood
        stage.messages += traffic.messages
        await stage.sends(1, *traffic.messages, timeout_seconds=120)
    took, cpu = time.monotonic() - began, _cpu_seconds(world) - cpu
    await world.until_quiet(120)
    generated = await world.sandbox.record(kind="generate", after=before)
    verdict = await judge(world, stage.messages, run=stage.run)
    found = told(world)
    return Pressure(
        answers=customers,
        seconds=took,
        cpu_seconds=cpu,
        refused=sum(post.status == 503 for post in poster.posts),
        thrown_away=sum("kumquat" in str(entry["text"]) for entry in generated) - customers,
        postponed=sum(found[outcome] for outcome in PUT_OFF),
        unpaced=found["pacing without Redis"],
        heartbeats_failed=found["heartbeat failed"],
        dependencies_lost=found["dependency lost"],
        reasons={name[8:]: count for name, count in found.most_common() if name.startswith("reason: ")},
        verdict=verdict.problems,
    )


def _cpu_seconds(world: ChaosWorld) -> float:
    """What the replicas have used so far; 0 where there is no /proc."""
    ticks = 0
    for replica in world.fleet.replicas:
        stat = Path(f"/proc/{replica.pid}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text(encoding="ascii").rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def told(world: ChaosWorld) -> Counter[str]:
    """What the replicas wrote: lines by their words, conversations by their outcome and `reason: …`."""
    for replica in world.fleet.replicas:
        world.logs.look(replica.log_file)
    found: Counter[str] = Counter()
    for line in world.logs.text.splitlines():
        event = json.loads(line)
        if event["event"] == "handled":
            found[event["outcome"]] += 1
            if event["outcome"] in PUT_OFF:
                found[f"reason: {event['reason']}"] += 1
        else:
            found[event["event"]] += 1
    return found


async def _flood(world: ChaosWorld, posts: list[Post], statuses: int, seconds: float) -> None:
    number = 0
    pause = seconds / max(1, statuses / STATUSES_A_POST)
    flooder = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=2)
    flooder.posts = posts
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
async def _stalling(world: ChaosWorld) -> AsyncIterator[None]:
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
