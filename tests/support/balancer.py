"""HAProxy as a child process, with the configuration that ships; only addresses are replaced."""

from __future__ import annotations

import csv
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from app.localhost.processes import ChildProcess, free_port

CONFIG = Path(__file__).resolve().parents[2] / "infra" / "haproxy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="no haproxy on this machine (Debian: apt install haproxy)")


class Balancer:
    def __init__(self, port: int, operators_port: int, statistics_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.operators_url = f"http://127.0.0.1:{operators_port}"
        """The entrance of operators."""
        self._statistics = f"http://127.0.0.1:{statistics_port}/;csv"

    def states(self) -> dict[str, str]:
        """What the balancer thinks of each replica: UP, DOWN, …"""
        with urlopen(self._statistics, timeout=5) as answer:
            rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        return {
            row["svname"]: row["status"].split()[0]
            for row in rows
            if row["pxname"] == "replicas" and row["svname"] != "BACKEND"
        }


def rendered(ports: Sequence[int], port: int, operators_port: int, statistics_port: int) -> str:
    text = CONFIG.read_text(encoding="utf-8")
    servers = "\n".join(f"    server backend{n} 127.0.0.1:{p}" for n, p in enumerate(ports, 1))
    for pattern, replacement in (
        (r"bind :8080", f"bind 127.0.0.1:{port}"),
        (r"bind :8081", f"bind 127.0.0.1:{operators_port}"),
        (r"bind :8404", f"bind 127.0.0.1:{statistics_port}"),
        (r" *server-template .*", servers),
    ):
        text, replaced = re.subn(pattern, replacement, text)
        assert replaced == 1, pattern
    return text


@contextmanager
def balancer(ports: Sequence[int], folder: Path) -> Iterator[Balancer]:
    """In front of replicas on `ports`; returns when all of them are up."""
    port, operators_port, statistics_port = free_port(), free_port(), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(rendered(ports, port, operators_port, statistics_port), encoding="utf-8")
    argv: list[str | Path] = [HAPROXY or "", "-db", "-f", config]
    process = ChildProcess("haproxy", argv, log_file=folder / "haproxy.log", pid_file=folder / "haproxy.pid")
    process.start()
    front = Balancer(port, operators_port, statistics_port)
    deadline = time.monotonic() + 15
    try:
        while True:
            assert process.running, process.log_tail()
            try:
                if set(front.states().values()) == {"UP"}:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, process.log_tail()
            time.sleep(0.02)
        yield front
    finally:
        process.kill()
