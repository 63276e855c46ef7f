"""What a call through a circuit costs the caller: the same loop for Chorus, for its peers, and for a bare await."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from app.core.circuit_breaker import BreakerFleet, BreakerPolicy, CircuitBreaker
from app.core.errors import Unavailable
from app.core.redis.client import connect
from app.core.redis.door import Door
from tests.bench import breaker_peers
from tests.bench.breaker_peers import Call
from tests.bench.report import Bar, table

CALLS = 20_000
ROUNDS = 7
THRESHOLD = 5
CHORUS = "Chorus, shared, every rule on"


@dataclass
class Contender:
    """Microseconds of each round."""

    call: Call
    closed: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)


async def ok() -> int:
    return 1


async def fail() -> int:
    raise Unavailable("x")


async def measure(redis_url: str) -> tuple[list[str], list[Bar]]:
    redis, door = connect(redis_url), Door.to(redis_url)
    policy = BreakerPolicy(THRESHOLD, 600.0, failure_rate=0.5, slow_call_seconds=10.0)
    breaker = CircuitBreaker("bench", policy)
    fleet = BreakerFleet(door, namespace="bench", replica_id="bench")
    fleet.join(breaker)
    await fleet.sync()
    absent, contenders = [], {CHORUS: Contender(breaker.call_async)}
    for name, make in breaker_peers.LOCAL.items():
        try:
            contenders[name] = Contender(make(breaker_peers.OPEN_SECONDS).call)
        except ImportError as exc:
            absent.append(f"  {name}: not installed ({exc.name})")

    async def commands() -> int:
        return int((await redis.info("stats"))["total_commands_processed"])

    before = await commands()
    await _closed(contenders)
    used = await commands() - before - 1
    for contender in contenders.values():
        for _ in range(THRESHOLD + 1):
            with suppress(Exception):
                await contender.call(fail)
    await _rejected(contenders)
    await fleet.leave()
    await redis.aclose()
    await door.aclose()
    lines = [
        table("a call while closed, over a bare await", "µs", {n: c.closed for n, c in contenders.items()}),
        table("a rejection", "µs", {n: c.rejected for n, c in contenders.items()}),
        f"  Redis commands of Chorus in {ROUNDS * CALLS:,} calls while closed: {used}",
        *absent,
    ]
    return "\n".join(lines).splitlines(), _bars(contenders, used)


def _bars(contenders: dict[str, Contender], used: int) -> list[Bar]:
    chorus = contenders[CHORUS]
    peers = [median(contender.rejected) for name, contender in contenders.items() if name != CHORUS]
    bars = [
        Bar("breaker: closed path over a bare await", median(chorus.closed), 1.2, " µs", at_most=True),
        Bar("breaker: Redis commands of the closed path", used, 0, at_most=True),
    ]
    if peers:
        what = "breaker: rejection, against the best local-only peer"
        bars.append(Bar(what, median(chorus.rejected), min(peers), " µs", at_most=True))
    return bars


async def _closed(contenders: dict[str, Contender]) -> None:
    """All in turn in every round: neighbours in time share the machine's mood."""
    for _ in range(ROUNDS):
        bare = await _micros(_bare)
        for contender in contenders.values():
            contender.closed.append(await _micros(_through, contender.call) - bare)


async def _rejected(contenders: dict[str, Contender]) -> None:
    for _ in range(ROUNDS):
        for contender in contenders.values():
            contender.rejected.append(await _micros(_refused, contender.call))


async def _micros(loop: Callable[..., Awaitable[None]], *args: Any) -> float:
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    await loop(*args)
    took = time.perf_counter() - began
    gc.enable()
    return took / CALLS * 1e6


async def _bare() -> None:
    for _ in range(CALLS):
        await ok()


async def _through(call: Call) -> None:
    for _ in range(CALLS):
        await call(ok)


async def _refused(call: Call) -> None:
    for _ in range(CALLS):
        try:  # noqa: SIM105  suppress() costs as much as what is measured
            await call(ok)
        except Exception:  # noqa: BLE001  whatever a peer raises is an error
            pass
