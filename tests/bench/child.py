"""A process of the bench: a JSON object a line to its stdin, one back for each. Whoever loses its parent reads the end
of stdin and ends. Standard library only, because the peers run it in an environment of their own.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 10.0


class BenchError(Exception):
    """A benchmark could not be carried out; that says nothing about the figures."""


class Child:
    """Runs a module of this package as a process of its own until the block ends."""

    def __init__(self, python: str | Path, module: str, *args: str, env: Mapping[str, str] | None = None) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [str(python), "-m", f"tests.bench.{module}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=env,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, timeout_seconds: float, /, **arguments: Any) -> dict[str, Any]:
        self.tell(do, **arguments)
        return self.answer(timeout_seconds)

    def tell(self, do: str, /, **arguments: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout_seconds: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout
        # One answer per command, so nothing is left in the buffer that `select` could not see.
        if not select.select([stdout], [], [], timeout_seconds)[0]:
            raise BenchError(f"{self._name} did not answer within {timeout_seconds:g} s")
        line = stdout.readline()
        if not line:
            raise BenchError(f"{self._name} ended with exit code {self._process.wait(STOP_SECONDS)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def answer_commands(handlers: Mapping[str, Callable[..., Mapping[str, Any]]]) -> None:
    """The child's side: until the parent closes the pipe or is gone."""
    for line in sys.stdin:
        command = json.loads(line)
        say(handlers[command.pop("do")](**command))


def say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
