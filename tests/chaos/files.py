"""Customers' files while replicas are killed, while their host hangs, and many large ones at the same time."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

import app.sandbox
from app.sandbox import webhooks as wa
from app.sandbox.webhooks import Business, JsonObject, Person

from .fairness import CUSTOMERS_PER_SECOND, Fairness, replies
from .scenarios import QUIET_SECONDS, Broken, Stage
from .world import ChaosWorld

PHOTO = (Path(app.sandbox.__file__).parent / "files" / "strawberry-cake.jpg").read_bytes()
HANGING = 200
LARGE, LARGE_BYTES = 50, 16 * 1024 * 1024
MOST_GROWTH_BYTES = 150 * 1024 * 1024
LOOK_SECONDS = 0.1
LARGE_SECONDS = 240.0

_numbers = itertools.count(1)


class Sender:
    """Photos of people who are in no schedule of texts."""

    def __init__(self, world: ChaosWorld, business: Business) -> None:
        self._world = world
        self._business = business
        self._stage = Stage(world)

    async def photo(self, *, replica: int = 0, caption: str | None = None) -> tuple[Person, str]:
        """Who sent it, and WhatsApp's id of the file."""
        person = Person(f"3371{next(_numbers):07d}", "Flora")
        source_id = await self._world.sandbox.upload(PHOTO, "image/jpeg")
        await self.post(person, wa.file(person, "image", source_id, PHOTO, caption=caption), replica=replica)
        return person, source_id

    async def post(self, person: Person, message: JsonObject, *, replica: int = 0) -> None:
        change = wa.messages_change(self._business, [message], [person])
        await self._stage.deliver(wa.envelope(change), replica=replica)


async def files_fetched_once_when_killed(world: ChaosWorld) -> None:
    """A replica is killed while it asks where one file is, reads another, asks the model about a third, has the answer
    about a fourth, and has kept a fifth without having said so: each is answered once, and no file that was read to its
    end is read again."""
    senders, stage, sandbox = Sender(world, world.businesses[0]), Stage(world), world.sandbox
    await stage.begin_with_closed_circuit()
    before = (await sandbox.summary())["last_seq"]
    mark = secrets.token_hex(4)
    with stage.only(0):
        faults = [await sandbox.add_fault("whatsapp", action="hang_before", match={"operation": "media"}, count=1)]
        sent = [await senders.photo()]
        await sandbox.wait(1, kind="media", after=before)
        faults.append(await sandbox.add_fault("whatsapp", file="stall", match={"operation": "download"}, count=1))
        sent.append(await senders.photo())
        await sandbox.wait(1, kind="download", after=before)
        faults.append(await sandbox.add_fault("gemini", action="hang_before", match={"text_contains": mark}, count=1))
        sent.append(await senders.photo(caption=mark))
        await sandbox.wait(1, kind="generate", after=before)
        faults.append(await sandbox.add_fault("whatsapp", error="130429", match={"operation": "send"}))
        sent.append(await senders.photo())
        await sandbox.wait(1, kind="send", state="answered", after=before)
        await asyncio.sleep(0.2)  # time itself: the refusal is recorded, and the next try is a second away
        async with no_file_is_settled(world) as gate:
            sent.append(await senders.photo())
            await gate.until_one_waits()
            await asyncio.to_thread(world.fleet.replicas[0].kill)
    for fault in faults:
        await sandbox.remove_fault(fault)
    await world.restart(0)
    for person, _ in sent:
        await sandbox.wait(1, kind="send", processed="true", to=person.wa_id, timeout_seconds=30)
    await world.until_quiet(QUIET_SECONDS)
    read = Counter(entry["text"] for entry in await sandbox.record(kind="download", processed="true", after=before))
    if read != Counter(source_id for _, source_id in sent):
        raise Broken(
            f"of {len(sent)} files {len(read)} were read, the most read one {max(read.values(), default=0)} times"
        )
    for person, _ in sent:
        answers = await sandbox.record(kind="send", processed="true", to=person.wa_id)
        if len(answers) != 1:
            raise Broken(f"{len(answers)} answers to one photo")


class Gate:
    """Holds back every call that says that a file is kept: what it says is not committed."""

    TURN = 4711

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def close(self) -> None:
        await self._connection.execute(
            f"""select pg_advisory_lock({self.TURN});
            create function public.wait_at_the_gate() returns trigger language plpgsql as
            $$ begin perform pg_advisory_xact_lock({self.TURN}); return new; end $$;
            create trigger gate before update on media for each row
            when (new.state = 'kept' and old.state <> 'kept') execute function public.wait_at_the_gate()"""
        )

    async def until_one_waits(self) -> None:
        async with asyncio.timeout(10):
            while not await self._waiting():
                await asyncio.sleep(0.02)

    async def open(self) -> None:
        """The server does not notice that a client is gone while its call waits for a lock, and would carry it out."""
        for backend in await self._waiting():
            await self._connection.execute("select pg_terminate_backend($1)", backend)
        await self._connection.execute(
            f"""select pg_advisory_unlock({self.TURN});
            drop trigger gate on media; drop function public.wait_at_the_gate()"""
        )

    async def _waiting(self) -> list[int]:
        waits = "select pid from pg_locks where locktype = 'advisory' and objid = $1 and not granted"
        return [row["pid"] for row in await self._connection.fetch(waits, self.TURN)]


@asynccontextmanager
async def no_file_is_settled(world: ChaosWorld) -> AsyncIterator[Gate]:
    """In the block. What waits when it ends was said by a worker that is dead by then."""
    connection = await asyncpg.connect(world.servers.database_url)
    try:
        gate = Gate(connection)
        await gate.close()
        try:
            yield gate
        finally:
            await gate.open()
    finally:
        await connection.close()


async def hanging_files(world: ChaosWorld, *, seconds: float = 15.0) -> Fairness:
    """200 files whose host stops half-way, and the texts of another account beside them."""
    stage, (stuck, healthy) = Stage(world), world.businesses[:2]
    count = round(CUSTOMERS_PER_SECOND * seconds)
    await replies(world, stage, healthy, CUSTOMERS_PER_SECOND, 1.0)
    without = await replies(world, stage, healthy, count, seconds)
    before = (await world.sandbox.summary())["last_seq"]
    stall = await world.sandbox.add_fault("whatsapp", file="stall", match={"operation": "download"})
    senders = Sender(world, stuck)
    await asyncio.gather(*(senders.photo(replica=number % 3) for number in range(HANGING)))
    await world.sandbox.wait(10, kind="download", after=before)
    during = await replies(world, stage, healthy, count, seconds)
    await world.sandbox.remove_fault(stall)
    await stage.ends_well()
    return Fairness(f"{HANGING} downloads hang", without, during)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each replica: at rest, and the most while the files came."""

    at_rest: Sequence[int]
    most: Sequence[int]
    kept: int
    seconds: float

    @property
    def growth(self) -> int:
        return max(most - rest for rest, most in zip(self.at_rest, self.most, strict=True))

    def problems(self) -> list[str]:
        found = [f"a replica grew by {self.growth >> 20} MiB"] if self.growth > MOST_GROWTH_BYTES else []
        return found + ([f"{self.kept} of {LARGE} files were kept"] if self.kept != LARGE else [])

    def table(self) -> str:
        rows = (
            (f"{LARGE} files of {LARGE_BYTES >> 20} MiB at once: all kept after", f"{self.seconds:.0f} s"),
            ("  a replica's memory at rest", f"{max(self.at_rest) >> 20} MiB"),
            ("  the most that one grew by", f"{self.growth >> 20} MiB"),
        )
        return "\n".join(f"{name:<66} {value}" for name, value in rows)


async def large_files(world: ChaosWorld) -> Memory:
    """50 customers send a file of 16 MiB each, at once."""
    senders, loop = Sender(world, world.businesses[0]), asyncio.get_running_loop()
    await senders.photo()  # what is loaded with the first file
    await world.until_quiet(QUIET_SECONDS)
    at_rest = _resident(world)
    most, started = list(at_rest), loop.time()
    content = b"\xff\xd8\xff" + secrets.token_bytes(LARGE_BYTES - 3)
    # One upload: the stand-in keeps no more than 256 MB. Each message's file is fetched all the same.
    source_id = await world.sandbox.upload(content, "image/jpeg")
    people = [Person(f"3371{next(_numbers):07d}", "Flora") for _ in range(LARGE)]
    messages = [wa.file(person, "image", source_id, content) for person in people]
    await asyncio.gather(
        *(senders.post(who, what, replica=n % 3) for n, (who, what) in enumerate(zip(people, messages, strict=True)))
    )

    async def kept() -> int:
        return int(await world.value("select count(*) from media where state = 'kept' and size = $1", LARGE_BYTES))

    async with asyncio.timeout(LARGE_SECONDS):
        while await kept() < LARGE or await world.redis.get("chorus:{q0}:depth") not in (None, b"0"):
            most = [max(pair) for pair in zip(most, _resident(world), strict=True)]
            await asyncio.sleep(LOOK_SECONDS)
    return Memory(at_rest, most, await kept(), loop.time() - started)


def _resident(world: ChaosWorld) -> list[int]:
    return [_rss(replica.pid or 0) for replica in world.fleet.replicas]


def _rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = [each for each in status.splitlines() if each.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
