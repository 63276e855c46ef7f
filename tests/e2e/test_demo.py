"""`make demo` as a new user meets it: wherever the folder is, whatever a run before it left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest

from app.demo.run import _trouble_with_the_model
from app.localhost.fleet import SOURCE_ROOT
from app.localhost.servers import remove_data
from app.sandbox.app import running_sandbox
from app.sandbox.config import SandboxConfig
from tests.support.fakes import peer, read_request, response
from tests.support.patience import Within
from tests.support.server_folder import server_folder

FINISHED = "every message got exactly the reply it should"


@pytest.fixture
def folder() -> Iterator[Path]:
    """With spaces, and longer than a Unix socket's path may be."""
    base = server_folder("a demo ")
    folder = base / ("a folder with a long name " * 5).strip()
    folder.mkdir()
    yield folder
    remove_data(folder / ".data" / "demo" / "servers")
    shutil.rmtree(base)


@contextmanager
def running_demo(folder: Path, *args: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Killed at the end if it still runs; what it has started ends with it."""
    env = {name: value for name, value in os.environ.items() if name not in {"GEMINI_API_KEY", "VIRTUAL_ENV"}}
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "demo", *args],
        cwd=folder,
        env=env | {"PYTHONPATH": str(SOURCE_ROOT)} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    assert demo.stdout
    seen = ""
    for line in demo.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended without saying {text!r}:\n{seen}")


def processes_in(folder: Path) -> list[str]:
    """Command lines of living processes that work in this folder or name it."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = str((each / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in command or where.startswith(str(folder)):
            found.append(command)
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for left-over processes in /proc")


@needs_proc
@pytest.mark.timeout(300)
def test_what_is_broken_on_purpose_is_told_within_seconds_and_mends_itself(folder: Path, within: Within) -> None:
    """The README's section of that name, word for word but for the length of the fault. Then the demo itself is killed:
    the next one reuses its data on other ports, answers a person, and Ctrl-C ends it with exit code 0. (That
    DEMO_ONCE=1 ends by itself with 0 is what CI sees before it begins the suite.)"""
    with running_demo(folder) as demo:
        opening = read_until(demo, "Ctrl-C ends it")
        (sandbox,) = re.findall(r"sandbox +(http://\S+)", opening)
        (pid,) = re.findall(r"replica-2 .*pid (\d+)", opening)
        fault = json.dumps({"target": "gemini", "gemini": "unavailable", "for_seconds": 8}).encode()
        headers = {"content-type": "application/json"}
        urlopen(Request(f"{sandbox}/sandbox/faults", fault, headers), timeout=10).close()
        assert seconds_until(demo, "a fault begins") < within(10)
        assert seconds_until(demo, "circuit gemini_api: open") < within(10)
        assert seconds_until(demo, "the fault is over") < within(15)
        os.kill(int(pid), signal.SIGKILL)
        assert seconds_until(demo, "replica-2 has ended") < within(10)
        assert seconds_until(demo, "replica-2 is back") < within(40)
    keys = (folder / ".data" / "demo" / "keys.json").read_text()
    with taken(8000, 9000), running_demo(folder) as again:
        output = read_until(again, "Ctrl-C ends it")
        assert FINISHED in output
        assert (folder / ".data" / "demo" / "keys.json").read_text() == keys
        (url,) = re.findall(r"sandbox +(http://\S+)", output)
        command = [sys.executable, "-m", "app.cli", "sandbox", "say", "Do you have vegan pastries?", "--url", url]
        said = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(SOURCE_ROOT)}, capture_output=True, text=True, timeout=60
        )
        assert (said.returncode, "apple turnover" in said.stdout) == (0, True), said.stderr
        again.send_signal(signal.SIGINT)
        again.communicate(timeout=60)
        assert again.returncode == 0
        assert processes_in(folder) == []


@contextmanager
def taken(*ports: int) -> Iterator[None]:
    with ExitStack() as stack:
        for port in ports:
            listening = stack.enter_context(socket.socket())
            with suppress(OSError):  # another program has it, which serves as well
                listening.bind(("127.0.0.1", port))
                listening.listen()
        yield


def seconds_until(demo: subprocess.Popen[str], text: str) -> float:
    start = time.monotonic()
    read_until(demo, text)
    return time.monotonic() - start


@needs_proc
def test_a_wrong_key_is_named_once_and_nothing_is_played(folder: Path) -> None:
    """The outside Gemini is a stand-in that knows another key."""
    with (
        running_in_a_thread(SandboxConfig(gemini_api_keys=("the-right-one",))) as url,
        running_demo(folder, "--once", GEMINI_API_KEY="a-wrong-one", GEMINI_BASE_URL=url) as demo,
    ):
        output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 1, output
    assert output.count("API_KEY_INVALID") == 1, output
    assert "GEMINI_API_KEY" in output
    assert "Amina" not in output
    assert processes_in(folder) == []


async def test_what_the_first_replica_knows_of_the_model_is_waited_for() -> None:
    """Another one looks for all: until it has said what it found, nothing is known, least of all that all is well."""
    seen = iter([{"status": "unknown"}, {"status": "error", "error": "HTTP 400 API_KEY_INVALID"}])

    async def health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await read_request(reader)
            writer.write(response(json.dumps({"dependencies": {"gemini": next(seen)}}).encode()))
            await writer.drain()

    async with peer(health) as url:
        fleet = SimpleNamespace(replicas=[SimpleNamespace(url=url)], keys=SimpleNamespace(admin="key"))
        assert "API_KEY_INVALID" in str(await _trouble_with_the_model(fleet))


@contextmanager
def running_in_a_thread(config: SandboxConfig) -> Iterator[str]:
    """The sandbox's base URL; it has an event loop of its own while the test waits for a process."""
    urls: Queue[str] = Queue()
    over = threading.Event()

    async def serve() -> None:
        async with running_sandbox(config) as sandbox:
            urls.put(sandbox.url)
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield urls.get(timeout=30)
    finally:
        over.set()
        thread.join()


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_during_the_start_leaves_no_process(folder: Path, ending: signal.Signals) -> None:
    with running_demo(folder) as demo:
        read_until(demo, "starting the sandbox")
        demo.send_signal(ending)
        output, _ = demo.communicate(timeout=60)
    assert "Traceback" not in output
    assert processes_in(folder) == []
