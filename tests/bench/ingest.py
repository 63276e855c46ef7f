"""How many webhooks a replica takes in a second on one core, beside what is possible and what is usual."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from app.localhost.fleet import Served
from app.server import KEEP_ALIVE_SECONDS
from tests.bench.child import BenchError, Child
from tests.bench.ingest_load import CONNECTIONS
from tests.bench.machine import Stage, core_plan, pinned, process_seconds, redis_seconds
from tests.bench.report import Bar, ratio, table
from tests.bench.traffic import batch, http_request, post

ROUNDS = 7
ROUND_SECONDS = 3.0
WARM_UP_SECONDS = 1.0
REQUESTS = 75_000
"""More than any contender takes in a round; a request is used once a round."""
BATCH_MESSAGES = 1000
BATCHES = 5
ANSWER_SECONDS = 60.0


@dataclass(slots=True)
class Contender:
    """One server under test. Figures of each round: requests/s, CPU in µs of a request, shares of the other core, and
    requests a script call."""

    name: str
    pid: int
    port: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)
    valkey: list[float] = field(default_factory=list)
    per_call: list[float] = field(default_factory=list)

    def details(self) -> str:
        """Where the CPU went. Had the other core no room left, the generator would be what was measured."""
        per_call = median(self.per_call)
        calls = f"{per_call:.0f} requests a script call" if per_call <= CONNECTIONS else "no script"
        return (
            f"  {self.name}: {median(self.cpu):.0f} µs of CPU a request, {calls}; "
            f"the other core: generator {median(self.generator):.0%}, Valkey {median(self.valkey):.0%}"
        )


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    with stage.fleet(APP_ROLE="api") as fleet, _children(stage) as (load, floor, fastapi):
        (replica,) = fleet.replicas
        contenders = [
            Contender("bare ASGI callable", floor.pid, floor.answer(ANSWER_SECONDS)["port"]),
            Contender("chorus serve", pid_of(replica), replica.port),
            Contender("FastAPI, pydantic, XADD", fastapi.pid, fastapi.answer(ANSWER_SECONDS)["port"]),
        ]
        load.ask("ready", ANSWER_SECONDS)
        with _one_core_each([each.pid for each in contenders], [load.pid, _valkey_pid(stage)]):
            _rounds(stage, load, contenders)
        calls, milliseconds = _batch_calls(stage, replica.port)
    lines = [
        table(
            f"{CONNECTIONS} connections, one process on one core",
            "requests/s",
            {each.name: each.rates for each in contenders},
        ),
        *(each.details() for each in contenders),
        f"  a POST of {BATCH_MESSAGES:,} messages: {calls} script call on the one shard, {milliseconds:.0f} ms",
    ]
    bare, chorus, usual = contenders
    return lines, [
        Bar("ingest, share of the bare ASGI callable", 100 * ratio(chorus.rates, bare.rates), 80, " %"),
        Bar("ingest, times FastAPI with pydantic and XADD", ratio(chorus.rates, usual.rates), 2, "x"),
        Bar(f"script calls of a {BATCH_MESSAGES:,}-message batch, per shard", calls, 1, at_most=True),
    ]


@contextmanager
def _children(stage: Stage) -> Iterator[tuple[Child, Child, Child]]:
    """Load generator, floor, FastAPI."""
    environment = os.environ | {"REDIS_URL": stage.redis_url, "META_APP_SECRET": stage.keys.app_secret}
    count, keep_alive = str(REQUESTS), str(KEEP_ALIVE_SECONDS)
    with (
        Child(sys.executable, "ingest_load", count, env=environment) as load,
        Child(sys.executable, "ingest_floor", keep_alive, env=environment) as floor,
        Child(sys.executable, "ingest_fastapi", keep_alive, env=environment) as fastapi,
    ):
        yield load, floor, fastapi


def _rounds(stage: Stage, load: Child, contenders: Sequence[Contender]) -> None:
    """The contenders in turn, so that whatever else the machine does hits all of them alike."""
    for each in contenders:
        load.ask("run", ANSWER_SECONDS, port=each.port, seconds=WARM_UP_SECONDS)
    for _ in range(ROUNDS):
        for each in contenders:
            stage.empty_redis()
            calls, used, cpu = _script_calls(stage), redis_seconds(stage.redis), process_seconds(each.pid)
            result = load.ask("run", ANSWER_SECONDS, port=each.port, seconds=ROUND_SECONDS)
            good, seconds = result["good"], result["seconds"]
            if result["bad"] or not 0 < good < REQUESTS:
                raise BenchError(f"{each.name}: {result['bad']} requests failed, {good} of {REQUESTS} succeeded")
            each.rates.append(good / seconds)
            each.cpu.append(1e6 * (process_seconds(each.pid) - cpu) / good)
            each.generator.append(result["busy"])
            each.valkey.append((redis_seconds(stage.redis) - used) / seconds)
            each.per_call.append(good / max(1, _script_calls(stage) - calls))


def _batch_calls(stage: Stage, port: int) -> tuple[int, float]:
    """Script calls while one big POST is under way, and its milliseconds. The replica's heartbeat calls scripts too,
    now and then: the least of several batches is the batch's own."""
    stage.empty_redis()
    counts, seconds = [], []
    for n in range(BATCHES):
        request = http_request(batch(BATCH_MESSAGES, n), stage.keys.app_secret)
        before, started = _script_calls(stage), time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
            post(connection, request)
        seconds.append(time.monotonic() - started)
        counts.append(_script_calls(stage) - before)
    return min(counts), 1000 * median(seconds)


def _script_calls(stage: Stage) -> int:
    calls = stage.redis.info("commandstats")
    return sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha", "fcall"))


def _valkey_pid(stage: Stage) -> int:
    return int(stage.redis.info("server")["process_id"])


def pid_of(served: Served) -> int:
    if served.pid is None:
        raise BenchError(f"{served.name} is not running")
    return served.pid


@contextmanager
def _one_core_each(servers: Sequence[int], others: Sequence[int]) -> Iterator[None]:
    """The servers take turns on one core, their load comes from the other one; where processes can be pinned."""
    plan = core_plan()
    if plan is None:
        yield
        return
    with pinned(dict.fromkeys(servers, plan[0]) | dict.fromkeys(others, plan[1])):
        yield
