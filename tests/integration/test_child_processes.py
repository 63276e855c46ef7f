from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from app.localhost.processes import ChildProcess, FileLock, ProcessError, free_port, stop_leftover

SAYS_READY = "import os, time; os.write(1, b'ready\\n'); time.sleep(60)"
"""In one write: a signal may come as soon as the word is there, and its handler's word must have its own line."""
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SAYS_READY}"


def child(folder: Path, code: str, *, stdin: bytes | None = None) -> ChildProcess:
    argv = [sys.executable, "-c", code]
    return ChildProcess("child", argv, log_file=folder / "log", pid_file=folder / "pid", stdin=stdin)


def started(process: ChildProcess) -> ChildProcess:
    process.start()
    while process.running and "ready" not in process.log_tail():
        time.sleep(0.005)
    return process


def test_stop_asks_first_and_returns_when_the_process_is_gone(tmp_path: Path) -> None:
    process = started(child(tmp_path, SAYS_READY))
    process.stop()
    assert (process.running, process.exit_code) == (False, -signal.SIGTERM)
    process.stop()


def test_stop_insists_when_the_grace_is_over(tmp_path: Path) -> None:
    process = started(child(tmp_path, STUBBORN))
    process.stop(grace_seconds=0.05)
    assert process.exit_code == -signal.SIGKILL


def test_the_stop_signal_is_sent_once(tmp_path: Path) -> None:
    """A server takes the second one as an order to drop everything."""
    counting = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True)); "
    process = started(child(tmp_path, counting + SAYS_READY))
    process.ask_to_stop()
    while process.running and "asked" not in process.log_tail():
        time.sleep(0.005)
    process.stop(grace_seconds=0.3)
    assert process.log_tail().splitlines().count("asked") == 1


def test_paused_process_can_be_stopped(tmp_path: Path) -> None:
    process = started(child(tmp_path, SAYS_READY))
    process.pause()
    process.stop()
    assert process.exit_code == -signal.SIGTERM


def test_it_gets_its_input_and_starts_again_with_a_log_of_its_own(tmp_path: Path) -> None:
    process = child(tmp_path, "import sys; print(sys.stdin.read()); sys.exit(3)", stdin=b"hello")
    for _ in range(2):
        process.start()
        assert process.wait(10) == 3
        assert process.log_tail() == "hello"
    assert process.log_file.read_text() == "hello\nhello\n"


def test_kill_takes_the_children_along(tmp_path: Path) -> None:
    forking = "import os\nif os.fork() == 0:\n    import time; time.sleep(60)\n"
    started(child(tmp_path, forking + SAYS_READY)).kill()
    lock = FileLock(tmp_path / "pid")  # a child of the child inherited it
    assert lock.acquire(timeout_seconds=5)
    lock.release()


def test_what_an_earlier_run_left_is_stopped_first(tmp_path: Path) -> None:
    leftover = started(child(tmp_path, SAYS_READY))
    successor = started(child(tmp_path, SAYS_READY))
    assert leftover.wait(5) == -signal.SIGTERM
    successor.stop()


def test_a_stranger_that_was_given_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = started(child(tmp_path, SAYS_READY))
    lock = FileLock(tmp_path / "other-pid")
    assert lock.acquire(timeout_seconds=0)
    lock.write(f"{stranger.pid} another start time")
    with pytest.raises(ProcessError, match="does not end"):
        stop_leftover(lock.path, "stranger", grace_seconds=0.05)
    assert stranger.running
    stranger.stop()
    lock.release()


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    process = ChildProcess("baker", ["/nonexistent"], log_file=tmp_path / "log", pid_file=tmp_path / "pid")
    with pytest.raises(ProcessError, match=r"baker could not be started: .*No such file"):
        process.start()
    assert not process.running


def test_free_port_prefers_the_one_asked_for_unless_it_is_taken() -> None:
    port = free_port()
    assert free_port(preferred=port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(preferred=port) != port
