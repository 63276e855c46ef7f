"""How many conversations a second two worker processes get through when there is nothing to do in them, and how many
events are put a second, beside the fastest task-queue libraries on the same server.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.child import ROOT, BenchError, Child
from tests.bench.machine import Stage
from tests.bench.report import Bar, ratio, table

ROUNDS = 3
WORKERS = 2
JOBS = 8000
PRODUCERS = (1, 16, 64)
PUTS = {1: 2000, 16: JOBS, 64: JOBS}
"""Jobs for each number of producers. What 16 of them put is what the workers then handle."""
ANSWER_SECONDS = 120.0
HEAD_START_SECONDS = 0.5

PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
CHORUS = "Chorus mailboxes"
CONTENDERS: dict[str, tuple[Path, str]] = {
    CHORUS: (Path(sys.executable), "queue_chorus"),
    "FastStream, Redis streams": (PEERS_PYTHON, "queue_faststream"),
    "taskiq-redis, streams": (PEERS_PYTHON, "queue_taskiq"),
}


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    if not PEERS_PYTHON.exists():
        raise BenchError(f"{PEERS_PYTHON} is missing; `make bench` builds it")
    worked: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    put: dict[int, dict[str, list[float]]] = {n: {name: [] for name in CONTENDERS} for n in PRODUCERS}
    with ExitStack() as stack:
        environment = os.environ | {"REDIS_URL": stage.redis_url}
        processes = {
            name: [stack.enter_context(Child(python, module, env=environment)) for _ in range(WORKERS)]
            for name, (python, module) in CONTENDERS.items()
        }
        for children in processes.values():
            for child in children:
                child.ask("ready", ANSWER_SECONDS)
        for _ in range(ROUNDS):
            for name, children in processes.items():
                for producers in sorted(PRODUCERS, key=lambda n: n == 16):
                    put[producers][name].append(_put(stage, children[0], producers))
                worked[name].append(_work(children))
    peers = [rates for name, rates in worked.items() if name != CHORUS]
    best = max(peers, key=lambda rates: sorted(rates)[len(rates) // 2])
    lines = [
        table(f"{JOBS:,} no-op conversations, one event each, {WORKERS} worker processes", "conversations/s", worked),
        *(
            table(f"putting events of 1.1 KB one by one, {n} producers in one process", "events/s", put[n])
            for n in PRODUCERS
        ),
    ]
    ours = sorted(worked[CHORUS])[ROUNDS // 2]
    return lines, [
        Bar("queue, no-op conversations with two workers", ours, 4000, "/s"),
        Bar("queue, times the best library (this or the bar above)", ratio(worked[CHORUS], best), 2, "x"),
    ]


def _put(stage: Stage, child: Child, producers: int) -> float:
    stage.empty_redis()
    return PUTS[producers] / float(
        child.ask("put", ANSWER_SECONDS, count=PUTS[producers], producers=producers)["seconds"]
    )


def _work(children: list[Child]) -> float:
    """From the common start to the last job handled by either worker."""
    start_at = time.monotonic() + HEAD_START_SECONDS
    for child in children:
        child.tell("work", start_at=start_at)
    answers = [child.answer(ANSWER_SECONDS) for child in children]
    handled = sum(answer["handled"] for answer in answers)
    if handled != JOBS:
        raise BenchError(f"{handled} of {JOBS} jobs were handled")
    last: float = max(answer["last"] for answer in answers)
    return JOBS / (last - start_at)
