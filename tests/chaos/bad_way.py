"""One replica of three loses its way to Gemini, WhatsApp or Postgres; the others are well, and so is its Redis.

python -m tests.chaos.bad_way                # each dependency: refused, silent, and bad from the start
python -m tests.chaos.bad_way gemini
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from tests.support.proxy import Proxy, proxied

from .outages import Stream, answered_at
from .scenarios import Broken, Stage
from .world import LOOK_SECONDS, ChaosWorld, running_world

DEPENDENCIES = ("gemini", "whatsapp", "database")
SETTINGS = {"LEASE_SECONDS": "2", "DEBOUNCE_SECONDS": "0.15", "SEND_RECONCILE_SECONDS": "3"}
BAD = 2
"""The replica whose way fails."""
CALM_SECONDS = 8.0
BAD_SECONDS = 20.0
SILENT_SECONDS = 60.0
"""A way that carries nothing is noticed after about five seconds, and a third of what comes in them is late: this is
how long the run must be for that to be less than a twentieth."""
TIMES_SLOWER = 1.2
NOISE_SECONDS = 0.15
"""Two runs of the same on a busy machine differ by as much."""
WOKEN_SETTINGS = SETTINGS | {"LEASE_SECONDS": "60", "REPLY_DEADLINE_SECONDS": "120"}
STOPPED_SECONDS = 20.0
ANSWERED_SECONDS = 20.0
"""After the last message: far more than an answer may take."""
BACK_SECONDS = 10.0
"""Within this a replica whose way is well again works again: two looks at an upstream."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from the webhook to the answer."""

    calm: float
    bad: float
    slowest: float
    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} of {self.count} answered, p95 {self.bad:.2f} s, slowest {self.slowest:.2f} s; "
            f"p95 of two healthy replicas {self.calm:.2f} s"
        )


async def one_bad_replica(
    world: ChaosWorld,
    dependency: str,
    *,
    how: str = "refused",
    compared: bool = True,
    bad_seconds: float = BAD_SECONDS,
    answered_seconds: float = ANSWERED_SECONDS,
    said_seconds: float = 0.0,
) -> Waits:
    """`how`: refused, silent (nothing passes, connections stay open), or start (refused before its first call).
    `compared`: two healthy replicas answer for a while before, to compare with; else `calm` is NaN. `said_seconds`: by
    how much longer the way is bad if need be, until the replica says what it lacks."""
    stage = Stage(world)
    # What was on its way to WhatsApp when the way was lost may not have got there: the profile decides about it.
    await _resend_unproven(world, resend=True)
    calm_waits = [math.nan]
    if compared:
        await asyncio.to_thread(world.fleet.replicas[BAD].stop)
        calm = Stream(stage, replicas=(0, 1))
        async with calm.flowing():
            await asyncio.sleep(CALM_SECONDS)  # time itself: a stream's length is its measure
        calm_waits = await _waits(world, calm, answered_seconds)
    bad = Stream(stage)
    async with _on_a_way_of_its_own(world, dependency, is_lost=how == "start") as way:
        async with bad.flowing():
            if how != "start":
                await asyncio.sleep(2)  # time itself, as above
                (way.freeze if how == "silent" else way.close_door)()
            await asyncio.sleep(bad_seconds)  # time itself, as above
            said = await _says_so(world, dependency)
            longest = time.monotonic() + said_seconds
            while not said and time.monotonic() < longest:
                await asyncio.sleep(LOOK_SECONDS)
                said = await _says_so(world, dependency)
        waits = await _waits(world, bad, answered_seconds)
        way.cut()  # what was held up is lost: it must not arrive after the resend that the profile wants
        way.thaw()
        if how != "silent":
            await way.start()
        await _works_again(world, dependency)
    await stage.ends_well()
    await _resend_unproven(world, resend=False)
    seen = Waits(_p95(calm_waits), _p95(waits), max(waits), len(waits))
    if not said:
        raise Broken(f"the replica says nothing of its lost way to {dependency}; {seen}")
    return seen


@asynccontextmanager
async def _on_a_way_of_its_own(world: ChaosWorld, dependency: str, *, is_lost: bool) -> AsyncIterator[Proxy]:
    direct = {"database": world.servers.database_url}.get(dependency, world.fleet.sandbox.url)
    setting = {"database": "DATABASE_URL", "gemini": "GEMINI_BASE_URL", "whatsapp": "WHATSAPP_BASE_URL"}[dependency]
    async with proxied(direct) as way:
        if is_lost:
            way.close_door()
        world.logs.look(world.fleet.replicas[BAD].log_file)
        await asyncio.to_thread(partial(world.fleet.replace_replica, BAD, {setting: way.url}, is_ready=not is_lost))
        try:
            yield way
        finally:
            world.logs.look(world.fleet.replicas[BAD].log_file)
            await asyncio.to_thread(world.fleet.replace_replica, BAD, {})


async def _resend_unproven(world: ChaosWorld, *, resend: bool) -> None:
    for account in await world.api("GET", "/accounts"):
        await world.api("PUT", f"/bot/profile?account_id={account['id']}", json={"resend_ambiguous": resend})


async def _waits(world: ChaosWorld, stream: Stream, answered_seconds: float) -> list[float]:
    customers = {message.person.wa_id: message for message in stream.stage.messages}
    asked = [customers[who] for who in stream.posted_at]
    answers = await answered_at(world, asked, timeout_seconds=answered_seconds)
    return [answers[who] - at for who, at in stream.posted_at.items()]


def _p95(waits: list[float]) -> float:
    return sorted(waits)[math.ceil(0.95 * len(waits)) - 1]


async def woken_replica(world: ChaosWorld) -> None:
    """A replica that was stopped for longer than its calls may take counts none of their time-outs when it wakes. Its
    leases live on, or it would leave these calls alone."""
    stage = Stage(world)
    stopped = world.fleet.replicas[0]
    failed_before = await _failed_calls(world, 0)
    talks = [stage.conversation(1)[0] for _ in range(10)]
    # They go on hanging: answers that lie in its socket when it wakes would be successes.
    hang = await world.sandbox.add_fault("gemini", action="hang_before", count=len(talks))
    before = (await world.sandbox.summary())["last_seq"]
    with stage.only(0):
        await stage.post(*talks, replica=0)
        await world.sandbox.wait(len(talks), kind="generate", after=before)
        stopped.pause()
    await asyncio.sleep(STOPPED_SECONDS)  # time itself: longer than any call may take
    stopped.resume()
    await stage.ends_well()
    await world.sandbox.remove_fault(hang)
    counted = await _failed_calls(world, 0) - failed_before
    picture = await _health(world, 0)
    if counted or "cut_off" in picture:
        raise Broken(f"the woken replica counts {counted:g} of its own time-outs; {picture['circuit_breakers']}")


async def _failed_calls(world: ChaosWorld, number: int) -> float:
    """Of all circuits of this replica."""
    headers = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
    metrics = (await world.http.get(f"{world.fleet.replicas[number].url}/metrics", headers=headers)).text
    counts = re.findall(r'^chorus_circuit_breaker_calls_total\{.*outcome="failed"\} (\S+)$', metrics, re.MULTILINE)
    return sum(map(float, counts))


async def _says_so(world: ChaosWorld, dependency: str) -> bool:
    """In its own /health; the others do not say it, and they see it in the registry."""
    name = "supabase" if dependency == "database" else dependency
    pictures = [(await _health(world, number)) for number in range(3)]
    fleet = await world.api("GET", "/admin/fleet", replica=0)
    said = [replica.get("cut_off") for replica in fleet["replicas"]]
    return [picture.get("cut_off") for picture in pictures] == [None, None, [name]] and [name] in said


async def _health(world: ChaosWorld, number: int) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
    response = await world.http.get(f"{world.fleet.replicas[number].url}/health", headers=headers)
    picture: dict[str, object] = response.json()
    return picture


async def _works_again(world: ChaosWorld, dependency: str) -> None:
    started = time.monotonic()
    while "cut_off" in await _health(world, BAD):
        if time.monotonic() - started > BACK_SECONDS * world.patience:
            raise Broken(f"the way to {dependency} is well again, and the replica does not notice")
        await asyncio.sleep(LOOK_SECONDS)


def within_bar(seen: Waits) -> None:
    if seen.bad > TIMES_SLOWER * seen.calm + NOISE_SECONDS:
        raise Broken(str(seen))


def _scenario(dependency: str, how: str) -> Callable[[ChaosWorld], Awaitable[None]]:
    async def scenario(world: ChaosWorld) -> None:
        seconds = SILENT_SECONDS if how == "silent" else BAD_SECONDS
        seen = await one_bad_replica(world, dependency, how=how, bad_seconds=seconds)
        sys.stdout.write(f"    {seen}\n")
        within_bar(seen)

    scenario.__name__ = f"{dependency}_lost_by_one" if how == "refused" else f"{dependency}_lost_by_one_{how}"
    return scenario


HOWS = ("refused", "silent", "start")
SCENARIOS: Mapping[str, Callable[[ChaosWorld], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (woken_replica, *(_scenario(name, how) for name in DEPENDENCIES for how in HOWS))
}


async def measure(names: list[str]) -> None:
    for name in names or DEPENDENCIES:
        for how in HOWS:
            async with running_world(settings=SETTINGS) as world:
                try:
                    seconds = SILENT_SECONDS if how == "silent" else BAD_SECONDS
                    told = str(await one_bad_replica(world, name, how=how, bad_seconds=seconds))
                except Broken as exc:
                    told = f"BROKEN: {exc}"
            sys.stdout.write(f"{name}, {how}: {told}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1:]))
