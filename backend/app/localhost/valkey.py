"""Valkey as a child process."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress

from app.localhost.location import Location
from app.localhost.processes import ChildProcess
from app.localhost.server import Server

# On standard input: neither the password nor a path with spaces has to survive a command line.
CONFIG = """
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
stream-node-max-entries 1
"""


class Valkey(Server):
    """Valkey with an append-only file, which the next start loads again, without a tail that a crash cut off."""

    name = "Valkey"
    config = CONFIG
    environment: Mapping[str, str] = {"LC_ALL": "C"}

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._password = location.password()

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _launch(self, port: int) -> ChildProcess:
        process = ChildProcess(
            self.name,
            [self.location.valkey_server, "-"],
            stdin=self.config.format(port=port, password=self._password).encode(),
            cwd=self.location.server_folder("valkey"),  # Valkey writes to its working directory
            env=dict(self.environment),
            log_file=self.location.folder / "valkey.log",
            pid_file=self.location.folder / "valkey.pid",
            account=self.location.account,
        )
        process.start()
        return process

    def _answers(self, port: int) -> bool:
        expected = b"+OK\r\n+PONG\r\n"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as replies:
                return replies.read(len(expected)) == expected
        return False
