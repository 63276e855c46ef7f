"""Benchmarks whose peers live in the same process as Chorus: run in the environment that has them all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.bench.machine import Stage
from tests.bench.report import Bar, read_bars

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
LIMIT_SECONDS = 600
COMPLAINT_CHARACTERS = 4000


def beside_peers(module: str) -> Callable[[Stage], tuple[list[str], list[Bar]]]:
    """`module` prints its own table, on a server of its own, and its bars in the last line."""

    def run(_servers: Stage) -> tuple[list[str], list[Bar]]:
        done = subprocess.run(
            [PYTHON, "-m", module],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "backend"), str(ROOT)))},
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr[-COMPLAINT_CHARACTERS:]}")
        return read_bars(done.stdout.splitlines())

    return run
