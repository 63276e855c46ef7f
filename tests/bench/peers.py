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


def beside_peers(module: str) -> Callable[[Stage], tuple[list[str], list[Bar]]]:
    """`module` prints its own table, on a server of its own, and its bars in the last line."""

    def run(_servers: Stage) -> tuple[list[str], list[Bar]]:
        done = subprocess.run(
            [PYTHON, "-m", module],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "backend"), str(ROOT / "tests"), str(ROOT)))},
            stdout=subprocess.PIPE,  # what it has to complain about is for whoever watches
            text=True,
            timeout=LIMIT_SECONDS,
            check=True,
        )
        return read_bars(done.stdout.splitlines())

    return run
