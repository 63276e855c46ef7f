"""The database is away for everybody, and comes back: when does each part of the service notice?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncpg
import httpx

from .scenarios import QUIET_SECONDS, Broken, Stage
from .traffic import Message, payload, sender
from .world import LOOK_SECONDS, ChaosWorld

BACK_SECONDS = 2.0
"""From the moment the database takes connections again."""
FEW_PER_SECOND = 6
"""So few that the last of what had waited shows when the end was noticed, and not how much the machine does in a
second: an answer costs replicas, servers and stand-ins about 27 ms of a core."""
POLL_SECONDS = 0.02
PER_SECOND = 12
SETTINGS: Mapping[str, str] = {"READINESS_REQUIRES": "redis,database"}


@dataclass(slots=True)
class Stream:
    """One message of a new customer after the other, to these replicas in turn, while it runs."""

    stage: Stage
    replicas: tuple[int, ...] = (0, 1, 2)
    per_second: float = PER_SECOND
    posted_at: dict[str | None, float] = field(default_factory=dict)
    """By the customer."""

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        ended = asyncio.Event()
        task = asyncio.create_task(self._run(ended))
        try:
            yield
        finally:
            ended.set()
            await task

    async def _run(self, ended: asyncio.Event) -> None:
        world = self.stage.world
        urls = [world.fleet.webhook_urls[number] for number in self.replicas]
        poster = sender(urls, app_secret=world.fleet.keys.app_secret)
        poster.timeout_seconds = 5
        started, count = time.monotonic(), 0
        async with asyncio.TaskGroup() as posts:
            while not ended.is_set():
                (message,) = self.stage.conversation(1)
                self.stage.messages.append(message)
                self.posted_at[message.person.wa_id] = time.time()
                posts.create_task(poster.deliver(payload([message])))
                count += 1
                await asyncio.sleep(max(0.0, started + count / self.per_second - time.monotonic()))


async def answered_at(
    world: ChaosWorld, messages: list[Message], *, timeout_seconds: float = QUIET_SECONDS
) -> dict[str | None, float]:
    """When each of these customers, who wrote once, got the answer. Raises `Broken`."""
    wanted = {message.person.wa_id for message in messages}
    deadline = time.monotonic() + timeout_seconds
    found: dict[str | None, float] = {}
    while wanted - found.keys():
        if time.monotonic() > deadline:
            raise Broken(f"{len(wanted - found.keys())} of {len(wanted)} got no answer within {timeout_seconds:g} s")
        sends = await world.sandbox.record(kind="send", processed="true")
        found = {str(send["to"]): float(str(send["at"])) for send in reversed(sends) if send["to"] in wanted}
        await asyncio.sleep(LOOK_SECONDS)
    return found


@dataclass(frozen=True, slots=True)
class Return:
    """Seconds from the database's return until each part was back."""

    api: float
    ready: float
    first_answer: float
    last_answer: float
    """Of the messages that came while it was away."""

    def __str__(self) -> str:
        return (
            f"API {self.api:.2f} s, readiness {self.ready:.2f} s, first answer {self.first_answer:.2f} s, "
            f"last of what had waited {self.last_answer:.2f} s after its return"
        )


async def database_away(world: ChaosWorld, seconds: float) -> Return:
    """Kill Postgres for `seconds` under traffic and measure its return."""
    stage = Stage(world)
    postgres = world.servers.postgres
    async with Stream(stage).flowing():
        await world.sandbox.wait(5, kind="send", processed="true", after=(await world.sandbox.summary())["last_seq"])
        before = len(stage.messages)
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(seconds)  # time itself: the length of the outage is the fault
        await asyncio.to_thread(postgres.start)
        seen = await _return(world, stage.messages[before:], time.time())
    await stage.ends_well()
    return seen


async def connections_taken(world: ChaosWorld, seconds: float) -> Return:
    """Another client takes every connection of Postgres, those of the replicas too, for `seconds` under traffic."""
    stage = Stage(world)
    async with Stream(stage, per_second=FEW_PER_SECOND).flowing():
        await world.sandbox.wait(5, kind="send", processed="true", after=(await world.sandbox.summary())["last_seq"])
        async with _every_connection(world.servers.database_url):
            before = len(stage.messages)
            await asyncio.sleep(seconds)  # time itself: the length of the shortage is the fault
            await _says_what_is_lacking(world)
        seen = await _return(world, stage.messages[before:], time.time())
    await stage.ends_well()
    return seen


async def _return(world: ChaosWorld, waited: list[Message], back: float) -> Return:
    """Measured from `back`, the time of the database's return."""
    api, ready = await asyncio.gather(_until_api(world), _until_ready(world))
    answers = [at for at in (await answered_at(world, waited)).values() if at > back]
    return Return(api - back, ready - back, min(answers) - back, max(answers) - back)


@asynccontextmanager
async def _every_connection(url: str) -> AsyncIterator[None]:
    """Held until the end, and what becomes free is taken. Enters when the replicas have none left."""
    held: list[asyncpg.Connection] = []
    ended, all_held = asyncio.Event(), asyncio.Event()

    async def take() -> None:
        held.append(await asyncpg.connect(url))
        while not ended.is_set():
            try:
                held.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                others = await held[0].fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'chorus' and backend_type = 'client backend'"
                )
                if not others:
                    all_held.set()
                    await asyncio.sleep(LOOK_SECONDS)

    task = asyncio.create_task(take())
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            await asyncio.wait([task, asyncio.create_task(all_held.wait())], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        ended.set()
        await task
        for connection in held:
            connection.terminate()


async def _says_what_is_lacking(world: ChaosWorld) -> None:
    """`/health` of every replica, in words; and no counter of the queue is negative."""
    for replica in range(len(world.fleet.replicas)):
        headers = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
        page = (await world.http.get(f"{world.fleet.replicas[replica].url}/health", headers=headers)).json()
        database, queue = page["dependencies"]["supabase"], page["queue"]
        said = f"{database.get('trouble')} {database.get('error')}"
        if page["status"] == "ok" or "no connection left" not in said:
            raise Broken(f"/health is {page['status']} and says of the database: {database}")
        if negative := {name: count for name, count in queue.items() if not isinstance(count, str) and count < 0}:
            raise Broken(f"counters are negative: {negative}")


async def _until_api(world: ChaosWorld) -> float:
    """When every replica served a read of the database."""
    for replica in range(len(world.fleet.replicas)):
        while True:
            with suppress(httpx.HTTPError):
                await world.api("GET", "/accounts", replica=replica)
                break
            await asyncio.sleep(POLL_SECONDS)
    return time.time()


async def _until_ready(world: ChaosWorld) -> float:
    for replica in world.fleet.replicas:
        while (await world.http.get(f"{replica.url}/health/ready")).status_code != 200:
            await asyncio.sleep(POLL_SECONDS)
    return time.time()


async def database_back_after_two_seconds(world: ChaosWorld) -> None:
    """A short restart of Postgres costs its own length: API, readiness and answers are back within two seconds."""
    within_bar(await database_away(world, 2.0))


async def no_connection_left(world: ChaosWorld) -> None:
    """Postgres has no connection left: it is told, nothing is lost, and it works two seconds after it has some."""
    seen = await connections_taken(world, 6.0)
    within_bar(seen)
    if seen.last_answer > BACK_SECONDS:
        raise Broken(str(seen))


SCENARIOS: Mapping[str, Callable[[ChaosWorld], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (database_back_after_two_seconds, no_connection_left)
}


def within_bar(seen: Return, *, patience: float = 1.0) -> None:
    if max(seen.api, seen.ready, seen.first_answer) > BACK_SECONDS * patience:
        raise Broken(str(seen))
