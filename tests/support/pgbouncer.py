"""A PgBouncer in front of the session's PostgreSQL, whose pool mode can be changed while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.localhost.processes import ChildProcess, free_port

START_SECONDS = 10.0
NEEDED = "needs pgbouncer (Debian package pgbouncer)"


class PgBouncer:
    """Between a client and the database of `database_url`; `url` leads through it."""

    def __init__(self, folder: Path, database_url: str, *, pool_mode: str, pool_size: int = 5) -> None:
        self._folder = folder
        self._target = urlsplit(database_url)
        self._pool_size = pool_size
        self.port = free_port()
        self._write(pool_mode)
        # It refuses to run as root, and then becomes the account it is told.
        as_account = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = ChildProcess(
            "pgbouncer",
            [shutil.which("pgbouncer") or "pgbouncer", *as_account, folder / "pgbouncer.ini"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin"},
            log_file=folder / "pgbouncer.log",
            pid_file=folder / "pgbouncer.pid",
            stop_signal=signal.SIGTERM,
        )

    @property
    def url(self) -> str:
        return urlunsplit(self._target._replace(netloc=f"postgres:x@127.0.0.1:{self.port}"))

    def start(self) -> None:
        self._process.start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if not self._process.running:
                break
            time.sleep(0.02)
        pytest.fail(f"pgbouncer did not start:\n{self._process.log_tail()}")

    def stop(self) -> None:
        self._process.stop()

    async def switch(self, pool_mode: str) -> None:
        """Returns when it has taken it in."""
        self._write(pool_mode)
        console = await asyncpg.connect(
            urlunsplit(self._target._replace(netloc=f"postgres:x@127.0.0.1:{self.port}", path="/pgbouncer")),
            statement_cache_size=0,
            server_settings={},
        )
        try:
            await console.execute("RELOAD")
        finally:
            console.terminate()

    def _write(self, pool_mode: str) -> None:
        target = self._target
        (self._folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host={target.hostname} port={target.port} user={target.username} password={target.password}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {pool_mode}\ndefault_pool_size = {self._pool_size}\nmax_client_conn = 200\n"
            "server_round_robin = 1\nadmin_users = postgres\n"
        )


@contextmanager
def pgbouncer(database_url: str, *, pool_mode: str, pool_size: int = 20) -> Iterator[PgBouncer]:
    """Skips the test where there is none."""
    if shutil.which("pgbouncer") is None:
        pytest.skip(NEEDED)
    with TemporaryDirectory(prefix="chorus-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bouncer = PgBouncer(folder, database_url, pool_mode=pool_mode, pool_size=pool_size)
        bouncer.start()
        try:
            yield bouncer
        finally:
            bouncer.stop()
