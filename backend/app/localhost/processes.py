"""Child processes that cannot outlive their owner unnoticed: for the embedded servers, the demo and the chaos tests.

Three things make sure of it, on Linux and macOS alike:
1. `stop` and `kill` return when the process is gone.
2. A guard (a small shell) reads a pipe that only the owner holds open. The owner's death, SIGKILL included, closes
   it, and the guard ends the child. A signal on the parent's death (`PR_SET_PDEATHSIG`) exists on Linux only, is lost
   when the child changes its user, and fires when the *thread* that started the child ends.
3. The child inherits a lock on its pid file. The kernel keeps the lock as long as the child, or a child of the child,
   lives, so the next run knows for certain what is left of an earlier one, however that one ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HAS_PROC = Path("/proc/self/stat").exists()
POLL_SECONDS = 0.01
LOG_LIMIT_BYTES = 5_000_000
LOG_TAIL_BYTES = 100_000

# Ports below every system's range for outgoing connections (Linux 32768, macOS 49152): a client that keeps trying to
# reach a stopped server on a port inside that range ends up connected to itself, and the server cannot come back.
PORTS = range(20_000, 32_000)

# stdin: a line "pid signal", then either a line (the owner has seen the child end) or the end of the pipe.
GUARD = """
trap '' HUP INT TERM
read -r pid signal || exit 0
read -r released && exit 0
kill -s "$signal" "$pid" || exit 0
tries=0
while kill -0 "$pid" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL "$pid"
"""


class ProcessError(Exception):
    """A process did not start, ended too early or could not be stopped. The message says how to mend it."""


class EmbeddedServerError(ProcessError):
    """An embedded server cannot be had here. The message says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group a child runs as, when not our own. Supplementary groups are dropped."""

    uid: int
    gid: int


def free_port(preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 without a listener: `preferred` if it is free. Another process may take it before you do,
    so retry when binding fails."""
    candidates = [] if preferred is None else [preferred]
    candidates += random.sample(PORTS, 100)
    for port in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do it: connections of an earlier run in TIME_WAIT do not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ProcessError(f"no free port among 100 tried between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


class FileLock:
    """An exclusive lock on a file, kept as long as any process holds the descriptor it was taken on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def acquire(self, *, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        descriptor, acquired = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), False
        try:
            while not (acquired := _try_lock(descriptor)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        finally:
            if acquired:
                self.descriptor = descriptor
            else:
                os.close(descriptor)
        return acquired

    def write(self, text: str) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def release(self) -> None:
        """Give up our descriptor; a child that inherited it keeps the lock."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def stop_leftover(
    pid_file: Path, name: str, stop_signal: signal.Signals = signal.SIGTERM, *, grace_seconds: float = 10
) -> FileLock:
    """Stop the process, if any, that an earlier run left with this pid file. Returns the lock on the pid file: as long
    as you hold it there is none. Raises `ProcessError` if it does not end."""
    lock = FileLock(pid_file)
    if lock.acquire(timeout_seconds=0):
        return lock
    pid_text, _, started = pid_file.read_text().partition(" ")
    pid = int(pid_text) if pid_text.isdecimal() else None
    for stop in (stop_signal, signal.SIGKILL):
        if pid is not None and _started_at(pid) == started:
            for each in (*children_of(pid), pid):
                _send(each, signal.SIGCONT)
            _send(pid, stop)
        if lock.acquire(timeout_seconds=grace_seconds):
            return lock
    raise ProcessError(f"{name}: an earlier run's process ({pid_text or 'unknown'}) does not end; end it by hand")


class ChildProcess:
    """One supervised process. Its output is appended to `log_file`; `pid_file` is locked while it lives.

    A process that an earlier run left behind with the same `pid_file` is stopped by `start`. `stop_signal` asks for an
    orderly end. Does not restart anything by itself. Not thread-safe.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_file: Path,
        pid_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._argv = [str(part) for part in argv]
        self._pid_file = pid_file
        self._env = env
        self._cwd = cwd
        self._stdin = stdin
        self._stop_signal = stop_signal
        self._account = account
        self._asked_to_stop = False
        self._log_offset = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs and before it started; negative: the signal that ended it."""
        code = self._process.poll() if self._process else None
        if code is not None:
            self._release_guard()  # from now on the pid may be given to a stranger
        return code

    def start(self) -> None:
        """Start it, after stopping what an earlier run left. Raises `ProcessError`."""
        if self.running:
            raise ProcessError(f"{self.name} is running already (pid {self.pid})")
        lock = stop_leftover(self._pid_file, self.name, self._stop_signal)
        self._process, self._asked_to_stop = None, False
        try:
            with signals_deferred():
                self._guard = subprocess.Popen(  # noqa: S603 - a fixed script
                    ["/bin/sh", "-c", GUARD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                )
                self._process = self._spawn(lock.descriptor)
                self._tell_guard(f"{self._process.pid} {self._stop_signal.name.removeprefix('SIG')}\n")
            lock.write(f"{self._process.pid} {_started_at(self._process.pid)}")
            if self._stdin is not None and self._process.stdin:
                with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                    pipe.write(self._stdin)
        except BaseException:
            self.kill()
            raise
        finally:
            lock.release()

    def ask_to_stop(self) -> None:
        """Send the stop signal, once, and do not wait: several processes can end side by side."""
        if self._process and self.running and not self._asked_to_stop:
            self._asked_to_stop = True
            self.resume()
            self._process.send_signal(self._stop_signal)

    def stop(self, *, grace_seconds: float = 10) -> None:
        """Ask for an orderly end, insist after `grace_seconds`, and return when it is gone. Idempotent."""
        self.ask_to_stop()
        if self._process and self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its children; returns when it is gone."""
        if self._process and self.running:
            # While it is stopped it reaps no child, so no child's pid can have been given to a stranger.
            for pid in self._freeze():
                _send(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._release_guard()

    def pause(self) -> None:
        """SIGSTOP: it and its children hang, with their sockets open."""
        self._freeze()

    def resume(self) -> None:
        if self._process and self.running:
            for pid in (*children_of(self._process.pid), self._process.pid):
                _send(pid, signal.SIGCONT)

    def wait(self, timeout_seconds: float) -> int:
        """Its exit code. Raises `ProcessError` if it still runs then."""
        if self._process is None:
            raise ProcessError(f"{self.name} was never started")
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} (pid {self.pid}) still runs after {timeout_seconds:g} s") from None
        self._release_guard()
        return code

    def log_tail(self, lines: int = 15) -> str:
        """The end of what it wrote since its last start."""
        with contextlib.suppress(FileNotFoundError), self.log_file.open("rb") as log:
            log.seek(max(self._log_offset, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        return ""

    def _spawn(self, lock_descriptor: int) -> subprocess.Popen[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(self.log_file, flags, 0o600)
        try:
            if os.fstat(log).st_size > LOG_LIMIT_BYTES:
                os.ftruncate(log, 0)
            self._log_offset = os.fstat(log).st_size
            return subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                self._argv,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL if self._stdin is None else subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock_descriptor,),
                start_new_session=True,  # Ctrl-C in the terminal reaches the owner only, which stops things in order
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        except OSError as exc:
            raise ProcessError(f"{self.name} could not be started: {exc}") from exc
        finally:
            os.close(log)

    def _freeze(self) -> list[int]:
        if self._process is None or not self.running:
            return []
        self._process.send_signal(signal.SIGSTOP)
        children = children_of(self._process.pid)
        for pid in children:
            _send(pid, signal.SIGSTOP)
        return children

    def _tell_guard(self, line: str) -> None:
        if self._guard and self._guard.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(line.encode())

    def _release_guard(self) -> None:
        if self._guard and self._guard.stdin:
            self._tell_guard("released\n")
            self._guard.stdin.close()
            self._guard.wait()
        self._guard = None


def run(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output, whatever its exit code. What it creates is private. Raises
    `ProcessError` when time is up, and OSError when the program cannot be run at all."""
    process: subprocess.Popen[str] | None = None
    try:
        with signals_deferred():
            process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                umask=0o077,
                pass_fds=pass_fds,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        output, errors = process.communicate(timeout=timeout_seconds)
    except BaseException as exc:
        if process is not None:
            process.kill()
            process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise ProcessError(f"{argv[0]} did not end within {timeout_seconds:g} s") from None
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """A handler that raises (Ctrl-C) must not do so between a fork and the moment we know the child's pid: the child
    would never be ended. What comes meanwhile is handled on leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda came, _frame: received.append(came))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in received:
            signal.raise_signal(came)


def children_of(pid: int) -> list[int]:
    """The process's own children; not theirs, which is enough for PostgreSQL and Valkey."""
    if not HAS_PROC:
        return [int(child) for child in run(["/usr/bin/pgrep", "-P", str(pid)], timeout_seconds=5).stdout.split()]
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _started_at(pid: int) -> str:
    """When the process started, in the system's words: with the pid it names one process. Empty when there is none."""
    if not HAS_PROC:
        return run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], timeout_seconds=5).stdout.strip()
    try:
        # Field 22 of proc(5) stat; the name in field 2 may contain anything, even parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
