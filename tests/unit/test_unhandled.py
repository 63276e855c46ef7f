"""An error that no handler caught is told by type and place, on stderr or in the log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, logging, sys, threading, warnings
from app.core.logging import configure_logging
from app.core.logging import tell_by_place

if {in_the_log}:
    configure_logging("INFO")
else:
    logging.getLogger().addHandler(logging.NullHandler())  # as every command
tell_by_place(in_the_log={in_the_log})
name = "Kumquat " + "Smith"

def fail(_=None):
    raise KeyError(name)

class Closing:
    def __del__(self):
        fail()

thread = threading.Thread(target=fail)
thread.start()
thread.join()
Closing()
warnings.warn(name)

async def main():
    asyncio.get_running_loop().call_soon(fail, name)
    asyncio.get_running_loop().create_future().set_exception(KeyError(name))
    await asyncio.sleep(0)

asyncio.run(main())
fail()
"""


@pytest.mark.parametrize("in_the_log", [False, True])
def test_every_hook_tells_type_and_place_and_no_text(in_the_log: bool) -> None:
    command = [sys.executable, "-c", PROGRAM.format(in_the_log=in_the_log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done.stderr
    assert "Kumquat Smith" not in done.stderr + done.stdout
    wanted = {
        "unhandled error", "unhandled error in a thread", "unhandled error in a function", "UserWarning in <string>:24",
    }  # fmt: skip
    if in_the_log:
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        events = [line["event"] for line in lines]
        wanted |= {"Exception in callback", "Future exception was never retrieved"}
        traces = [line["exception"] for line in lines if "exception" in line]
        assert len(traces) == 5
        assert all(trace.endswith("\nKeyError") or trace == "KeyError" for trace in traces)
    else:
        events = [line.removeprefix("chorus: ") for line in done.stderr.splitlines() if line.startswith("chorus: ")]
        assert done.stderr.count("\nKeyError\n") == 3
    assert sorted(events) == sorted(wanted)
