"""What the embedded servers share: a port, a start that waits until the server answers, and faults on demand."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from app.localhost.location import OWN_SERVERS_HINT, Location
from app.localhost.processes import ChildProcess, EmbeddedServerError, free_port

START_SECONDS = 60.0
"""Recovery after a crash reads the whole log again; a healthy start takes about a second."""
PORT_ATTEMPTS = 5
PORT_TAKEN = "Address already in use"


class Server(ABC):
    """A server on 127.0.0.1. It keeps port, password and data over `restart`, `kill` + `start` and `stop` + `start`."""

    name: str

    def __init__(self, location: Location) -> None:
        self.location = location
        self._port: int | None = None
        self._process: ChildProcess | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedServerError(f"{self.name} was never started")
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """With the password: not for logs."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start it, repairing what a crash left, and wait until it answers; resume it if it is paused. Raises
        `EmbeddedServerError`."""
        if self.running:
            self.resume()
            return
        for _ in range(PORT_ATTEMPTS):
            port = self._port or free_port()
            self._process = self._launch(port)
            if self._wait_until_ready(self._process, port):
                self._port = port
                return
        raise EmbeddedServerError(
            f"{self.name}: port {port} was taken by another program each time; {OWN_SERVERS_HINT}"
        )

    def stop(self) -> None:
        """Shut down in order; returns when it is gone."""
        if self._process:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL to the server and its worker processes, as in a crash of the machine."""
        if self._process:
            self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as on a frozen host."""
        if self._process:
            self._process.pause()

    def resume(self) -> None:
        if self._process:
            self._process.resume()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _wait_until_ready(self, process: ChildProcess, port: int) -> bool:
        """False: the port is taken."""
        deadline = time.monotonic() + START_SECONDS
        while process.running and time.monotonic() < deadline:
            if self._answers(port):
                return True
            time.sleep(0.02)
        timed_out = process.running
        process.kill()
        log = process.log_tail()
        if not timed_out and PORT_TAKEN in log:
            return False
        what = (
            f"did not answer within {START_SECONDS:g} s" if timed_out else f"ended with exit code {process.exit_code}"
        )
        raise EmbeddedServerError(
            f"{self.name} {what}. The end of {process.log_file}:\n{log}\n"
            f"If its data is beyond repair, delete it with `make clean`; {OWN_SERVERS_HINT}."
        )

    @abstractmethod
    def _launch(self, port: int) -> ChildProcess:
        """Prepare the data and start the process."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """One bounded attempt to get an authenticated answer."""
