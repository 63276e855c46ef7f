"""PostgreSQL as a child process."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.localhost.location import OWN_SERVERS_HINT, Location, write_private
from app.localhost.processes import ChildProcess, EmbeddedServerError, FileLock, run, stop_leftover
from app.localhost.server import Server

ENV = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}  # no PG* variable of the user's gets in
SETTINGS = {
    # TCP with a password instead of a Unix socket: a socket's path is limited to 107 bytes.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, where /dev/shm would keep leftovers of a crash
    "io_method": "sync",  # no I/O worker processes on a laptop
    "timezone": "UTC",
    "log_timezone": "UTC",
}
INITDB_SECONDS = 120.0
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}  # commits still survive a crash of the server itself


class Postgres(Server):
    """PostgreSQL; superuser and database are `postgres`. `durable=False`: a crash of the machine loses data."""

    name = "PostgreSQL"

    def __init__(self, location: Location, *, durable: bool) -> None:
        super().__init__(location)
        self._password = location.password()
        self._durable = durable

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """With the password: not for logs."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> str:
        """Run SQL statements in the database `postgres`, each in its own transaction; returns what they print."""
        done = self._psql(self.port, statements, timeout_seconds=30)
        if done.returncode:
            raise EmbeddedServerError(f"{self.name} refused: {done.stderr.strip()}")
        return done.stdout.strip()

    def _launch(self, port: int) -> ChildProcess:
        settings = SETTINGS | {"port": str(port)} | ({} if self._durable else NOT_DURABLE)
        data = self._initialised_data()
        process = ChildProcess(
            self.name,
            [self.location.postgres_bin / "postgres", "-D", data, *(f"--{k}={v}" for k, v in settings.items())],
            env=ENV,
            cwd=data,
            log_file=self.location.folder / "postgres.log",
            pid_file=self._pid_file,
            stop_signal=signal.SIGINT,  # "fast": open connections are closed, transactions rolled back
            account=self.location.account,
        )
        process.start()
        return process

    @property
    def _pid_file(self) -> Path:
        return self.location.folder / "postgres.pid"

    def _initialised_data(self) -> Path:
        """The data folder, ready for a server to start on it."""
        folder = self.location.server_folder("postgres")
        data, fresh = folder / "data", folder / "fresh"
        lock = stop_leftover(self._pid_file, self.name, signal.SIGINT)
        try:
            # With our lock held no server runs on it, so the pid in there is stale: another process may have it today.
            (data / "postmaster.pid").unlink(missing_ok=True)
            if not data.is_dir():
                if fresh.exists():
                    shutil.rmtree(fresh)  # an initdb that was interrupted
                self._initdb(fresh, lock)
                fresh.rename(data)
        finally:
            lock.release()
        return data

    def _initdb(self, data: Path, lock: FileLock) -> None:
        account = self.location.account
        password_file = data.with_name("initial-password")
        password_file.unlink(missing_ok=True)
        write_private(password_file, self._password, account)
        argv: list[str | Path] = [
            self.location.postgres_bin / "initdb", "-D", data, "--username=postgres", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",  # the same on every system
        ]  # fmt: skip
        if not self._durable:
            argv.append("--no-sync")
        try:
            done = run(
                argv,
                timeout_seconds=INITDB_SECONDS,
                env=ENV,
                cwd=data.parent,
                account=account,
                pass_fds=(lock.descriptor,),  # should we die meanwhile, the next run waits for it to end
            )
        finally:
            password_file.unlink()
        if done.returncode:
            raise EmbeddedServerError(f"PostgreSQL's initdb failed; {OWN_SERVERS_HINT}:\n{done.stdout}{done.stderr}")

    def _answers(self, port: int) -> bool:
        status: list[str] = []
        with suppress(OSError):
            status = (self.location.folder / "postgres/data/postmaster.pid").read_text(errors="replace").splitlines()
        # Line 8, as pg_ctl reads it. The query shows that the password is the right one as well.
        if len(status) < 8 or status[7].strip() != "ready":
            return False
        done = self._psql(port, ["SELECT 1"], timeout_seconds=10)
        if done.returncode:
            raise EmbeddedServerError(
                f"{self.name} runs but refuses us; delete its data with `make clean`:\n{done.stderr}"
            )
        return True

    def _psql(
        self, port: int, statements: Sequence[str], *, timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        argv: list[str | Path] = [
            self.location.postgres_bin / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
            "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", f"--port={port}", "--username=postgres", "--dbname=postgres",
        ]  # fmt: skip
        for statement in statements:
            argv += ["--command", statement]
        env = ENV | {"PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "5", "PGPASSFILE": "/dev/null"}
        return run(argv, env=env, timeout_seconds=timeout_seconds)
