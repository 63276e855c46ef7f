"""A Redis server with the configuration and the users that ship, started as in docker-compose.yml."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis as redis_sync

from app.localhost.processes import ChildProcess, free_port

INFRA = Path(__file__).resolve().parents[2] / "infra" / "redis"


@dataclass
class Guarded:
    url: str
    port: int
    password: str
    operator: str

    def with_password(self, user: str, password: str) -> str:
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"


@contextmanager
def guarded_redis(server: Path | str, tmp_path: Path) -> Iterator[Guarded]:
    """By start.sh, with `server` as the program."""
    config = tmp_path / "config"
    shutil.copytree(INFRA, config)
    password, operator, port = secrets.token_hex(16), secrets.token_hex(16), free_port()
    process = ChildProcess(
        "valkey",
        ["/bin/sh", config / "start.sh", "--port", str(port), "--dir", str(tmp_path), "--bind", "127.0.0.1"],
        log_file=tmp_path / "valkey.log",
        pid_file=tmp_path / "valkey.pid",
        env={
            "PATH": os.environ["PATH"], "REDIS_PASSWORD": password, "REDIS_CONFIG": str(config),
            "REDIS_USERS": str(tmp_path / "users.acl"), "REDIS_SERVER": str(server),
            "REDIS_OPERATOR_PASSWORD": operator,
        },
    )  # fmt: skip
    process.start()
    url = f"redis://chorus:{password}@127.0.0.1:{port}/0"
    try:
        with redis_sync.Redis.from_url(url, socket_timeout=5) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis_sync.ConnectionError:
                    assert process.running, process.log_tail()
                    time.sleep(0.02)
        yield Guarded(url, port, password, operator)
    finally:
        process.kill()
