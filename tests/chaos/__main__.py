"""`python -m tests.chaos --messages 6000 --seed 7`: the scenarios of this seed, every measurement, then the long
schedule of faults; their tables, exit code 1 when a promise broke.

    python -m tests.chaos --only full_redis --only fairness       # some of them, by name
    python -m tests.chaos --list
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .catalogue import EVERY_SCENARIO, MEASUREMENTS, place_of, scenarios_of
from .run import Plan, run
from .scenarios import Broken
from .world import running_world

CONFIGURATIONS: Mapping[str, Mapping[str, str]] = {
    # Without a fallback the webhook answers 503 while Valkey is away, and Meta is the spill buffer.
    "redis-only": {},
    # Postgres takes what Valkey cannot, and hands it over in order.
    "inbox": {"INGEST_FALLBACK": "database"},
}
"""What each run of the schedule adds to the replicas' environment; with each seed it runs once for one of them."""
SCENARIO_SECONDS = 180.0
MEASUREMENT_SECONDS = 300.0
NAMES = (*EVERY_SCENARIO, *MEASUREMENTS, *CONFIGURATIONS)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--messages", type=int, default=6_000)
    parser.add_argument("--seconds", type=float, default=110, help="how long messages and faults go on")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--only", choices=NAMES, action="append", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the names, and nothing else")
    parser.add_argument("--logs", type=Path, help="keep all that the replicas wrote in the schedule in this file")
    asked = parser.parse_args()
    if asked.list:
        sys.stdout.write("\n".join([*NAMES, ""]))
        return 0
    configuration = list(CONFIGURATIONS)[asked.seed % len(CONFIGURATIONS)]
    chosen = asked.only or [*scenarios_of(asked.seed), *MEASUREMENTS, configuration]
    problems = await _scenarios([name for name in EVERY_SCENARIO if name in chosen])
    for name in (name for name in MEASUREMENTS if name in chosen):
        problems += await _measure(name)
    for name in (name for name in CONFIGURATIONS if name in chosen):
        plan = Plan(asked.messages, max(1, asked.messages // 16), asked.seconds, asked.seed, full=True)
        problems += await _schedule(name, plan, asked.logs)
    return int(bool(problems))


async def _scenarios(names: Sequence[str]) -> list[str]:
    """One after the other, those of one server in one world. One that breaks has a new world made for the next."""
    if not names:
        return []
    _print("scenarios", f"{'':<44} {'verdict':<8} seconds")
    broken: list[str] = []
    for place in dict.fromkeys(place_of(name) for name in names):
        left = [name for name in names if place_of(name) == place]
        while left:
            async with running_world(settings=dict(place.settings), businesses=2, valkey=place.server) as world:
                while left:
                    name, started, problem = left.pop(0), time.monotonic(), ""
                    try:
                        async with asyncio.timeout(SCENARIO_SECONDS):
                            await EVERY_SCENARIO[name](world)
                    except (Broken, TimeoutError) as exc:
                        problem = str(exc) or f"no end within {SCENARIO_SECONDS:g} s"
                    seconds = time.monotonic() - started
                    sys.stdout.write(f"{name:<44} {'BROKEN' if problem else 'holds':<8} {seconds:7.1f}\n")
                    if problem:
                        broken.append(name)
                        sys.stdout.write(f"    {problem}\n")
                        break
                    sys.stdout.flush()
    return broken


async def _measure(name: str) -> list[str]:
    measurement = MEASUREMENTS[name]
    async with (
        asyncio.timeout(MEASUREMENT_SECONDS),
        running_world(businesses=measurement.businesses, settings=measurement.settings) as world,
    ):
        found = await measurement.run(world)
    _print(name, found.table(), *_told(found.problems()))
    return list(found.problems())


async def _schedule(configuration: str, plan: Plan, logs: Path | None) -> list[str]:
    async with running_world(businesses=4, settings=CONFIGURATIONS[configuration]) as world:
        report = await run(world, plan)
        if logs:
            logs.write_text(world.logs.text, encoding="utf-8")
    _print(configuration, report.table(), *_told(report.verdict.problems))
    return list(report.verdict.problems)


def _told(problems: Sequence[str]) -> Iterator[str]:
    yield from (f"BROKEN: {problem}" for problem in problems)


def _print(name: str, *lines: str) -> None:
    sys.stdout.write("\n".join([f"--- {name} ---", *lines, ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
