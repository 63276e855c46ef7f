"""The vocabulary can be imported by itself: no driver, no framework, no event loop comes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[2] / "backend"
MOST_SECONDS = 0.05
TRIES = 10
"""A busy processor makes a run slower, never faster: one run below the limit proves it."""

SCRIPT = """
import json, sys, time
before, began = set(sys.modules), time.process_time()
import app.domain.ports
seconds = time.process_time() - began
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def import_ports() -> tuple[float, set[str]]:
    """In a fresh interpreter: seconds of the processor, and the modules that came with it."""
    command = [sys.executable, "-c", SCRIPT]
    seconds, modules = json.loads(subprocess.run(command, cwd=BACKEND, check=True, capture_output=True).stdout)
    return seconds, set(modules)


def test_importing_the_ports_loads_nothing_but_the_vocabulary_and_the_standard_library() -> None:
    _, modules = import_ports()
    assert "app.domain.ports" in modules
    assert {name for name in modules if name.partition(".")[0] not in {"app", *sys.stdlib_module_names}} == set()
    assert {name for name in modules if name.startswith("app.core.")} == {
        "app.core.clock", "app.core.deadline", "app.core.errors", "app.core.event",
    }  # fmt: skip
    assert not modules & {"asyncio", "socket", "ssl", "logging"}


def test_importing_the_ports_takes_less_than_50_ms() -> None:
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=1.0) >= MOST_SECONDS:
        taken.append(import_ports()[0])
    assert min(taken) < MOST_SECONDS, taken
