"""The fleet's circuit breaker beside its peers: what a call costs, and what an outage looks like from the upstream.

    python -m tests.bench.breaker [name …]   # peers: interlock-cb purgatory pybreaker aiobreaker circuitbreaker hyx

A peer that is not installed is left out and said to be. Chorus has several rounds, each peer one. The last line is for
whoever started this process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "backend"))

import uvloop

from app.localhost.location import locate
from app.localhost.servers import Valkey, remove_data
from tests.bench import breaker_cost, breaker_outage
from tests.bench.breaker_outage import CHORUS, LEASE_SECONDS, Incident, incident
from tests.bench.breaker_peers import PEERS
from tests.bench.report import Bar, table, write_bars

ROUNDS = 3
GRACE_SECONDS = 1.0
LATENCIES_SECONDS = (0.01, 0.1)
"""Of an upstream next door, and of one on the internet."""


def say(*lines: str) -> None:
    """At once: what was measured before something goes wrong is not lost."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def at_most(what: str, values: Sequence[float], limit: float, unit: str = "") -> Bar:
    return Bar(f"breaker: {what}", median(values), limit, unit, at_most=True)


async def cost(server: Valkey) -> list[Bar]:
    lines, bars = await breaker_cost.measure(server.url)
    say(*lines)
    return bars


async def incidents(server: Valkey) -> list[Bar]:
    """Of Chorus."""
    say(
        "4 processes x 32 tasks: calls begun after the fifth failure was answered, the last of them, when a replica",
        "that calls nobody knows, probes at once, round trips of the 4 and Redis commands of all in 13 s",
        f"  {'':36}{Incident.header()}",
    )
    with_push = [await incident(CHORUS, server.url) for _ in range(ROUNDS)]
    say(f"  {'Chorus':36}{breaker_outage.row(with_push)}")
    without = [await incident(f"{CHORUS}WithoutPush", server.url) for _ in range(ROUNDS)]
    say(f"  {'Chorus, every message lost':36}{breaker_outage.row(without)}")
    for latency_seconds in LATENCIES_SECONDS:
        trips = [await breaker_outage.trip(latency_seconds, server.url) for _ in range(ROUNDS)]
        rows = {
            "calls begun after the threshold": [one.late for one in trips],
            "the last, ms": [one.last_ms for one in trips],
        }
        rate = median(one.rate for one in trips)
        say(
            table(f"the trip alone, upstream takes {latency_seconds * 1e3:.0f} ms", f"{rate:,.0f} calls a second", rows)
        )
    return [
        at_most("upstream calls begun after the threshold", [one.late for one in with_push], 6),
        at_most("the last of them", [one.last_ms for one in with_push], 10, " ms"),
        at_most("a quiet replica learns by push", [one.learned_ms for one in with_push], 10, " ms"),
        at_most("a quiet replica learns without push", [one.learned_ms for one in without], 1300, " ms"),
        at_most("probes at once, at any time", [max(one.probes for one in (*with_push, *without))], 1),
        at_most("Redis round trips in 13 s", [one.round_trips for one in with_push], 250),
    ]


async def peers(server: Valkey) -> list[Bar]:
    say(f"  {'the same incident':36}{Incident.header()}")
    for peer in PEERS:
        if not peer.is_installed:
            say(f"  {peer.label:36}not installed")
            continue
        try:
            say(f"  {peer.label:36}{breaker_outage.row([await incident(peer.driver, server.url)])}")
        except (TimeoutError, IndexError, ConnectionError) as exc:
            say(f"  {peer.label:36}did not get through it ({type(exc).__name__})")
    return []


async def killed(server: Valkey) -> list[Bar]:
    seconds = [await breaker_outage.killed_prober(server.url) for _ in range(ROUNDS)]
    say(table(f"prober killed, lease {LEASE_SECONDS:.0f} s", "s", {"the next probe": seconds}))
    return [at_most("next probe after a killed prober", seconds, LEASE_SECONDS + GRACE_SECONDS, " s")]


async def hung(server: Valkey) -> list[Bar]:
    hangs = await breaker_outage.hung_redis(server, ROUNDS)
    rows = {"in the 3 s before": [hang.before for hang in hangs], "while Redis hung": [hang.hung for hang in hangs]}
    say(table("Redis hung for 3 s, upstream healthy: the worst call of anybody", "ms", rows))
    return [at_most("a hung Redis adds to the worst call", [hang.hung - hang.before for hang in hangs], 50, " ms")]


PARTS: dict[str, Callable[[Valkey], Awaitable[list[Bar]]]] = {
    "cost": cost, "incidents": incidents, "peers": peers, "killed": killed, "hung": hung,
}  # fmt: skip


async def measure(names: Sequence[str]) -> list[Bar]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    folder.chmod(0o711)
    server = Valkey(locate(folder))
    server.start()
    say(f"load {', '.join(f'{value:.1f}' for value in os.getloadavg())} on {os.cpu_count()} cores")
    try:
        return [bar for name in names for bar in await PARTS[name](server)]
    finally:
        server.stop()
        remove_data(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.breaker")
    parser.add_argument("names", nargs="*", choices=[*PARTS, []], metavar="name", help=f"of {', '.join(PARTS)}")
    bars = uvloop.run(measure(parser.parse_args().names or list(PARTS)))
    say(write_bars(bars))


if __name__ == "__main__":
    main()
