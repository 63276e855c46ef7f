"""An outage as the upstream sees it: four processes of 32 tasks behind one kind of breaker, and a quiet fifth."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from app.core.redis.client import connect
from app.localhost.servers import Valkey
from tests.support.breaker_upstream import Child, Upstream, running_upstream

THRESHOLD = 5
LEASE_SECONDS = 1.0
POLICY: dict[str, Any] = {
    "failure_threshold": THRESHOLD, "open_seconds": 2.0, "max_open_seconds": 2.0, "probe_lease_seconds": LEASE_SECONDS,
}  # fmt: skip
CHORUS = "tests.support.breaker_drivers:Chorus"
BUSY = ("a", "b", "c", "d")
LATENCY_SECONDS = 0.05
"""What the upstream takes. Nothing that is called over a network is faster for long, and 128 tasks then make about two
calls a millisecond, as in the experiment that the bars come from: there a peer's 21 late calls spread over 28 ms."""
SETTLE_SECONDS = 2.5
PAUSE_SECONDS = 0.2
"""After counting, which holds the upstream up for milliseconds: the calls it bunched together are apart again."""
TRIP_SECONDS = 1.5
DEAD_SECONDS = 9.0
INCIDENT_SECONDS = 13.0
HUNG_SECONDS = 3.0
SOON_SECONDS = 1.4
"""After the fifth failure: before anybody's first probe."""


class Incident(NamedTuple):
    """`late`: calls that began after the fifth failure had been answered; `learned_ms`: when the quiet one knew."""

    late: float
    last_ms: float
    learned_ms: float
    probes: float
    round_trips: float
    commands: float
    recovered: bool

    @classmethod
    def header(cls) -> str:
        names = ("calls begun", "the last, ms", "quiet learns, ms", "probes at once", "round trips", "commands")
        return "  ".join(f"{name:>22}" for name in names)


def row(rounds: Sequence[Incident]) -> str:
    """Medians; with more than one round also the lowest and the highest. `-`: never, or not counted."""
    cells = []
    for values in zip(*(incident[:6] for incident in rounds), strict=True):
        cell = _figure(median(values))
        if len(values) > 1:
            cell += f" ({_figure(min(values))} - {_figure(max(values))})"
        cells.append(f"{cell:>22}")
    again = all(incident.recovered for incident in rounds)
    return "  ".join(cells) + ("" if again else "  not all are calling again at the end")


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


async def fleet_of(upstream: Upstream, driver: str, redis_url: str) -> list[Child]:
    """The quiet one is the last."""
    children = [
        await upstream.start_child(
            name, tasks=32 if name in BUSY else 0, redis_url=redis_url, policy=POLICY, driver=driver
        )
        for name in (*BUSY, "quiet")
    ]
    await upstream.go(children)
    return children


async def incident(driver: str, redis_url: str) -> Incident:
    """Healthy, dead for 9 s of 13, healthy again. The quiet replica calls nobody."""
    async with running_upstream() as upstream:
        upstream.latency_seconds = LATENCY_SECONDS
        redis = connect(redis_url)
        await redis.flushall()
        *busy, quiet = await fleet_of(upstream, driver, redis_url)
        await asyncio.sleep(SETTLE_SECONDS)
        trips = await _round_trips(busy)
        commands = await _commands(redis)
        await asyncio.sleep(PAUSE_SECONDS)
        began = time.monotonic()
        upstream.mode = "fail"
        await asyncio.sleep(TRIP_SECONDS)
        threshold = upstream.failures()[THRESHOLD - 1].ended
        late = [call.began - threshold for call in upstream.calls if threshold < call.began < threshold + SOON_SECONDS]
        learned = [at - threshold for state, at in quiet.states if state == "open"]
        await upstream.until(lambda: upstream.running == 0)
        upstream.most = 0
        await asyncio.sleep(max(0.0, began + DEAD_SECONDS - time.monotonic()))
        probes = upstream.most
        upstream.mode = "ok"
        await asyncio.sleep(max(0.0, began + INCIDENT_SECONDS - time.monotonic()))
        end = time.monotonic()
        calling = {call.child for call in upstream.calls if call.began > end - 1 and call.ok}
        result = Incident(
            len(late), max(late, default=0.0) * 1e3, learned[0] * 1e3 if learned else math.inf, probes,
            await _round_trips(busy) - trips, await _commands(redis) - commands, calling == set(BUSY),
        )  # fmt: skip
        await redis.aclose()
    return result


class Trip(NamedTuple):
    """The beginning of an incident: calls per second before it, calls begun after the fifth failure, the last in ms."""

    rate: float
    late: float
    last_ms: float


async def trip(latency_seconds: float, redis_url: str) -> Trip:
    async with running_upstream() as upstream:
        upstream.latency_seconds = latency_seconds
        redis = connect(redis_url)
        await redis.flushall()
        await redis.aclose()
        await fleet_of(upstream, CHORUS, redis_url)
        await asyncio.sleep(SETTLE_SECONDS)
        upstream.mode, dead = "fail", time.monotonic()
        await asyncio.sleep(TRIP_SECONDS)
        threshold = upstream.failures()[THRESHOLD - 1].ended
        late = [call.began - threshold for call in upstream.calls if call.began > threshold]
        rate = sum(dead - 1 < call.began < dead for call in upstream.calls)
        return Trip(rate, len(late), max(late, default=0.0) * 1e3)


async def _round_trips(children: Sequence[Child]) -> float:
    counted: list[int] = [(await child.ask())["round_trips"] for child in children]
    return sum(counted)


async def _commands(redis: Any) -> int:
    return int((await redis.info("stats"))["total_commands_processed"])


async def killed_prober(redis_url: str) -> float:
    """Seconds from the SIGKILL of the one that holds the only permit to the next probe of anybody."""
    async with running_upstream() as upstream:
        children = await fleet_of(upstream, CHORUS, redis_url)
        await asyncio.sleep(1)
        upstream.mode = "fail"
        await upstream.until(lambda: all(child.state == "open" for child in children))
        await upstream.until(lambda: upstream.running == 0)
        upstream.mode, before = "hang", len(upstream.calls)
        await upstream.until(lambda: len(upstream.calls) > before)
        upstream.children[upstream.calls[before].child].process.kill()
        killed = time.monotonic()
        await upstream.until(lambda: len(upstream.calls) > before + 1)
        return upstream.calls[before + 1].began - killed


class Hang(NamedTuple):
    """The worst call of anybody in ms: in the 3 s before, and in the 3 s in which Redis hung."""

    before: float
    hung: float


async def hung_redis(server: Valkey, rounds: int) -> list[Hang]:
    """The upstream is healthy throughout."""
    async with running_upstream() as upstream:
        children = await fleet_of(upstream, CHORUS, server.url)
        hangs = []
        for _ in range(rounds):
            await asyncio.sleep(2)
            before = await _worst_call(children)
            server.pause()
            try:
                hung = await _worst_call(children)
            finally:
                server.resume()
            hangs.append(Hang(before, hung))
        return hangs


async def _worst_call(children: Sequence[Child]) -> float:
    for child in children:
        await child.ask("reset")
    await asyncio.sleep(HUNG_SECONDS)
    slowest: list[float] = [(await child.ask())["slowest"] for child in children]
    return max(slowest) * 1e3
