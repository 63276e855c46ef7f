"""What one replica, one Redis and one Postgres carry, and how an answer's cost grows: with the accounts, the history of
a conversation, the replicas and the backlog. Takes some ten minutes and writes its table and plot into `docs/`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import asyncpg

from app.core.queue import Event, Queue, QueuePolicy
from app.core.redis.door import Door
from tests.bench.answer import PATIENCE_SECONDS, Contender, add_replica, contenders_on, play_round
from tests.bench.child import ROOT, Child
from tests.bench.document import write_block
from tests.bench.ingest import pid_of
from tests.bench.machine import Stage, load, postgres_seconds, process_seconds, redis_seconds
from tests.bench.plot import Chart, svg
from tests.bench.report import Bar, number

BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)
ACCOUNTS = (10, 100, 1_000, 10_000)
HISTORIES = (10, 100, 1_000, 10_000)
REPLICAS = (1, 2, 3, 4)
CUSTOMERS = 100
"""Conversations with a long history."""
MESSAGES = 1000
AT_ONCE = 500
"""Conversations that are claimed and finished beside a backlog."""
PUT = 1000
MODEL_SECONDS = 1.0
TEXT = "Do you take cards, and until when are you open on Saturdays? I would come by with my sister. "


@dataclass(frozen=True, slots=True)
class Row:
    """One size of one thing that grows. CPU in ms for each answer, or for each message of a backlog."""

    size: int
    per_second: float
    replica_ms: float
    postgres_ms: float
    redis_ms: float


@dataclass
class Growth:
    what: str
    unit: str
    rows: list[Row] = field(default_factory=list)


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    quiet = load()
    with Child(sys.executable, "stand_in") as world:
        outside = f"http://127.0.0.1:{world.answer(PATIENCE_SECONDS)['port']}"
        facts = _footprint(stage, world, outside)
        accounts = _accounts(stage, world, outside)
        histories = _histories(stage, world, outside)
        replicas = _replicas(stage, world, outside)
    backlog, waiting_bytes = asyncio.run(_backlog(stage))
    facts.append(f"A message of {len(TEXT)} characters that waits takes {waiting_bytes / 1000:.2f} kB of Redis.")
    grown = (accounts, histories, replicas, backlog)
    lines = [
        "| grows | to | in a second | CPU of replicas, ms each | of Postgres | of Redis |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for growth in grown:
        for row in growth.rows:
            costs = " | ".join(map(number, (row.replica_ms, row.postgres_ms, row.redis_ms)))
            lines.append(f"| {growth.what} | {row.size:,} | {number(row.per_second)} {growth.unit} | {costs} |")
    (ROOT / "docs" / "sizing.svg").write_text(_plot(grown), encoding="utf-8")
    command = f"`make bench BENCH=sizing`, {time.strftime('%Y-%m-%d')}, {quiet}"
    block = [*lines, "", *(f"- {fact}" for fact in facts), "", command, "", "![how the cost grows](sizing.svg)"]
    write_block(ROOT / "docs" / "operations.md", "sizing", block)
    return [*lines, *facts], [
        Bar("an answer's CPU with 10,000 accounts, times 10", _times(accounts), 1.5, "x", at_most=True),
        Bar("an answer's CPU with 10,000 messages before it, times 10", _times(histories), 1.5, "x", at_most=True),
        Bar("Redis' CPU for each of 1,000,000 that wait, times 1,000", _times(backlog), 1.5, "x", at_most=True),
    ]


def _times(growth: Growth) -> float:
    """What the largest costs in all, beside the smallest."""
    first, last = (row.replica_ms + row.postgres_ms + row.redis_ms for row in (growth.rows[0], growth.rows[-1]))
    return last / first


# -- what is stored ----------------------------------------------------------------------------------------------------


def _footprint(stage: Stage, world: Child, outside: str) -> list[str]:
    """Of customers who are answered a second time."""
    with contenders_on(stage, outside, {"now": ROOT}, "footprint", DEBOUNCE_SECONDS="0") as (replica,):
        play_round(stage, world, replica, MESSAGES)
        stored, kept = asyncio.run(_size(replica)), stage.redis.info("memory")["used_memory"]
        row = _measured(stage, world, replica, MESSAGES, size=1)
        kilobytes = (asyncio.run(_size(replica)) - stored) / MESSAGES / 1000
        remembered = (stage.redis.info("memory")["used_memory"] - kept) / MESSAGES
        resident = _resident(replica.pid)
    busy = f"A replica that is never idle: {number(row.per_second)} answers/s, {number(row.replica_ms)} ms of CPU each"
    ids = f"{remembered:.0f} bytes of Redis for the eight days that its id is remembered"
    day = f"{kilobytes:.1f} GB of Postgres a day, {8 * 4 * remembered / 1000:.1f} GB of Redis for the ids of eight days"
    return [
        f"{busy}, {resident / 1e6:.0f} MB resident.",
        f"A message with its answer takes {kilobytes:.1f} kB of Postgres, indexes included, and {ids}.",
        f"A million messages a day: {day}, three statuses for each answer included.",
    ]


def _resident(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def _size(contender: Contender) -> int:
    connection = await asyncpg.connect(contender.database)
    try:
        return int(await connection.fetchval("select pg_database_size(current_database())"))
    finally:
        await connection.close()


# -- what grows --------------------------------------------------------------------------------------------------------


def _accounts(stage: Stage, world: Child, outside: str) -> Growth:
    growth = Growth("accounts", "answers/s")
    with contenders_on(stage, outside, {"now": ROOT}, "accounts", DEBOUNCE_SECONDS="0") as (replica,):
        play_round(stage, world, replica, CUSTOMERS)
        for size in ACCOUNTS:
            replica.numbers = asyncio.run(_more_accounts(replica, size))
            growth.rows.append(_measured(stage, world, replica, MESSAGES, size=size))
    return growth


async def _more_accounts(contender: Contender, size: int) -> tuple[str, ...]:
    """The first account copied until there are so many. Their numbers."""
    connection = await asyncpg.connect(contender.database)
    try:
        await connection.execute(
            """insert into whatsapp_accounts (name, slug, phone_number_id, access_token, verify_token)
               select 'Copy ' || n, 'copy-' || n, (2063405423000000 + n)::text, access_token, verify_token || n
               from generate_series(1, $1) n, (select * from whatsapp_accounts order by created_at limit 1) a
               on conflict do nothing""",
            size - len(contender.numbers) if size > len(contender.numbers) else 0,
        )  # fmt: skip
        found = await connection.fetch(
            "select phone_number_id from whatsapp_accounts order by created_at, phone_number_id limit $1", size
        )
        return tuple(row["phone_number_id"] for row in found)
    finally:
        await connection.close()


def _histories(stage: Stage, world: Child, outside: str) -> Growth:
    growth = Growth("messages of a conversation", "answers/s")
    with contenders_on(stage, outside, {"now": ROOT}, "history", DEBOUNCE_SECONDS="0") as (replica,):
        play_round(stage, world, replica, CUSTOMERS)
        for size in HISTORIES:
            asyncio.run(_longer_histories(replica, size))
            # Four rounds: after twenty automatic replies in ten minutes the bot leaves a customer to a person.
            growth.rows.append(_measured(stage, world, replica, CUSTOMERS, rounds=4, size=size))
    return growth


async def _longer_histories(contender: Contender, size: int) -> None:
    """Every conversation gets as many messages as are lacking, older than those it has."""
    connection = await asyncpg.connect(contender.database, command_timeout=PATIENCE_SECONDS * 5)
    try:
        await connection.execute(
            """insert into messages (account_id, conversation_id, direction, author, type, text, status, timestamp)
               select c.account_id, c.id, (array['inbound', 'outbound'])[1 + n % 2],
                      (array['customer', 'bot'])[1 + n % 2], 'text', $2 || n, (array['received', 'sent'])[1 + n % 2],
                      now() - interval '1 day' - n * interval '1 minute'
               from conversations c
               cross join lateral
                 generate_series((select count(*) from messages m where m.conversation_id = c.id), $1) n
            """,
            size, TEXT,
        )  # fmt: skip
        await connection.execute("vacuum analyze messages")
    finally:
        await connection.close()


def _replicas(stage: Stage, world: Child, outside: str) -> Growth:
    """The default concurrency, and a model that takes a second."""
    growth = Growth("replicas, model 1 s", "answers/s")
    with contenders_on(stage, outside, {"now": ROOT}, "replicas") as (fleet,):
        play_round(stage, world, fleet, CUSTOMERS)
        for size in REPLICAS:
            while 1 + len(fleet.beside) < size:
                add_replica(fleet)
            growth.rows.append(_measured(stage, world, fleet, MESSAGES, size=size, model_seconds=MODEL_SECONDS))
    return growth


async def _backlog(stage: Stage) -> tuple[Growth, float]:
    """Conversations with a message each wait; some are claimed and finished. With the bytes of each."""
    stage.empty_redis()
    growth, waiting, held = Growth("conversations that wait", "claimed and done/s"), 0, 0
    empty = stage.redis.info("memory")["used_memory"]
    async with _queue(stage) as queue:
        for size in BACKLOGS:
            waiting = await _fill(queue, waiting, size)
            redis, started = redis_seconds(stage.redis), time.monotonic()
            for _ in range(AT_ONCE // 100):
                claims = await queue.claim(100)
                await asyncio.gather(*map(queue.done, claims))
            seconds, redis = time.monotonic() - started, redis_seconds(stage.redis) - redis
            growth.rows.append(Row(size, AT_ONCE / seconds, 0.0, 0.0, 1000 * redis / AT_ONCE))
            held = stage.redis.info("memory")["used_memory"] - empty
            waiting -= AT_ONCE
    return growth, held / waiting


@asynccontextmanager
async def _queue(stage: Stage) -> AsyncIterator[Queue]:
    async with AsyncExitStack() as stack:
        doors = [Door.to(stage.redis_url), Door.to(stage.redis_url)]
        for door in doors:
            stack.push_async_callback(door.aclose)
        queue = Queue(
            *doors,
            policy=QueuePolicy(
                debounce_seconds=0, max_pending=2_000_000, max_bytes=10**10, put_timeout_seconds=PATIENCE_SECONDS
            ),
            namespace="backlog",
        )
        stack.push_async_callback(queue.aclose)
        yield queue


async def _fill(queue: Queue, waiting: int, size: int) -> int:
    payload = json.dumps({"type": "text", "text": TEXT}).encode()
    for first in range(waiting, size, PUT):
        stamp = time.monotonic_ns()
        events = [
            Event(f"wamid.{stamp}{n}", f"{n % 1000}:{stamp}{n}", payload) for n in range(first, min(first + PUT, size))
        ]
        await queue.put(events)
    return size


# -- measuring ---------------------------------------------------------------------------------------------------------


def _measured(
    stage: Stage, world: Child, fleet: Contender, messages: int, *, size: int, rounds: int = 1,
    model_seconds: float = 0.0,
) -> Row:  # fmt: skip
    pids = [fleet.pid, *map(pid_of, fleet.beside)]
    replicas, postgres = sum(map(process_seconds, pids)), asyncio.run(postgres_seconds(stage.database_url))
    fleet.rates, fleet.redis_ms = [], []
    for _ in range(rounds):
        play_round(stage, world, fleet, messages, model_seconds=model_seconds, keep=True)
    replicas = sum(map(process_seconds, pids)) - replicas
    postgres = asyncio.run(postgres_seconds(stage.database_url)) - postgres
    answers = rounds * messages
    return Row(size, median(fleet.rates), 1000 * replicas / answers, 1000 * postgres / answers, median(fleet.redis_ms))


def _plot(grown: Sequence[Growth]) -> str:
    costs = {"replicas": "replica_ms", "Postgres": "postgres_ms", "Redis": "redis_ms"}
    return svg(
        [
            Chart(
                f"CPU for each answer, by {growth.what}", growth.what, "ms",
                {name: [(row.size, getattr(row, key)) for row in growth.rows] for name, key in costs.items()},
                log_x=growth.rows[-1].size > 100,
            )
            for growth in grown
        ]
    )  # fmt: skip
