"""`make chaos`: every part of the failure suite, one after the other, within half an hour; the time of each.

python -m tests.chaos.whole            # all
python -m tests.chaos.whole --seed 7   # the same schedule again
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 30 * 60.0
MACHINES = (
    "tests/unit/test_circuit_breaker_properties.py",
    "tests/unit/test_fleet_breaker_properties.py",
    "tests/unit/test_queue_model.py",
    "tests/integration/test_cache_protocol.py",
)
PYTEST = ("-m", "pytest", "-q")


def parts(seed: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Each part's name -> arguments of this interpreter."""
    return {
        "timed tests": (*PYTEST, "-m", "timed", "tests"),
        "state machines, by chance": (*PYTEST, "--hypothesis-profile=explore", *MACHINES),
        "scenarios, measurements, schedule": ("-m", "tests.chaos", *seed),
        "mutations": ("-m", "tests.chaos.mutations"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.whole")
    parser.add_argument("--seed", help="of the schedule")
    seed = parser.parse_args().seed
    began, rows, failed = time.monotonic(), [], False
    for name, arguments in parts(["--seed", seed] if seed else []).items():
        started = time.monotonic()
        verdict = _run(arguments, within_seconds=LIMIT_SECONDS - (started - began))
        rows.append((name, verdict, time.monotonic() - started))
        failed = failed or verdict != "ok"
    total = time.monotonic() - began
    rows.append(("in all", f"of {LIMIT_SECONDS:.0f} s", total))
    sys.stdout.write("\n".join(["--- make chaos ---", *(f"{n:<36} {v:<12} {s:7.0f} s" for n, v, s in rows), ""]))
    return int(failed)


def _run(arguments: Sequence[str], *, within_seconds: float) -> str:
    """`ok`, or what went wrong. A part that is out of time is ended, with the processes it started."""
    if within_seconds <= 0:
        return "NO TIME"
    try:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=within_seconds, check=False)
    except subprocess.TimeoutExpired:
        return "OUT OF TIME"
    return "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"


if __name__ == "__main__":
    sys.exit(main())
