"""The machine under the bench: what it is, which core a process runs on, how loaded it is, and the servers on it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import redis

from app.core.secrets import TokenCipher
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.processes import HAS_PROC
from app.localhost.servers import remove_data, start_servers
from tests.bench.child import BenchError

QUIET_LOAD = 0.3
"""Load average per core above which the figures deserve a warning."""
REWRITE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Servers that every benchmark of a run shares, and a folder that goes when the run ends."""

    folder: Path
    redis: redis.Redis
    redis_url: str
    database_url: str
    keys: Keys

    def empty_redis(self) -> None:
        """No keys, and an append-only file to match, so that no rewrite falls into a round."""
        self._until_rewritten()  # the server begins one by itself when the file has grown enough
        self.redis.flushall()
        self.redis.bgrewriteaof()
        self._until_rewritten()

    def _until_rewritten(self) -> None:
        deadline = time.monotonic() + REWRITE_SECONDS
        while any(self.redis.info("persistence")[f"aof_rewrite_{state}"] for state in ("in_progress", "scheduled")):
            if time.monotonic() > deadline:
                raise BenchError("the append-only file is still being rewritten")
            time.sleep(0.01)

    @contextmanager
    def fleet(self, *, replicas: int = 1, **settings: str) -> Iterator[LocalFleet]:
        """Replicas beside the sandbox, as `chorus serve` and `chorus sandbox` run them."""
        self.empty_redis()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        fleet = LocalFleet(
            folder,
            redis_url=self.redis_url,
            database_url=self.database_url,
            keys=self.keys,
            replicas=replicas,
            settings=settings,
        )
        fleet.start()
        try:
            yield fleet
        finally:
            fleet.stop()


@contextmanager
def stage() -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    folder.chmod(0o711)  # root runs PostgreSQL as another account
    try:
        with (
            start_servers(folder / "servers", durable=True) as servers,
            redis.Redis.from_url(servers.redis_url) as client,
        ):
            keys = Keys.kept_in(folder / "keys.json", TokenCipher.generate_key())
            yield Stage(folder, client, servers.redis_url, servers.database_url, keys)
    finally:
        remove_data(folder / "servers")
        shutil.rmtree(folder, ignore_errors=True)


def describe(client: redis.Redis) -> str:
    server: Mapping[str, Any] = client.info("server")
    version = server.get("valkey_version") or server["redis_version"]
    return (
        f"{len(_cores())} cores, {platform.system()}, {platform.python_implementation()} {platform.python_version()}, "
        f"Valkey {version} (append-only file, fsync every second), PostgreSQL with fsync; all on this machine"
    )


def load() -> str:
    """The load average of the last minute, with a warning when somebody else is at work."""
    average = os.getloadavg()[0]
    warning = "" if average / len(_cores()) < QUIET_LOAD else "  (NOT QUIET: the figures are too low)"
    return f"load average at start {average:.2f}{warning}"


def core_plan() -> tuple[set[int], set[int]] | None:
    """(the core of the server under test, the core of everything else), where processes can be pinned at all."""
    cores = sorted(_cores())
    return ({cores[-1]}, {cores[0]}) if hasattr(os, "sched_setaffinity") and len(cores) > 1 else None


@contextmanager
def pinned(pids: Mapping[int, Collection[int]]) -> Iterator[None]:
    """Every thread of these processes runs on its cores only until the block ends."""
    try:
        for pid, cores in pids.items():
            _pin(pid, cores)
        yield
    finally:
        for pid in pids:
            _pin(pid, _cores())


def process_seconds(pid: int, *, ended_children: bool = False) -> float:
    """The CPU time of a process so far, with that of its children that have ended or without; 0 where the system does
    not tell."""
    if not HAS_PROC:
        return 0.0
    if not ended_children:
        return time.clock_gettime(_cpu_clock(pid))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) answers: nanoseconds, where /proc/<pid>/stat counts hundredths of a second."""
    return (~pid << 3) | 2


async def postgres_seconds(database_url: str) -> float:
    """The CPU time of the PostgreSQL server so far: of its living processes and of those that ended."""
    connection = await asyncpg.connect(database_url)
    try:
        folder = await connection.fetchval("show data_directory")
    finally:
        await connection.close()
    server = int((Path(folder) / "postmaster.pid").read_text().split()[0])
    living = Path(f"/proc/{server}/task/{server}/children").read_text().split() if HAS_PROC else []
    seconds = 0.0
    for pid in living:
        with suppress(OSError):  # it has just ended, as that of the question above
            seconds += process_seconds(int(pid))
    return seconds + process_seconds(server, ended_children=True)


def redis_seconds(client: redis.Redis) -> float:
    """The CPU time of the Redis server so far."""
    usage: Mapping[str, Any] = client.info("cpu")
    return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _pin(pid: int, cores: Collection[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
