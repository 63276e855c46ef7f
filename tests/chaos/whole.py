"""`make chaos`: every part of the failure suite within half an hour; the time of each.

python -m tests.chaos.whole            # all that the seed of this moment plays
python -m tests.chaos.whole --seed 7   # the same again

What holds times to milliseconds plays alone. What waits, or must fail, plays side by side at the end. Three seeds in a
row (7, 8, 9) play every scenario and every mutation; five (7 to 11) also each timed test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 30 * 60.0
MACHINES = (
    "tests/unit/test_circuit_breaker_properties.py",
    "tests/unit/test_fleet_breaker_properties.py",
    "tests/unit/test_queue_model.py",
    "tests/integration/test_cache_protocol.py",
)
WAITING = ("tests/chaos/test_outages.py", "tests/e2e/test_blocked_account.py")
"""Timed tests that wait for minutes, and hold what comes then to seconds."""
IN_TURN = tuple(
    f"tests/integration/test_courtesies.py::test_receipts_in_trouble_for_a_minute_delay_no_answer[{fault}]"
    for fault in ("error", "hang", "drop", "reset", "late")
)
"""Minutes each: one with each seed."""
PYTEST = ("-m", "pytest", "-q")
TIMED = (*PYTEST, "-m", "timed or bounded", "--patience=1")

Part = Mapping[str, Sequence[str]]
"""Name -> arguments of this interpreter, of what plays side by side."""


def parts(seed: int) -> Sequence[Part]:
    """One after the other."""
    of_this_seed = ("--seed", str(seed))
    left_out = [f"--deselect={test}" for number, test in enumerate(IN_TURN) if number != seed % len(IN_TURN)]
    return (
        {"scenarios, measurements, schedule": ("-m", "tests.chaos", *of_this_seed)},
        {"timed tests": (*TIMED, "tests", *(f"--ignore={path}" for path in WAITING), *left_out)},
        {
            "mutations": ("-m", "tests.chaos.mutations", "--mutants-only", *of_this_seed),
            **{f"timed tests that wait, {number}": (*TIMED, path) for number, path in enumerate(WAITING, 1)},
            "state machines, by chance": (*PYTEST, "--hypothesis-profile=explore", *MACHINES),
        },
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.whole")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    seed = parser.parse_args().seed
    sys.stdout.write(f"--- make chaos SEED={seed} ---\n")
    began, rows = time.monotonic(), []
    for part in parts(seed):
        left = LIMIT_SECONDS - (time.monotonic() - began)
        with ThreadPoolExecutor(len(part)) as pool:
            rows += pool.map(lambda each, left=left: _play(*each, within_seconds=left), part.items())
    total = time.monotonic() - began
    failed = [verdict for _, verdict, _ in rows if verdict != "ok"]
    rows.append(("in all", f"of {LIMIT_SECONDS:.0f} s", total))
    sys.stdout.write("\n".join(["--- make chaos ---", *(f"{n:<36} {v:<12} {s:7.0f} s" for n, v, s in rows), ""]))
    return int(bool(failed))


def _play(name: str, arguments: Sequence[str], *, within_seconds: float) -> tuple[str, str, float]:
    """Its name, `ok` or what went wrong, its seconds. A part that is out of time is ended, with what it started."""
    started = time.monotonic()
    if within_seconds <= 0:
        return name, "NO TIME", 0.0
    try:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=within_seconds, check=False)
    except subprocess.TimeoutExpired:
        return name, "OUT OF TIME", within_seconds
    return name, "ok" if done.returncode == 0 else f"FAILED ({done.returncode})", time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
