"""`make test &`: a shell starts background jobs with SIGINT ignored, and the programs that tests start inherit that."""

from __future__ import annotations

import signal
import subprocess
import sys


def test_a_program_that_a_test_starts_can_be_interrupted() -> None:
    command = ["/bin/sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            program.send_signal(signal.SIGINT)
            assert program.wait(10) == -signal.SIGINT
        finally:
            program.kill()


def test_it_can_be_interrupted_in_the_background_too() -> None:
    once = f"{__file__}::{test_a_program_that_a_test_starts_can_be_interrupted.__name__}"
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", once]
    ignoring = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *pytest_run]
    done = subprocess.run(ignoring, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
