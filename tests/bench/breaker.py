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
for part in ("backend", "tests"):
    sys.path.insert(0, str(ROOT / part))

import uvloop  # noqa: E402

from app.sandbox.servers import Valkey, remove_data  # noqa: E402
from app.sandbox.servers.location import locate  # noqa: E402
from tests.bench import breaker_cost, breaker_outage  # noqa: E402
from tests.bench.breaker_outage import CHORUS, LEASE_SECONDS, Incident, incident  # noqa: E402
from tests.bench.breaker_peers import PEERS  # noqa: E402
from tests.bench.report import Bar, table, write_bars  # noqa: E402

ROUNDS = 3
GRACE_SECONDS = 1.0

Figures = tuple[list[str], list[Bar]]


async def cost(server: Valkey) -> Figures:
    return await breaker_cost.measure(server.url)


async def incidents(server: Valkey) -> Figures:
    """Of Chorus."""
    with_push = [await incident(CHORUS, server.url) for _ in range(ROUNDS)]
    without = [await incident(f"{CHORUS}WithoutPush", server.url) for _ in range(ROUNDS)]
    lines = [
        "4 processes x 32 tasks: calls begun after the fifth failure was answered, the last of them, when a replica",
        "that calls nobody knows, probes at once, round trips of the 4 and Redis commands of all in 13 s",
        f"  {'':36}{Incident.header()}",
        f"  {'Chorus':36}{breaker_outage.row(with_push)}",
        f"  {'Chorus, every message lost':36}{breaker_outage.row(without)}",
    ]
    return lines, _bars(with_push, without)


def _bars(with_push: Sequence[Incident], without: Sequence[Incident]) -> list[Bar]:
    def bar(what: str, values: Sequence[float], limit: float, unit: str = "") -> Bar:
        return Bar(f"breaker: {what}", median(values), limit, unit, at_most=True)

    return [
        bar("upstream calls begun after the threshold", [one.late for one in with_push], 6),
        bar("the last of them", [one.last_ms for one in with_push], 10, " ms"),
        bar("a quiet replica learns by push", [one.learned_ms for one in with_push], 10, " ms"),
        bar("a quiet replica learns without push", [one.learned_ms for one in without], 1300, " ms"),
        bar("probes at once", [max(one.probes for one in (*with_push, *without))], 1),
        bar("Redis round trips in 13 s", [one.round_trips for one in with_push], 250),
    ]


async def peers(server: Valkey) -> Figures:
    lines = [f"  {'the same incident':36}{Incident.header()}"]
    for peer in PEERS:
        if not peer.is_installed:
            lines.append(f"  {peer.label:36}not installed")
            continue
        try:
            lines.append(f"  {peer.label:36}{breaker_outage.row([await incident(peer.driver, server.url)])}")
        except (TimeoutError, IndexError, ConnectionError) as exc:
            lines.append(f"  {peer.label:36}did not get through it ({type(exc).__name__})")
    return lines, []


async def killed(server: Valkey) -> Figures:
    seconds = [await breaker_outage.killed_prober(server.url) for _ in range(ROUNDS)]
    lines = table(f"prober killed, lease {LEASE_SECONDS:.0f} s", "s", {"the next probe": seconds}).splitlines()
    limit = LEASE_SECONDS + GRACE_SECONDS
    return lines, [Bar("breaker: next probe after a killed prober", median(seconds), limit, " s", at_most=True)]


async def hung(server: Valkey) -> Figures:
    hangs = await breaker_outage.hung_redis(server, ROUNDS)
    rows = {"in the 3 s before": [hang.before for hang in hangs], "while Redis hung": [hang.hung for hang in hangs]}
    added = median([hang.hung - hang.before for hang in hangs])
    lines = table("Redis hung for 3 s, upstream healthy: the worst call of anybody", "ms", rows).splitlines()
    return lines, [Bar("breaker: a hung Redis adds to the worst call", added, 50, " ms", at_most=True)]


PARTS: dict[str, Callable[[Valkey], Awaitable[Figures]]] = {
    "cost": cost, "incidents": incidents, "peers": peers, "killed": killed, "hung": hung,
}  # fmt: skip


async def measure(names: Sequence[str]) -> Figures:
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    folder.chmod(0o711)
    server = Valkey(locate(folder))
    server.start()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines, bars = [f"load {load} on {os.cpu_count()} cores"], []
    try:
        for name in names:
            text, judged = await PARTS[name](server)
            lines += text
            bars += judged
    finally:
        server.stop()
        remove_data(folder)
    return lines, bars


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.breaker")
    parser.add_argument("names", nargs="*", choices=[*PARTS, []], metavar="name", help=f"of {', '.join(PARTS)}")
    lines, bars = uvloop.run(measure(parser.parse_args().names or list(PARTS)))
    sys.stdout.write("\n".join([*lines, write_bars(bars)]) + "\n")


if __name__ == "__main__":
    main()
