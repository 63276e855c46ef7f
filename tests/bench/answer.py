"""What an answer costs: this tree beside an earlier commit and a floor, on the same servers, in turns.

Every message is another customer's. Measured are the CPU of the replica (webhook, answer and bookkeeping), the answers
of one replica in a second, and the transactions of the database, with stand-ins that answer at once and with a model
that takes a second; webhooks beside a worker that has all it can do; and what it costs that other systems may listen.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import orjson

from app.localhost.fleet import Served
from app.localhost.processes import run as run_command
from app.sandbox.webhooks import (
    Business,
    Person,
    encode_like_meta,
    envelope,
    messages_change,
    status,
    statuses_change,
    text,
)
from tests.bench.child import ROOT, BenchError, Child
from tests.bench.ingest import pid_of
from tests.bench.machine import Stage, core_plan, pinned, postgres_seconds, process_seconds, redis_seconds
from tests.bench.report import Bar, number, percentile, quotients_of_pairs, ratio, table, uncertainty
from tests.bench.traffic import http_request, post

BEFORE = "a5e8d28"
"""The version before answers were made cheaper."""
ROUNDS = 3
WATCHED_BLOCKS = 9
"""Four rounds each, in both orders: the machine's drift falls on both sides alike. With more of them the bot would take
the customers, who write once in every second round, for robots."""
HEARD_SECONDS = 0.3
"""After a round: what is told last waits for the next call to Redis."""
MESSAGES = 400
WARM_UP = 100
ACCOUNTS = 20
POSTERS = 16
"""Each waits for its 200 before it posts again. Four of them posted no faster than a replica answered."""
SLOW_SECONDS = 1.0
SLOW_CONCURRENCY = 200
SLOW_MESSAGES = 1000
BACKLOG = 3000
WEBHOOKS_PER_SECOND = 50
WEBHOOK_SECONDS = 8.0
FLUSH_SECONDS = 11.0
"""PostgreSQL's idle connections report what they counted after ten seconds."""
PATIENCE_SECONDS = 120.0

_serials = count(1)


@dataclass
class Contender:
    """One version, with a replica, a database and a namespace of its own. Figures of each round."""

    name: str
    database: str
    pid: int
    replica: Served | None = None
    floor: Child | None = None
    folder: Path = Path()
    env: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    beside: list[Served] = field(default_factory=list)
    """More replicas of the same; each takes its share of the webhooks."""
    tells: bool = False
    """Other systems listen."""
    settle_seconds: float = 0.0
    """What is done after the last send, and counts."""
    cpu_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    redis_ms: list[float] = field(default_factory=list)
    postgres_ms: list[float] = field(default_factory=list)
    outside_ms: list[float] = field(default_factory=list)
    """Of the stand-ins, and of this process, which posts and waits."""
    exchanges: list[float] = field(default_factory=list)
    answered: int = 0
    transactions: float = 0.0


@dataclass
class Heard:
    """On each account's stream, so far."""

    events: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    """Chunks, and the lines of the head."""

    def total(self) -> tuple[int, int]:
        return self.events.total(), self.writes.total()


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    lines, bars = [], []
    with Child(sys.executable, "stand_in") as world:
        outside = f"http://127.0.0.1:{world.answer(PATIENCE_SECONDS)['port']}"
        trees = _trees(stage.folder)
        if len(trees) == 1:
            lines.append(f"  without {BEFORE}: there is no history here")
        for part in (_at_once, _slow_model, _other_systems, _watched):
            said, judged = part(stage, world, outside, trees)
            lines += said
            bars += judged
    return lines, bars


def _at_once(stage: Stage, world: Child, outside: str, trees: Mapping[str, Path]) -> tuple[list[str], list[Bar]]:
    with contenders_on(stage, outside, trees, "once", DEBOUNCE_SECONDS="0") as contenders:
        floor = _floor(stage, outside, contenders)
        everyone = [*contenders, floor]
        with floor.floor or ExitStack(), _one_core_each(stage, world, everyone):
            for each in everyone:
                play_round(stage, world, each, WARM_UP)
            with _transactions(stage, everyone):
                for _ in range(ROUNDS):
                    for each in everyone:
                        play_round(stage, world, each, MESSAGES, keep=True)
            refused, delays, left = _webhooks(stage, world, contenders[0])
    now = contenders[0]
    lines = [
        table("CPU of the replica, stand-ins at 0 ms", "ms an answer", {each.name: each.cpu_ms for each in everyone}),
        table("answers of one replica", "answers/s", {each.name: each.rates for each in everyone}),
        *(
            f"  {each.name}: {number(each.transactions)} transactions, {number(median(each.exchanges))} HTTP exchanges "
            f"and {number(median(each.redis_ms))} ms of Valkey an answer"
            for each in everyone
        ),
        *(_busy(each) for each in everyone),
    ]
    p50, p99 = (1000 * percentile(delays, percent) for percent in (50, 99))
    lines.append(
        f"  {len(delays)} webhooks at {WEBHOOKS_PER_SECOND}/s beside {BACKLOG} messages ({left} of them still waiting "
        f"at the end): p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )
    bars = [Bar("an answer's CPU, times the floor", ratio(now.cpu_ms, floor.cpu_ms), 1.6, "x", at_most=True)]
    for before in contenders[1:]:
        bars += [
            Bar(f"an answer's CPU, share of {before.name}", ratio(now.cpu_ms, before.cpu_ms), 0.5, "x", at_most=True),
            Bar(f"answers/s of one replica, times {before.name}", ratio(now.rates, before.rates), 2, "x"),
        ]
    return lines, [
        *bars,
        Bar("transactions an answer", now.transactions, 4.2, at_most=True),
        Bar("webhooks refused beside a busy worker", refused, 0, at_most=True),
        Bar("webhooks beside a busy worker, p99", p99, 250, " ms", at_most=True),
    ]


def _busy(each: Contender) -> str:
    """What bounds the answers in a second: the core of the replica, or the other one."""
    share = median(each.rates) / 10  # ms an answer become percent of a core
    own, postgres, valkey, outside = (
        share * median(ms) for ms in (each.cpu_ms, each.postgres_ms, each.redis_ms, each.outside_ms)
    )
    return (
        f"  {each.name} has its core busy for {own:.0f} %, the other one has {postgres + valkey + outside:.0f} %: "
        f"PostgreSQL {postgres:.0f} %, Valkey {valkey:.0f} %, stand-ins and load generator {outside:.0f} %"
    )


def _slow_model(stage: Stage, world: Child, outside: str, trees: Mapping[str, Path]) -> tuple[list[str], list[Bar]]:
    lines, bars = [], []
    with contenders_on(stage, outside, trees, "slow", WORKER_CONCURRENCY=str(SLOW_CONCURRENCY)) as contenders:
        for each in contenders:
            play_round(stage, world, each, WARM_UP)
        for each in contenders:
            with _transactions(stage, [each]):
                play_round(stage, world, each, SLOW_MESSAGES, model_seconds=SLOW_SECONDS, keep=True)
            outcomes = _outcomes(each)
            sends = world.ask("sent", PATIENCE_SECONDS)["sends"][:MESSAGES]
            answers = each.transactions
            each.answered, each.transactions = 0, 0.0
            with _transactions(stage, [each]):
                status_ms = _statuses(stage, each, sends)
            lines.append(
                f"  {each.name}, model {SLOW_SECONDS:.0f} s, {SLOW_CONCURRENCY} at once: {number(each.rates[0])} "
                f"answers/s, {number(each.cpu_ms[0])} ms of CPU and {number(answers)} transactions each, "
                f"outcomes {outcomes}; its three statuses: {number(status_ms)} ms, {number(each.transactions)} "
                "transactions"
            )
            if each is contenders[0]:
                postponed = sum(n for outcome, n in outcomes.items() if outcome != "replied")
                bars = [
                    Bar("answers/s of one replica, model 1 s", each.rates[0], 110, "/s"),
                    Bar("transactions an answer, model 1 s", answers, 4.2, at_most=True),
                    Bar("postponed by our own limits, model 1 s", postponed, 0, at_most=True),
                    Bar(
                        "CPU that three statuses add to an answer", 100 * status_ms / each.cpu_ms[0], 25, " %",
                        at_most=True,
                    ),
                ]  # fmt: skip
    return lines, bars


def _other_systems(stage: Stage, world: Child, outside: str, _trees: Mapping[str, Path]) -> tuple[list[str], list[Bar]]:
    """This tree three times: an outbox that looks for no webhook, no webhook, and one that hears of everything."""
    labels = ("no_outbox", "no_webhook", "one_webhook")
    with contenders_on(
        stage, outside, dict.fromkeys(labels, ROOT), "told", DEBOUNCE_SECONDS="0", EVENTS_ALLOW_PRIVATE="true"
    ) as contenders:
        without, none, one = contenders
        asyncio.run(_switch_off_the_outbox(without.database))
        one.tells = True
        _listen(stage, one, f"{outside}/told")
        with _one_core_each(stage, world, contenders):
            for each in contenders:
                play_round(stage, world, each, WARM_UP)
            with _transactions(stage, contenders):
                for _ in range(ROUNDS):
                    for each in contenders:
                        play_round(stage, world, each, MESSAGES, keep=True)
                events = world.ask("events", PATIENCE_SECONDS)["events"]
    lines = [
        table(
            "CPU of the replica, as other systems listen",
            "ms an answer",
            {each.name: each.cpu_ms for each in contenders},
        ),
        *(f"  {each.name}: {number(each.transactions)} transactions an answer" for each in contenders),
    ]
    return lines, [
        Bar(
            "an answer's CPU with no webhook, share of no outbox",
            ratio(none.cpu_ms, without.cpu_ms),
            1.05,
            "x",
            at_most=True,
        ),
        Bar("events told to one webhook, an answer", events / (ROUNDS * MESSAGES + WARM_UP), 2),
    ]


def _watched(stage: Stage, world: Child, outside: str, _trees: Mapping[str, Path]) -> tuple[list[str], list[Bar]]:
    """One replica, which does both: it answers, and it serves a stream of events for each of 20 accounts. Messages go
    to those or to 20 others, in turns: two processes of the same code differ by more than what is looked for. With the
    usual debouncing, because a message that waits for it is stored early for those who watch."""
    with contenders_on(stage, outside, {"both": ROOT}, "live") as (both,):
        assert both.replica is not None
        more = tuple(new_account(both.replica, stage.keys.admin, n) for n in range(ACCOUNTS, 2 * ACCOUNTS))
        unwatched = replace(both, name="unwatched", settle_seconds=HEARD_SECONDS, cpu_ms=[])
        watched = replace(unwatched, name="watched", numbers=more, cpu_ms=[])
        with _streams(stage, watched) as heard, _one_core_each(stage, world, [both]):
            for each in (unwatched, watched):
                play_round(stage, world, each, WARM_UP)
            before = heard.total()
            for _ in range(WATCHED_BLOCKS):
                for each in (unwatched, watched, watched, unwatched):
                    play_round(stage, world, each, MESSAGES, keep=True)
            events, writes = (now - then for now, then in zip(heard.total(), before, strict=True))
    per_events, per_writes = events / watched.answered, writes / watched.answered
    shares = quotients_of_pairs(watched.cpu_ms, unwatched.cpu_ms)
    lines = [
        table(
            "CPU of the replica, as people watch",
            "ms an answer",
            {each.name: each.cpu_ms for each in (unwatched, watched)},
        ),
        f"  {len(heard.events)} streams read {number(per_events)} events an answer in {number(per_writes)} writes",
        f"  watched, times unwatched: {median(shares):.3f} ± {uncertainty(shares):.3f}, of {len(shares)} pairs",
    ]
    return lines, [
        Bar("an answer's CPU with a stream on its account, share of without", median(shares), 1.03, "x", at_most=True),
        Bar("events read on a stream, an answer", per_events, 2),
    ]


@contextmanager
def _streams(stage: Stage, who: Contender) -> Iterator[Heard]:
    """One on each of its accounts, read by a thread."""
    assert who.replica is not None
    heard = Heard()
    connections = []
    accounts = _api(who.replica, stage.keys.admin, "/accounts")
    for account in (account for account in accounts if account["phone_number_id"] in who.numbers):
        connection = socket.create_connection(("127.0.0.1", who.replica.port), timeout=PATIENCE_SECONDS)
        head = f"GET /events?account_id={account['id']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.keys.admin}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        connections.append((account["id"], connection))

    def read(account_id: str, connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                heard.events[account_id] += line.startswith(b"event: ")
                heard.writes[account_id] += line.endswith(b"\r\n") and line != b"\r\n"

    with ThreadPoolExecutor(len(connections)) as pool:
        for account_id, connection in connections:
            heard.events[account_id] = 0
            pool.submit(read, account_id, connection)
        try:
            yield heard
        finally:
            for _, connection in connections:
                connection.shutdown(socket.SHUT_RDWR)


async def _switch_off_the_outbox(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "create or replace function chorus.is_heard(account uuid, kind text) returns boolean"
            " language sql stable return false"
        )
    finally:
        await connection.close()


def _listen(stage: Stage, who: Contender, url: str) -> None:
    assert who.replica is not None
    body = {"url": url, "events": ["message.received", "message.sent", "conversation.needs_human"]}
    for account in _api(who.replica, stage.keys.admin, "/accounts"):
        _api(who.replica, stage.keys.admin, f"/accounts/{account['id']}/webhooks", body)


async def _untold(database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        return int(await connection.fetchval("select count(*) from outbox"))
    finally:
        await connection.close()


# -- the contenders ----------------------------------------------------------------------------------------------------


def _trees(folder: Path) -> dict[str, Path]:
    """Where the code of each version is; this one first."""
    trees = {"now": ROOT}
    done = subprocess.run(
        ["git", "-C", ROOT, "archive", BEFORE, "backend", "infra/supabase"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0:
        tree = folder / BEFORE
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            archive.extractall(tree, filter="data")
        trees[BEFORE] = tree
    return trees


@contextmanager
def contenders_on(
    stage: Stage, outside: str, trees: Mapping[str, Path], label: str, **settings: str
) -> Iterator[list[Contender]]:
    stage.empty_redis()
    contenders: list[Contender] = []
    try:
        for name, tree in trees.items():
            contenders.append(contender_on(stage, outside, name, tree, f"{label}_{name}", settings))
        yield contenders
    finally:
        for each in contenders:
            for replica in (each.replica, *each.beside):
                if replica is not None:
                    replica.stop()


def contender_on(stage: Stage, outside: str, name: str, tree: Path, label: str, settings: dict[str, str]) -> Contender:
    database = asyncio.run(new_database(stage, f"answer_{label}"))
    keys = stage.keys
    env = {
        "PATH": os.environ["PATH"], "HOME": str(stage.folder), "PYTHONPATH": str(tree / "backend"),
        "REDIS_URL": stage.redis_url, "REDIS_NAMESPACE": label, "DATABASE_URL": database,
        "META_APP_SECRET": keys.app_secret, "ADMIN_API_KEY": keys.admin, "ENCRYPTION_KEY": keys.encryption,
        "WHATSAPP_VERIFY_TOKEN": keys.verify_token, "GEMINI_API_KEY": "stand-in", "WHATSAPP_BASE_URL": outside,
        "GEMINI_BASE_URL": outside, "DRAIN_SECONDS": "0.5", "WHATSAPP_MESSAGES_PER_SECOND": "1000",
    } | settings  # fmt: skip
    folder = stage.folder / label
    folder.mkdir()
    done = run_command([sys.executable, "-m", "app.cli", "migrate"], env=env, cwd=folder, timeout_seconds=60)
    if done.returncode:
        raise BenchError(f"{name}: {done.stdout}{done.stderr}")
    replica = _started(f"answer-{label}", folder, env)
    numbers = tuple(new_account(replica, keys.admin, n) for n in range(ACCOUNTS))
    return Contender(name, database, pid_of(replica), replica, numbers=numbers, folder=folder, env=env)


def add_replica(contender: Contender) -> None:
    name = f"{contender.name}-{len(contender.beside) + 2}"
    contender.beside.append(_started(name, contender.folder, contender.env))


def _started(name: str, folder: Path, env: Mapping[str, str]) -> Served:
    replica = Served(name, ["serve"], folder=folder, env=env, ready="/health/ready", port=None)
    replica.start()
    return replica


def _floor(stage: Stage, outside: str, contenders: Sequence[Contender]) -> Contender:
    database = asyncio.run(new_database(stage, "answer_floor"))
    env = os.environ | {"DATABASE_URL": database, "REDIS_URL": stage.redis_url}
    done = run_command(
        [sys.executable, "-m", "app.cli", "migrate"],
        env={**env, "PYTHONPATH": str(ROOT / "backend")}, cwd=stage.folder, timeout_seconds=60,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"the floor: {done.stdout}{done.stderr}")
    child = Child(sys.executable, "answer_floor", env=env)
    child.ask("open", PATIENCE_SECONDS, accounts=ACCOUNTS, stand_in=outside)
    return Contender("floor", database, child.pid, floor=child)


async def new_database(stage: Stage, name: str) -> str:
    connection = await asyncpg.connect(stage.database_url)
    try:
        await connection.execute(f'create database "{name}"')
    finally:
        await connection.close()
    return f"{stage.database_url.rpartition('/')[0]}/{name}"


def new_account(replica: Served, key: str, n: int) -> str:
    phone_number_id = f"1063405423{n:05d}"
    body = {
        "name": f"Bench {n}", "slug": f"bench-{n}", "phone_number_id": phone_number_id,
        "access_token": "a-token-of-the-stand-in", "verify_token": f"a-verify-token-{n}",
    }  # fmt: skip
    _api(replica, key, "/accounts", body)
    return phone_number_id


def _api(replica: Served, key: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    asked = urllib.request.Request(replica.url + path, orjson.dumps(body) if body else None, headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as response:
        return orjson.loads(response.read())


@contextmanager
def _one_core_each(stage: Stage, world: Child, contenders: Sequence[Contender]) -> Iterator[None]:
    """Who answers has a core to itself; the servers, the stand-ins and this process share another."""
    plan = core_plan()
    if plan is None:
        yield
        return
    theirs, ours = plan
    others = {os.getpid(): ours, world.pid: ours, int(stage.redis.info("server")["process_id"]): ours}
    with pinned({each.pid: theirs for each in contenders} | others):
        yield


# -- the rounds --------------------------------------------------------------------------------------------------------


def play_round(
    stage: Stage, world: Child, who: Contender, messages: int, *, model_seconds: float = 0.0, keep: bool = False
) -> None:
    world.ask("reset", PATIENCE_SECONDS, model_seconds=model_seconds)
    postgres, outside = asyncio.run(postgres_seconds(stage.database_url)), _outside_seconds(world)
    valkey, cpu, started = redis_seconds(stage.redis), process_seconds(who.pid), time.monotonic()
    if who.floor is not None:
        who.floor.ask("run", PATIENCE_SECONDS, messages=messages)
    else:
        post_all(who, questions(stage, who, messages))
    result = world.ask("wait", 2 * PATIENCE_SECONDS, sends=messages, seconds=PATIENCE_SECONDS)
    wait_until_idle(stage, who)
    time.sleep(who.settle_seconds)
    sends = result["calls"].get("send", 0)
    if sends != messages:
        raise BenchError(f"{who.name}: {sends} sends for {messages} messages")
    if keep:
        who.cpu_ms.append(1000 * (process_seconds(who.pid) - cpu) / messages)
        who.redis_ms.append(1000 * (redis_seconds(stage.redis) - valkey) / messages)
        who.outside_ms.append(1000 * (_outside_seconds(world) - outside) / messages)
        who.postgres_ms.append(1000 * (asyncio.run(postgres_seconds(stage.database_url)) - postgres) / messages)
        who.rates.append(messages / (result["last_send"] - started))
        who.exchanges.append(sum(result["calls"].values()) / messages)
        who.answered += messages


def _outside_seconds(world: Child) -> float:
    return process_seconds(world.pid) + time.process_time()


def questions(stage: Stage, who: Contender, messages: int) -> list[bytes]:
    """The same customers in every round: their history grows."""
    found = []
    for n in range(messages):
        person = Person(f"3367{n:07d}", f"Customer {n}")
        asked = text(person, "Do you take cards?", id=f"wamid.answer{next(_serials):012d}")
        change = messages_change(Business(who.numbers[n % len(who.numbers)]), [asked], [person])
        found.append(http_request(encode_like_meta(envelope(change)), stage.keys.app_secret))
    return found


def post_all(who: Contender, requests: Sequence[bytes]) -> None:
    posters = POSTERS * (1 + len(who.beside))

    def some(n: int) -> None:
        with _connection(who, n) as connection:
            for request in requests[n::posters]:
                post(connection, request)

    with ThreadPoolExecutor(posters) as pool:
        list(pool.map(some, range(posters)))


def _connection(who: Contender, n: int = 0) -> socket.socket:
    """To each of its replicas in turn."""
    assert who.replica is not None
    replicas = [who.replica, *who.beside]
    return socket.create_connection(("127.0.0.1", replicas[n % len(replicas)].port), timeout=PATIENCE_SECONDS)


def _pending(stage: Stage, who: Contender) -> int:
    assert who.replica is not None
    return int(_api(who.replica, stage.keys.admin, "/admin/queue")["pending"])


def wait_until_idle(stage: Stage, who: Contender) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while who.replica is not None and (_pending(stage, who) or (who.tells and asyncio.run(_untold(who.database)))):
        if time.monotonic() > deadline:
            raise BenchError(f"{who.name}: the queue does not become empty")
        time.sleep(0.05)


def _statuses(stage: Stage, who: Contender, sends: Sequence[Mapping[str, str]]) -> float:
    """CPU in ms for the three statuses of a message, each in a POST of its own, by as many clients as post messages."""
    requests = []
    for send in sends:
        for name in ("sent", "delivered", "read"):
            said = status(send["wamid"], name, recipient=send["to"], callback_data=send["key"])
            change = statuses_change(Business(send["number"]), [said])
            requests.append(http_request(encode_like_meta(envelope(change)), stage.keys.app_secret))
    cpu = process_seconds(who.pid)
    post_all(who, requests)
    wait_until_idle(stage, who)
    who.answered = len(sends)
    return 1000 * (process_seconds(who.pid) - cpu) / len(sends)


def _webhooks(stage: Stage, world: Child, who: Contender) -> tuple[int, list[float], int]:
    """Refused, seconds of each that was taken, and how many messages still waited at the end."""
    world.ask("reset", PATIENCE_SECONDS, model_seconds=0.0)
    post_all(who, questions(stage, who, BACKLOG))
    requests = questions(stage, who, int(WEBHOOKS_PER_SECOND * WEBHOOK_SECONDS))
    began, refused, delays = time.monotonic(), Counter[str](), []

    def one(n: int) -> None:
        time.sleep(max(0.0, began + n / WEBHOOKS_PER_SECOND - time.monotonic()))
        with _connection(who) as connection:
            started = time.monotonic()
            try:
                post(connection, requests[n])
            except BenchError as exc:
                refused[str(exc)] += 1
            else:
                delays.append(time.monotonic() - started)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(len(requests))))
    return refused.total(), delays, _pending(stage, who)


def _outcomes(who: Contender) -> dict[str, int]:
    assert who.replica is not None
    lines = (orjson.loads(line) for line in who.replica.log_file.read_bytes().splitlines() if line.startswith(b"{"))
    handled = (line for line in lines if line.get("event") == "handled" and line["kind"] == "message")
    return dict(Counter(line["outcome"] for line in handled))


@contextmanager
def _transactions(stage: Stage, contenders: Sequence[Contender]) -> Iterator[None]:
    """Those of each contender in the block, by what was answered in it; its background loops' are among them."""
    before = _committed(stage)
    yield
    after = _committed(stage)
    for each in contenders:
        name = each.database.rpartition("/")[2]
        each.transactions = (after[name] - before[name]) / each.answered


def _committed(stage: Stage) -> dict[str, int]:
    async def ask() -> dict[str, int]:
        connection = await asyncpg.connect(stage.database_url)
        try:
            rows = await connection.fetch("select datname, xact_commit from pg_stat_database where datname is not null")
        finally:
            await connection.close()
        return {row["datname"]: row["xact_commit"] for row in rows}

    time.sleep(FLUSH_SECONDS)
    return asyncio.run(ask())
