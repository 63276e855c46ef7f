"""`python -m tests.chaos --messages 10000 --seed 7`: the long run, its tables, exit code 1 when the promise broke."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import fairness
from .run import Plan, run
from .world import running_world

CONFIGURATIONS: Mapping[str, Mapping[str, str]] = {
    # Without a fallback the webhook answers 503 while Valkey is away, and Meta is the spill buffer.
    "redis-only": {},
    # Postgres takes what Valkey cannot, and hands it over in order.
    "inbox": {"INGEST_FALLBACK": "database"},
}
"""What each run of the schedule adds to the replicas' environment; the whole schedule runs once for each."""
FAIRNESS = "fairness"


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=180, help="how long messages and faults go on")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--configuration", choices=[FAIRNESS, *CONFIGURATIONS], action="append")
    parser.add_argument("--logs", type=Path, help="keep all that the replicas wrote in this file")
    chosen = parser.parse_args()
    failed = False
    for name in chosen.configuration or (FAIRNESS, *CONFIGURATIONS):
        if name == FAIRNESS:
            table, problems = await _fairness()
        else:
            plan = Plan(chosen.messages, max(1, chosen.messages // 16), chosen.seconds, chosen.seed, full=True)
            table, problems = await _chaos(name, plan, chosen.logs)
        broken = [f"BROKEN: {problem}" for problem in problems]
        sys.stdout.write("\n".join([f"--- {name} ---", table, *broken, ""]))
        sys.stdout.flush()
        failed = failed or bool(problems)
    return int(failed)


async def _chaos(configuration: str, plan: Plan, logs: Path | None) -> tuple[str, Sequence[str]]:
    async with running_world(businesses=4, settings=CONFIGURATIONS[configuration]) as world:
        report = await run(world, plan)
        if logs:
            logs.write_text(world.logs.text, encoding="utf-8")
    return report.table(), report.verdict.problems


async def _fairness() -> tuple[str, Sequence[str]]:
    tables, problems = [], []
    for name, (neighbour, settings) in fairness.NEIGHBOURS.items():
        async with running_world(businesses=2, settings=settings) as world:
            found = await neighbour(world)
        tables.append(found.table())
        if not found.is_fair:
            problems.append(f"{name}: a ratio of {found.ratio:.2f}{''.join(found.problems)}")
    return "\n".join(tables), problems


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
