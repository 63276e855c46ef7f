"""Valkey and PostgreSQL from wheels: real servers for the demo, the tests and development, with nothing to install.

Not for production: no backup, no replication, and one machine.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.localhost.location import OWN_SERVERS_HINT, folders_used, locate
from app.localhost.postgres import Postgres
from app.localhost.processes import EmbeddedServerError, FileLock, stop_leftover
from app.localhost.valkey import Valkey

__all__ = ["EmbeddedServerError", "EmbeddedServers", "Postgres", "Valkey", "remove_data", "start_servers"]

LOCK = "servers.lock"
FILES = ("valkey.pid", "valkey.log", "postgres.pid", "postgres.log", "password", "password.new", LOCK)


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    valkey: Valkey
    postgres: Postgres

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    @property
    def database_url(self) -> str:
        return self.postgres.url


@contextmanager
def start_servers(data_dir: Path, *, durable: bool, valkey: type[Valkey] = Valkey) -> Iterator[EmbeddedServers]:
    """Run both servers on the data in `data_dir`, which is made if need be; both are stopped on leaving.

    What an earlier run left running or broken is stopped and repaired. Two runs at a time on one `data_dir` are
    refused. Raises `EmbeddedServerError` and `ProcessError`.
    """
    with ExitStack() as stack:
        try:
            location = locate(data_dir)
            stack.enter_context(_sole_owner(location.folder))
            servers = EmbeddedServers(valkey(location), Postgres(location, durable=durable))
            for server in (servers.valkey, servers.postgres):
                stack.callback(server.stop)
                server.start()
        except OSError as exc:
            raise EmbeddedServerError(_explain(data_dir, exc)) from exc
        yield servers


def remove_data(data_dir: Path) -> None:
    """Delete everything `start_servers` made for `data_dir`, outside of it too; stop what an earlier run left running.
    Raises `EmbeddedServerError` if a run still uses it."""
    for folder in folders_used(data_dir):
        try:
            with _sole_owner(folder):
                stop_leftover(folder / "valkey.pid", Valkey.name).release()
                stop_leftover(folder / "postgres.pid", Postgres.name, signal.SIGINT).release()
                for made in ("valkey", "postgres", "programs"):
                    if (folder / made).exists():
                        shutil.rmtree(folder / made)
                for made in FILES:
                    (folder / made).unlink(missing_ok=True)
        except OSError as exc:
            raise EmbeddedServerError(_explain(data_dir, exc)) from exc
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _sole_owner(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    if not lock.acquire(timeout_seconds=0):
        owner = (folder / LOCK).read_text()
        raise EmbeddedServerError(f"process {owner} already runs the servers on {folder}; stop it first")
    try:
        lock.write(str(os.getpid()))
        yield
    finally:
        lock.release()


def _explain(data_dir: Path, exc: OSError) -> str:
    return (
        f"cannot keep data in {data_dir} ({exc}). If another user has run Chorus here before (root, perhaps), remove "
        f"the folder as that user; else choose one that you may write to, {OWN_SERVERS_HINT}"
    )
