"""The vocabulary can be imported by itself: no driver, no framework, no event loop comes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[2] / "backend"
MOST = 3.0
"""Times what Python's own asyncio takes; half of that is usual."""
TRIES = 5
"""A busy processor makes a run slower, never faster: the quickest counts."""

SCRIPT = """
import json, sys, time
before, began = set(sys.modules), time.process_time()
import {module}
seconds = time.process_time() - began
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def imported(module: str) -> tuple[float, set[str]]:
    """In a fresh interpreter: seconds of the processor, and the modules that came with it."""
    command = [sys.executable, "-c", SCRIPT.format(module=module)]
    seconds, modules = json.loads(subprocess.run(command, cwd=BACKEND, check=True, capture_output=True).stdout)
    return seconds, set(modules)


def test_importing_the_ports_loads_nothing_but_the_vocabulary_and_the_standard_library() -> None:
    _, modules = imported("app.domain.ports")
    assert "app.domain.ports" in modules
    assert {name for name in modules if name.partition(".")[0] not in {"app", *sys.stdlib_module_names}} == set()
    assert {name for name in modules if name.startswith("app.core.")} == {
        "app.core.clock", "app.core.deadline", "app.core.errors", "app.core.event",
    }  # fmt: skip
    assert not modules & {"asyncio", "socket", "ssl", "logging"}


def test_importing_the_ports_costs_little_more_than_a_module_of_python() -> None:
    """Compared on the same machine, whatever that is: a limit in milliseconds fails on a slow one."""
    ours, theirs = (min(imported(name)[0] for _ in range(TRIES)) for name in ("app.domain.ports", "asyncio"))
    assert ours < MOST * theirs


START = """
import gc, json, sys
from app.cli import main
main(["--version"], standalone_mode=False)
before = sum(generation["collections"] for generation in gc.get_stats())
import app.server
print(json.dumps([sum(generation["collections"] for generation in gc.get_stats()) - before, sorted(sys.modules)]))
"""


def test_a_replica_starts_without_supabase_py_and_without_searching_its_imports_for_garbage() -> None:
    """A replica on PostgreSQL never uses supabase-py, and Python would look for garbage some 280 times."""
    done = subprocess.run([sys.executable, "-c", START], cwd=BACKEND, check=True, capture_output=True, text=True)
    searches, modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"supabase", "postgrest", "storage3", "realtime", "websockets"} & set(modules)
    assert searches < 60
