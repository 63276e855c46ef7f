"""Chorus beside the service of `headline_before`: the same traffic, stand-ins and faults, in the same minutes.

`make bench BENCH=headline HEADLINE_SCALE=1` is the whole of it (5 minutes of traffic, an outage of Gemini of 60 s) and
writes the table and the plot into docs/. Without it everything lasts a fifth as long, and nothing is written.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import jwt

from app.core.http_client import close_http_client
from app.demo.bakery import BAKERY
from app.localhost.fleet import LocalFleet
from app.sandbox.client import SandboxClient
from app.sandbox.delivery import REDELIVERY_SECONDS
from app.sandbox.webhooks import Business, Person, encode_like_meta, envelope, messages_change, signed_headers, text
from tests.bench.child import ROOT, BenchError, Child
from tests.bench.document import write_block
from tests.bench.end_to_end import call_api
from tests.bench.headline_rest import SCHEMA
from tests.bench.machine import Stage, load, process_seconds, redis_seconds
from tests.bench.plot import Chart, svg
from tests.bench.report import Bar, number, percentile
from tests.support.proxy import Proxy

FULL_SECONDS = 300.0
OUTAGE_SECONDS, BLIP_SECONDS, HICCUP_SECONDS = 60.0, 5.0, 5.0
OUTAGE_AT, BLIPS_AT, HICCUP_AT = 0.2, (0.5, 0.6), 0.75
"""Shares of the traffic's time."""
MESSAGES_PER_SECOND, PANEL_PER_SECOND = 3.0, 12.0
META_SECONDS = 10.0
"""After that a request counts as a 5xx: a balancer would say 504. Meta gives up and delivers again."""
GRACE_SECONDS = 150.0
"""For what is still on its way when the traffic ends: limits of 45 s, and the last redeliveries."""
BUCKET = 60
ACCOUNTS = 3
JWT_SECRET = "a-secret-of-the-bench-that-is-long-enough"
USER = "7f8c9a52-5f0a-4a5e-9d43-0d2f5f6f0a11"
ALWAYS = (
    ("gemini", {"action": "drop_before", "rate": 0.02, "seed": 1}),
    ("gemini", {"latency_ms": 4000, "jitter_ms": 4000, "rate": 0.03, "seed": 2}),
    ("gemini", {"latency_ms": 300, "jitter_ms": 500}),
    ("whatsapp", {"action": "drop_before", "rate": 0.01, "seed": 3, "match": {"operation": "send"}}),
    ("whatsapp", {"action": "drop_after", "rate": 0.01, "seed": 4, "match": {"operation": "send"}}),
    ("whatsapp", {"latency_ms": 2000, "jitter_ms": 2000, "rate": 0.02, "seed": 5}),
    ("whatsapp", {"latency_ms": 60, "jitter_ms": 60}),
)
"""Latency tails, and 2 % of the connections dropped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A request to the service. `status` 0: none came within `META_SECONDS`."""

    at: float
    seconds: float
    status: int

    @property
    def is_failure(self) -> bool:
        return self.status >= 500 or self.status == 0


@dataclass(slots=True)
class Contender:
    name: str
    url: str
    pid: int
    sandbox: SandboxClient
    doors: Sequence[Proxy]
    """To Gemini and WhatsApp; to the database."""
    database: str
    account_ids: Sequence[str]
    token: str
    samples: list[Sample] = field(default_factory=list)
    wrote_at: dict[str, float] = field(default_factory=dict)
    answers: dict[str, float] = field(default_factory=dict)
    """By marker: seconds from the customer's message to the first send with the answer."""
    figures: dict[str, float] = field(default_factory=dict)


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    scale = float(os.environ.get("HEADLINE_SCALE", "0.2"))
    quiet = load()
    before, chorus = asyncio.run(_compare(stage, scale))
    rows = _rows(before, chorus)
    if scale == 1:
        folder = ROOT / "docs"
        (folder / "headline.svg").write_text(_plot(before, chorus, scale), encoding="utf-8")
        command = f"`make bench BENCH=headline HEADLINE_SCALE=1`, {time.strftime('%Y-%m-%d')}, {quiet}"
        for page, words in ((folder / "benchmarks.md", 0), (folder / "SOLUTIONS_IMPLEMENTEES.md", 1)):
            plot = f"![{('before and after', 'avant et après')[words]}](headline.svg)"
            write_block(page, "headline", [*_markdown(rows, words), "", command, "", plot])
    notes = [
        (
            f"{FULL_SECONDS * scale:.0f} s of traffic, {len(chorus.wrote_at)} messages, "
            f"Gemini away for {OUTAGE_SECONDS * scale:.0f} s (HEADLINE_SCALE={scale:g})"
        ),
        f"  beside it Valkey used {chorus.figures['valkey']:.1f} s of CPU for Chorus",
    ]
    return [*notes, *_markdown(rows, 0)], _bars(before, chorus)


async def _compare(stage: Stage, scale: float) -> tuple[Contender, Contender]:
    async with _contenders(stage) as pair:
        for each in pair:
            for target, rule in ALWAYS:
                await each.sandbox.add_fault(target, **rule)
        starts = [await _counters(stage, each) for each in pair]
        begun = time.monotonic()
        seconds = FULL_SECONDS * scale
        async with httpx.AsyncClient(timeout=META_SECONDS, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(
                _faults(pair, seconds, scale), *(_traffic(each, client, stage, seconds, begun) for each in pair)
            )
            await asyncio.gather(*(_all_settled(stage, each) for each in pair))
        await asyncio.sleep(2)  # PostgreSQL publishes its counters once a second
        for each, start in zip(pair, starts, strict=True):
            end = await _counters(stage, each)
            each.figures |= {name: end[name] - start[name] for name in end}
            each.figures["memory"] = _peak_memory(each.pid)
            await _read_answers(each)
            await _read_silent(stage, each)
        await close_http_client()
        return pair


@asynccontextmanager
async def _contenders(stage: Stage) -> AsyncIterator[tuple[Contender, Contender]]:
    """The service of before and one replica, each with a sandbox and doors of its own."""
    doors = [
        Proxy(url) for url in ("http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1", stage.database_url)
    ]
    for door in doors:
        await door.start()
    outside_before, rest_door, outside_chorus, postgres_door = doors
    claims = {"sub": USER, "aud": "authenticated", "role": "authenticated", "exp": time.time() + 36000}
    token = jwt.encode(claims | {"iss": f"{rest_door.url}/auth/v1"}, JWT_SECRET, algorithm="HS256")
    settings = {
        "DATABASE_URL": postgres_door.url, "WHATSAPP_BASE_URL": outside_chorus.url,
        "GEMINI_BASE_URL": outside_chorus.url, "SUPABASE_URL": rest_door.url, "SUPABASE_JWT_SECRET": JWT_SECRET,
    }  # fmt: skip
    chorus, other = stage.fleet(replicas=0, **settings), stage.fleet(replicas=0)
    try:
        fleet, sandbox = await asyncio.to_thread(chorus.__enter__), (await asyncio.to_thread(other.__enter__)).sandbox
        outside_chorus.lead_to(fleet.sandbox.port)
        outside_before.lead_to(sandbox.port)
        database_url = await _database_of_before(stage, token)
        with Child(sys.executable, "headline_rest", env=os.environ | {"DATABASE_URL": database_url}) as rest:
            rest_door.lead_to(rest.answer(30)["port"])
            env = {
                "SUPABASE_URL": rest_door.url, "SUPABASE_KEY": "sb_secret_of_the_bench", "GEMINI_API_KEY": "sandbox",
                "META_APP_SECRET": stage.keys.app_secret, "WHATSAPP_BASE_URL": outside_before.url,
                "GEMINI_BASE_URL": outside_before.url,
            }  # fmt: skip
            with Child(sys.executable, "headline_before", env=os.environ | env) as service:
                url = f"http://127.0.0.1:{service.answer(30)['port']}"
                replica = await asyncio.to_thread(fleet.add_replica, 1)
                assert replica.pid
                ids = await _accounts(fleet)
                pair = (
                    Contender("before", url, service.pid, SandboxClient(sandbox.url), (outside_before, rest_door),
                              "headline_before", [str(n) for n in range(ACCOUNTS)], token),
                    Contender("Chorus", replica.url, replica.pid, SandboxClient(fleet.sandbox.url),
                              (outside_chorus, postgres_door), urlsplit(stage.database_url).path[1:], ids, token),
                )  # fmt: skip
                for each in pair:
                    await each.sandbox.change_behaviour(pair_interval_seconds=0, messages_per_second=0)
                    await each.sandbox.set_callbacks([f"{each.url}/webhook/whatsapp"], app_secret=stage.keys.app_secret)
                yield pair
    finally:
        for context in (other, chorus):
            await asyncio.to_thread(context.__exit__, None, None, None)
        for door in doors:
            await door.aclose()


async def _database_of_before(stage: Stage, token: str) -> str:
    """Empty but for the accounts and the user."""
    parts = urlsplit(stage.database_url)
    connection = await asyncpg.connect(stage.database_url)
    await connection.execute("drop database if exists headline_before with (force)")
    await connection.execute("create database headline_before")
    await connection.close()
    url = urlunsplit(parts._replace(path="/headline_before"))
    connection = await asyncpg.connect(url)
    await connection.execute(SCHEMA)
    await connection.execute("insert into users values ($1, $2)", USER, token)
    for n in range(ACCOUNTS):
        await connection.execute("insert into whatsapp_accounts values ($1, $2, 'a-token')", str(n), _number(n))
        await connection.execute("insert into account_members values ($1, $2, 'owner')", str(n), USER)
        knowledge = str(BAKERY["template_config"]) + BAKERY["knowledge_base"]
        row = (str(n), BAKERY["business_name"], BAKERY["description"], knowledge)
        await connection.execute("insert into bot_profiles values ($1, $2, $3, $4)", *row)
    await connection.close()
    return url


async def _accounts(fleet: LocalFleet) -> list[str]:
    ids = []
    for n in range(ACCOUNTS):
        account = await call_api(
            fleet, "POST", "/accounts", name=f"Headline {n}", slug=f"headline-{n}", phone_number_id=_number(n),
            access_token="a-token-of-the-sandbox", verify_token=f"a-verify-token-{n}-of-the-bench",
        )  # fmt: skip
        ids.append(str(account["id"]))
        await call_api(fleet, "PUT", f"/bot/profile?account_id={ids[-1]}", **BAKERY)
        await call_api(fleet, "PUT", f"/accounts/{ids[-1]}/members/{USER}", role="owner")
    return ids


def _number(n: int) -> str:
    return f"1070000000000{n:02d}"


async def _faults(pair: Sequence[Contender], seconds: float, scale: float) -> None:
    """Each at the same moment for both."""
    begun = time.monotonic()

    async def at(share: float) -> None:
        await asyncio.sleep(max(0.0, begun + share * seconds - time.monotonic()))

    await at(OUTAGE_AT)
    outage = OUTAGE_SECONDS * scale
    for each in pair:  # the first rule that fires wins: the outage goes before what is always there
        await each.sandbox.clear_faults()
        await each.sandbox.add_fault("gemini", action="hang_before", rate=0.5, for_seconds=outage, seed=6)
        await each.sandbox.add_fault("gemini", gemini="unavailable", for_seconds=outage)
        for target, rule in ALWAYS:
            await each.sandbox.add_fault(target, **rule)
    for share in BLIPS_AT:
        await at(share)
        for each in pair:
            await each.sandbox.clear_faults()
            await each.sandbox.add_fault("whatsapp", http_status=503, for_seconds=BLIP_SECONDS * scale)
            for target, rule in ALWAYS:
                await each.sandbox.add_fault(target, **rule)
    await at(HICCUP_AT)
    for each in pair:
        each.doors[1].close_door()
    await asyncio.sleep(HICCUP_SECONDS * scale)
    for each in pair:
        await each.doors[1].start()


async def _traffic(each: Contender, client: httpx.AsyncClient, stage: Stage, seconds: float, begun: float) -> None:
    """An open loop: what is slow does not slow down what comes next."""
    draw = random.Random(7)
    tasks: list[asyncio.Task[object]] = []

    async def stream(rate: float, start: Callable[[int], None]) -> None:
        at, n = begun, 0
        while (at := at + draw.expovariate(rate)) < begun + seconds:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            start(n)
            n += 1

    def message(n: int) -> None:
        tasks.append(asyncio.create_task(_customer(each, client, stage.keys.app_secret, n)))

    def panel(n: int) -> None:
        path = "/conversations" if n % 3 == 0 else "/bot/profile"
        params = {"account_id": each.account_ids[n % ACCOUNTS]}
        headers = {"authorization": f"Bearer {each.token}"}
        request = client.build_request("GET", each.url + path, params=params, headers=headers)
        tasks.append(asyncio.create_task(_watched(each, client, request)))

    await asyncio.gather(stream(MESSAGES_PER_SECOND, message), stream(PANEL_PER_SECOND, panel))
    await asyncio.gather(*tasks)


async def _customer(each: Contender, client: httpx.AsyncClient, app_secret: str, n: int) -> None:
    """One customer, one message, delivered as Meta does: again until there is a 200."""
    person, marker = Person(f"3365{n:07d}", f"Customer {n}"), f"#m{n}"
    message = text(person, f"Do you take cards? {marker}")
    raw = encode_like_meta(envelope(messages_change(Business(_number(n % ACCOUNTS)), [message], [person])))
    each.wrote_at[marker] = time.monotonic()
    for pause in (0.0, *REDELIVERY_SECONDS):
        await asyncio.sleep(pause)
        headers = signed_headers(app_secret, raw)
        request = client.build_request("POST", f"{each.url}/webhook/whatsapp", content=raw, headers=headers)
        if await _watched(each, client, request) == 200:
            return


async def _watched(each: Contender, client: httpx.AsyncClient, request: httpx.Request) -> int:
    begun = time.monotonic()
    try:
        async with asyncio.timeout(META_SECONDS):
            status = (await client.send(request)).status_code
    except (httpx.HTTPError, TimeoutError):
        status = 0
    each.samples.append(Sample(begun, time.monotonic() - begun, status))
    if 400 <= status < 500:
        raise BenchError(f"{each.name}: {request.method} {request.url.path} was answered with {status}")
    return status


async def _all_settled(stage: Stage, each: Contender) -> None:
    """Every message is answered or with a person, or the time for it is up."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        await _read_answers(each)
        await _read_silent(stage, each)
        if not each.figures["lost"]:
            return
        await asyncio.sleep(1)


async def _read_silent(stage: Stage, each: Contender) -> None:
    """What is not answered: with a person, or lost."""
    silent = {marker.removeprefix("#m") for marker in each.wrote_at.keys() - each.answers.keys()}
    called = await _with_a_person(stage) if each.name == "Chorus" else set()
    each.figures["person"] = len(silent & called)
    each.figures["lost"] = len(silent - called)


async def _read_answers(each: Contender) -> None:
    sends = await each.sandbox.record(kind="send", processed=True)
    told = Counter[str]()
    for send in sends:
        marker = next((word.strip("()") for word in send["text"].split() if word.startswith("(#m")), None)
        if marker is not None:
            told[marker] += 1
            if told[marker] == 1:
                each.answers[marker] = send["monotonic"] - each.wrote_at[marker]
    each.figures["doubled"] = told.total() - len(told)
    webhooks = await each.sandbox.record(kind="webhook")
    each.figures["status_failures"] = sum(hook["status"] is None or hook["status"] >= 500 for hook in webhooks)


async def _counters(stage: Stage, each: Contender) -> dict[str, float]:
    connection = await asyncpg.connect(stage.database_url)
    query = "select xact_commit + xact_rollback from pg_stat_database where datname = $1"
    transactions = await connection.fetchval(query, each.database)
    await connection.close()
    is_chorus = each.name == "Chorus"
    redis = stage.redis.info("stats")["total_connections_received"] if is_chorus else 0
    return {
        "transactions": transactions,
        "connections": sum(door.accepted for door in each.doors) + redis,
        "cpu": process_seconds(each.pid),
        "valkey": redis_seconds(stage.redis) if is_chorus else 0.0,
    }


async def _with_a_person(stage: Stage) -> set[str]:
    """The numbers of the messages in whose conversation Chorus called a person."""
    connection = await asyncpg.connect(stage.database_url)
    query = "select wa_id from conversations join contacts on contacts.id = contact_id where needs_human"
    rows = await connection.fetch(f"{query} and wa_id like '3365%'")
    found = {str(int(row["wa_id"][4:])) for row in rows}
    await connection.close()
    return found


def _peak_memory(pid: int) -> float:
    """MB that were resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@dataclass(frozen=True, slots=True)
class Row:
    names: tuple[str, str]
    """English, French."""
    before: float
    chorus: float
    limit: float | None = None
    """The most that the figure may change, in per cent."""
    unit: str = ""

    @property
    def change(self) -> float:
        return 100 * (self.chorus / self.before - 1) if self.before else 0.0


def _rows(before: Contender, chorus: Contender) -> list[Row]:
    def of(
        names: tuple[str, str], figure: Callable[[Contender], float], limit: float | None = None, unit: str = ""
    ) -> Row:
        return Row(names, figure(before), figure(chorus), limit, unit)

    def requests(percent: float) -> Callable[[Contender], float]:
        return lambda each: 1000 * percentile([sample.seconds for sample in each.samples], percent)

    def answers(percent: float) -> Callable[[Contender], float]:
        return lambda each: percentile(list(each.answers.values()), percent)

    return [
        of(("API requests, P50", "requêtes API, P50"), requests(50), unit=" ms"),
        of(("API requests, P95", "requêtes API, P95"), requests(95), -60, " ms"),
        of(("API requests, P99", "requêtes API, P99"), requests(99), -70, " ms"),
        of(("answers, P50", "réponses au client, P50"), answers(50), unit=" s"),
        of(("answers, P95", "réponses au client, P95"), answers(95), unit=" s"),
        of(("answers, P99", "réponses au client, P99"), answers(99), unit=" s"),
        of(("5xx, or no answer within 10 s", "5xx, ou pas de réponse en 10 s"), _failures, -80),
        of(("not answered, a person was called", "sans réponse, une personne appelée"),
           lambda each: each.figures["person"]),
        of(("messages lost", "messages perdus"), lambda each: each.figures["lost"]),
        of(("answers doubled", "réponses en double"), lambda each: each.figures["doubled"]),
        of(("database requests", "requêtes à la base"), lambda each: each.figures["transactions"], -80),
        of(("TCP connections opened", "connexions TCP ouvertes"), lambda each: each.figures["connections"], -90),
        of(("CPU of the service", "CPU du service"), lambda each: each.figures["cpu"], 5, " s"),
        of(("memory of the service, peak", "mémoire du service, maximum"),
           lambda each: each.figures["memory"], 5, " MB"),
    ]  # fmt: skip


def _failures(each: Contender) -> float:
    return sum(sample.is_failure for sample in each.samples) + each.figures["status_failures"]


def _markdown(rows: Sequence[Row], words: int) -> list[str]:
    head = (("", "before", "Chorus", "change", "bar"), ("", "avant", "Chorus", "écart", "objectif"))[words]
    met, missed = (("met", "MISSED"), ("atteint", "MANQUÉ"))[words]
    lines = [f"| {' | '.join(head)} |", "|---|--:|--:|--:|---|"]
    for row in rows:
        bar = ""
        if row.limit is not None:
            bar = f"{'≤ ' if row.limit > 0 else ''}{row.limit:+.0f} %: {met if row.change <= row.limit else missed}"
        elif row.names[0] in ("messages lost", "answers doubled"):
            bar = f"0: {met if row.chorus == 0 else missed}"
        change = f"{row.change:+.0f} %" if row.before else ""
        figures = (f"{_plain(figure, row.unit)}{row.unit}" for figure in (row.before, row.chorus))
        lines.append(f"| {row.names[words]} | {' | '.join(figures)} | {change} | {bar} |")
    return lines


def _plain(value: float, unit: str) -> str:
    return number(value) if unit else f"{value:,.0f}"


def _bars(before: Contender, chorus: Contender) -> list[Bar]:
    bars = [
        Bar(f"headline, {row.names[0]}, change", row.change, row.limit, " %", at_most=True)
        for row in _rows(before, chorus)
        if row.limit is not None
    ]
    lost, doubled = chorus.figures["lost"], chorus.figures["doubled"]
    return [
        *bars,
        Bar("headline, messages that Chorus lost", lost, 0, at_most=True),
        Bar("headline, answers that Chorus doubled", doubled, 0, at_most=True),
    ]


def _plot(before: Contender, chorus: Contender, scale: float) -> str:
    seconds = FULL_SECONDS * scale
    begun = min(sample.at for each in (before, chorus) for sample in each.samples)
    width = seconds / BUCKET
    shaded = [
        (OUTAGE_AT * seconds, OUTAGE_AT * seconds + OUTAGE_SECONDS * scale, "Gemini away"),
        *((share * seconds, share * seconds + BLIP_SECONDS * scale, "WhatsApp 503") for share in BLIPS_AT),
        (HICCUP_AT * seconds, HICCUP_AT * seconds + HICCUP_SECONDS * scale, "database away"),
    ]

    def line(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The 95th percentile of each piece of time."""
        pieces: dict[int, list[float]] = {}
        for at, value in points:
            pieces.setdefault(int((at - begun) / width), []).append(value)
        return [(piece * width, percentile(values, 95)) for piece, values in sorted(pieces.items()) if piece < BUCKET]

    return svg(
        [
            Chart(
                "API requests, P95 of each 5 s", "s since the start", "ms",
                {each.name: line([(s.at, 1000 * s.seconds) for s in each.samples]) for each in (before, chorus)},
                log_y=True, shaded=shaded,
            ),
            Chart(
                "From a customer's message to its answer, P95 of each 5 s", "s since the start, of the message", "s",
                {
                    each.name: line([(each.wrote_at[marker], seconds) for marker, seconds in each.answers.items()])
                    for each in (before, chorus)
                },
                log_y=True, shaded=shaded,
            ),
        ]
    )  # fmt: skip
