"""Events for other systems under the schedule: each reaches the receiver, repetitions carry one id, the order holds."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from app.localhost.processes import ChildProcess, free_port

from .fairness import Fairness, quantile
from .verdict import Verdict
from .world import LOOK_SECONDS, ChaosWorld

ROOT = Path(__file__).resolve().parents[2]
CALLS_PER_SECOND = 8.0
DOWN = (0.35, 0.6)
"""Of the run, in which the receiver is away. A pause between two tries is 2 s at most here (world.py) and an hour
otherwise: as if a receiver were away for hours."""
HANGING = 3
CATCH_UP_SECONDS = 30.0
DEAD_LETTERS = "chorus:events:{q0}:dlq"

_CALL = """
with chosen as (select id from conversations where not needs_human order by random() limit 1),
called as (
  update conversations c
  set needs_human = true, needs_human_reason = 'unreadable', needs_human_since = clock_timestamp()
  from chosen where c.id = chosen.id and not c.needs_human returning c.id, c.needs_human_since as at
)
select id::text, at from called
"""


@dataclass
class Receiver:
    """The process, and what it was told; it can be killed and comes back on the same port."""

    process: ChildProcess
    url: str
    file: Path

    async def start(self) -> None:
        await asyncio.to_thread(self.process.start)
        host, port = "127.0.0.1", int(self.url.rpartition(":")[2])
        async with asyncio.timeout(20):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    def told(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        # A kill may have cut the last line: it was not answered.
        whole = self.file.read_bytes().rpartition(b"\n")[0]
        return [orjson.loads(line) for line in whole.split(b"\n") if line.endswith(b"}")]


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-receiver-"))
    port, file = free_port(), folder / "told.jsonl"
    process = ChildProcess(
        "receiver", [sys.executable, "-m", "tests.chaos.receiver", str(port), file], cwd=ROOT,
        log_file=folder / "receiver.log", pid_file=folder / "receiver.pid",
    )  # fmt: skip
    receiver = Receiver(process, f"http://127.0.0.1:{port}", file)
    try:
        await receiver.start()
        yield receiver
    finally:
        await asyncio.to_thread(process.kill)
        shutil.rmtree(folder, ignore_errors=True)


async def listen(world: ChaosWorld, number: int, url: str, *events: str) -> None:
    """A webhook of the business with that number."""
    account = world.account_ids[world.businesses[number].phone_number_id]
    await world.api("POST", f"/accounts/{account}/webhooks", json={"url": url, "events": events}, status=201)


@dataclass
class PersonsCalled:
    """Calls a person again and again, by SQL as an operator would, each undone in the same transaction: no customer's
    conversation looks different afterwards, and each call is one event."""

    world: ChaosWorld
    receiver: Receiver
    seed: int
    seconds: float
    called: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    """When, by conversation: committed for certain."""
    perhaps: set[tuple[str, datetime]] = field(default_factory=set)
    """The answer to the commit was lost."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._call())
            tasks.create_task(self._take_the_receiver_away())

    async def _take_the_receiver_away(self) -> None:
        away, back = (self.seconds * share for share in DOWN)
        await asyncio.sleep(away)
        await asyncio.to_thread(self.receiver.process.kill)
        await asyncio.sleep(back - away)
        await self.receiver.start()

    async def _call(self) -> None:
        rng = random.Random(f"{self.seed}-called")
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends:
            await asyncio.sleep(rng.expovariate(CALLS_PER_SECOND))
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await self._call_once()

    async def _call_once(self) -> None:
        connection = await asyncpg.connect(self.world.servers.database_url, timeout=2, command_timeout=5)
        try:
            transaction = connection.transaction()
            await transaction.start()
            row = await connection.fetchrow(_CALL)
            if row is None:
                return
            await connection.execute(
                "update conversations set needs_human = false where id = $1::text::uuid", row["id"]
            )
            self.perhaps.add((row["id"], row["at"]))
            await transaction.commit()
            self.perhaps.remove((row["id"], row["at"]))
            self.called[row["id"]].append(row["at"])
        finally:
            connection.terminate()


async def judge_events(verdict: Verdict, calls: PersonsCalled, heard: str) -> None:
    """`heard`: the account whose received messages are told, too. Adds to `verdict` what did not hold."""
    world, receiver = calls.world, calls.receiver
    with suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while await world.value("select count(*) from outbox"):
                await asyncio.sleep(LOOK_SECONDS)
    left = await world.value("select count(*) from outbox")
    verdict.expect(left == 0, f"{left} events are still in the outbox")
    dead = int(await world.redis.xlen(DEAD_LETTERS))
    verdict.expect(dead == 0, f"{dead} events are dead letters")
    told = receiver.told()
    bodies: dict[str, set[str]] = defaultdict(set)
    for each in told:
        bodies[each["id"]].add(each["body"])
    changed = [key for key, seen in bodies.items() if len(seen) > 1]
    verdict.expect(not changed, f"{len(changed)} events were repeated with another body")
    once: dict[str, dict[str, Any]] = {}
    for each in told:
        once.setdefault(each["id"], each)
    first = list(once.values())
    verdict.events, verdict.event_repeats = len(once), len(told) - len(once)
    _persons(verdict, calls, [each["data"]["conversation"] for each in first if each["type"].endswith("needs_human")])
    stored: dict[str, list[str]] = defaultdict(list)
    for row in await world.rows(
        "select conversation_id::text as talk, id::text from messages"
        " where account_id = $1::text::uuid and direction = 'inbound' and type <> 'system' order by seq", heard,
    ):  # fmt: skip
        stored[row["talk"]].append(row["id"])
    received: dict[str, list[str]] = defaultdict(list)
    for each in first:
        if each["type"] == "message.received":
            received[each["data"]["conversation_id"]].append(each["data"]["message"]["id"])
    verdict.expect(bool(stored), "nothing was received: nothing was checked")
    wrong = [talk for talk, ids in stored.items() if received[talk] != ids]
    verdict.expect(
        not wrong, f"the messages of {len(wrong)} conversations were told wrongly: {_first(wrong, stored, received)}"
    )


def _first(wrong: list[str], stored: dict[str, list[str]], received: dict[str, list[str]]) -> str:
    return f"{stored[wrong[0]]} stored, {received[wrong[0]]} told" if wrong else ""


def _persons(verdict: Verdict, calls: PersonsCalled, told: list[dict[str, Any]]) -> None:
    heard: dict[str, list[datetime]] = defaultdict(list)
    for conversation in told:
        at = datetime.fromisoformat(conversation["needs_human_since"])
        if at in calls.called[conversation["id"]] or (conversation["id"], at) in calls.perhaps:
            heard[conversation["id"]].append(at)
    verdict.expect(len(calls.called) > 1, "no person was called: nothing was checked")
    for conversation, at in calls.called.items():
        missing = [each for each in at if each not in heard[conversation]]
        verdict.expect(not missing, f"{len(missing)} calls of a person in {conversation} were never told")
        in_order = heard[conversation] == sorted(set(heard[conversation]))
        verdict.expect(in_order, f"the calls of a person in {conversation} were told out of order or under two ids")


async def hanging_receiver(world: ChaosWorld, *, seconds: float = 10.0) -> Fairness:
    """Webhooks of another account hang, each with more conversations due than it has slots; longer than one attempt
    takes, so that attempts end and begin while it is measured."""
    async with running_receiver() as receiver:
        await listen(world, 1, f"{receiver.url}/fine", "account.blocked")
        healthy, hanging = (world.account_ids[business.phone_number_id] for business in world.businesses[1::-1])
        count = round(20 * seconds)
        await _tell(world, receiver, healthy, 20)  # connections
        without = await _tell(world, receiver, healthy, count)
        for number in range(HANGING):
            await listen(world, 0, f"{receiver.url}/hang{number}", "account.restored")
        await world.execute(
            "insert into outbox (account_id, conversation_id, type, payload)"
            " select $1::text::uuid, gen_random_uuid(), 'account.restored', '{}' from generate_series(1, 50)", hanging,
        )  # fmt: skip
        async with asyncio.timeout(20):
            while await world.value("select count(*) from outbox where life is null"):
                await asyncio.sleep(LOOK_SECONDS)
        during = await _tell(world, receiver, healthy, count)
    others = [] if quantile(during, 1.0) < 2 else [f"the slowest took {quantile(during, 1.0):.1f} s"]
    return Fairness(f"{HANGING} webhooks of another hang", without, during, others=others, what="change -> receiver")


async def _tell(world: ChaosWorld, receiver: Receiver, account: str, count: int) -> list[float]:
    """Seconds from the insert of each of `count` events, evenly over their time, until the receiver had it."""
    began: dict[str, float] = {}
    connection = await asyncpg.connect(world.servers.database_url)
    try:
        for number in range(count):
            at = time.time()
            event = await connection.fetchval(
                "insert into outbox (account_id, conversation_id, type, payload)"
                " values ($1::text::uuid, gen_random_uuid(), 'account.blocked', '{}') returning id::text", account,
            )  # fmt: skip
            began[event] = at
            await asyncio.sleep(0.05 - (time.time() - at) if number < count - 1 else 0)
    finally:
        await connection.close()
    async with asyncio.timeout(30):
        while True:
            seen = {each["id"]: each["at"] for each in reversed(receiver.told())}
            if began.keys() <= seen.keys():
                return [seen[event] - at for event, at in began.items()]
            await asyncio.sleep(LOOK_SECONDS)
