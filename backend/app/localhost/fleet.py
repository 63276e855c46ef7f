"""A whole Chorus on this machine as real processes: sandbox and N replicas, for the demo, the tests and the bench."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from app.localhost.processes import ChildProcess, ProcessError, free_port, run
from app.settings import Settings

START_SECONDS = 30.0
START_TRIES = 3
POLL_SECONDS = 0.05
SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one local fleet: made up, kept with its data."""

    admin: str
    app_secret: str
    encryption: str
    verify_token: str

    @classmethod
    def kept_in(cls, path: Path, new_encryption_key: str) -> Keys:
        """Those of an earlier run on the same data (what it encrypted must stay readable), or new ones."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            keys = cls(secrets.token_urlsafe(24), secrets.token_hex(16), new_encryption_key, secrets.token_urlsafe(16))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({name: getattr(keys, name) for name in cls.__slots__}, file)
            return keys


class Served(ChildProcess):
    """A child that serves HTTP on a port of its own choice among the free ones."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, env: Mapping[str, str], ready: str, port: int | None
    ) -> None:
        self._command = list(command)
        self._base_env = env
        self._ready = ready
        self._preferred = port
        self.port = 0
        super().__init__(
            name, [], log_file=folder / f"{name}.log", pid_file=folder / f"{name}.pid", env=env, cwd=folder
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, is_ready: bool = True) -> None:
        """Start it and wait until it is ready, or at least alive; on another port if its own was taken in between.
        Raises `ProcessError`."""
        for attempt in range(START_TRIES):
            # A restart keeps its port, so that who knows the URL finds it again.
            self.port = free_port(self.port or self._preferred)
            self._argv = [sys.executable, "-m", "app.cli", *self._command, "--port", str(self.port)]
            super().start()
            try:
                self.wait_ready(path=self._ready if is_ready else "/health/live")
            except ProcessError:
                if attempt == START_TRIES - 1 or self.exit_code is None or "in use" not in self.log_tail():
                    raise
            else:
                return

    def wait_ready(self, timeout_seconds: float = START_SECONDS, *, path: str | None = None) -> None:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise ProcessError(f"{self.name} ended with exit code {self.exit_code}:\n{self.log_tail()}")
            if get_status(self.port, path or self._ready) == 200:
                return
            time.sleep(POLL_SECONDS)
        raise ProcessError(f"{self.name} was not ready after {timeout_seconds:g} s:\n{self.log_tail()}")


def get_status(port: int, path: str) -> int | None:
    """The status of a GET on this machine, `None` without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class LocalFleet:
    """The processes of one Chorus. `settings` are environment variables that win over the defaults below."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str,
        database_url: str,
        keys: Keys,
        replicas: int = 3,
        settings: Mapping[str, str] | None = None,
        first_port: int | None = None,
        sandbox_port: int | None = None,
    ) -> None:
        self.keys = keys
        self._folder = folder
        self._count = replicas
        self._first_port = first_port
        self._overrides = dict(settings or {})
        self._settings = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "META_APP_SECRET": keys.app_secret,
            "ADMIN_API_KEY": keys.admin,
            "ENCRYPTION_KEY": keys.encryption,
            "WHATSAPP_VERIFY_TOKEN": keys.verify_token,
            "GEMINI_API_KEY": "sandbox",
            "DRAIN_SECONDS": "0.5",
        }
        self._env = _environment() | self._settings
        self.sandbox = Served(
            "sandbox",
            ["sandbox", "--app-secret", keys.app_secret],
            folder=folder,
            env=self._env,
            ready="/sandbox/record?limit=1",
            port=sandbox_port,
        )
        self.replicas: list[Served] = []

    @property
    def environment(self) -> dict[str, str]:
        """That of every process of the fleet, before what is a replica's own."""
        return dict(self._env)

    def start(self) -> None:
        """Migration and sandbox, then replicas, side by side: each takes a second of imports. On failure what was
        started is stopped."""
        try:
            with ThreadPoolExecutor() as side_by_side:
                _all_done([side_by_side.submit(self._migrate), side_by_side.submit(self.sandbox.start)])
                self.replicas = [self._replica(number, {}) for number in range(1, self._count + 1)]
                _all_done([side_by_side.submit(replica.start) for replica in self.replicas])
        except BaseException:
            self.stop()
            raise

    def _migrate(self) -> None:
        done = run([sys.executable, "-m", "app.cli", "migrate"], env=self._env, cwd=self._folder, timeout_seconds=60)
        if done.returncode != 0:
            raise ProcessError(f"the migration failed:\n{done.stdout}{done.stderr}")

    def add_replica(self, number: int) -> Served:
        replica = self._replica(number, {})
        self.replicas.append(replica)
        replica.start()
        return replica

    def replace_replica(self, index: int, settings: Mapping[str, str], *, is_ready: bool = True) -> Served:
        """Stop the replica at `index` and start another in its place, with `settings` of its own. `is_ready`: wait
        until it is, else only until it lives."""
        self.replicas[index].stop()
        self.replicas[index] = replica = self._replica(index + 1, settings, port=self.replicas[index].port)
        replica.start(is_ready=is_ready)
        return replica

    def _replica(self, number: int, settings: Mapping[str, str], *, port: int | None = None) -> Served:
        first = self._first_port + number - 1 if self._first_port else None
        return Served(
            f"replica-{number}",
            ["serve"],
            folder=self._folder,
            env=self._env | self.settings_of_a_replica | dict(settings),
            ready="/health/ready",
            port=port or first,
        )

    @property
    def settings_of_a_replica(self) -> dict[str, str]:
        """The environment variables that every replica gets; known once the sandbox has its port."""
        outside = {"WHATSAPP_BASE_URL": self.sandbox.url, "GEMINI_BASE_URL": self.sandbox.url}
        return self._settings | outside | self._overrides

    @property
    def webhook_urls(self) -> list[str]:
        return [f"{replica.url}/webhook/whatsapp" for replica in self.replicas]

    def stop(self) -> None:
        """Replicas side by side, then the sandbox. Idempotent."""
        for replica in self.replicas:
            replica.ask_to_stop()
        for replica in reversed(self.replicas):
            replica.stop()
        self.sandbox.stop()


def _all_done(tasks: Sequence[Future[None]]) -> None:
    """Raises what the first of them raised, when all have ended."""
    wait(tasks)
    for task in tasks:
        task.result()


def _environment() -> dict[str, str]:
    """Ours without settings of Chorus: a developer's own REDIS_URL must not lead a test to a real server."""
    names = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in names}
    return kept | {"PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1"}
