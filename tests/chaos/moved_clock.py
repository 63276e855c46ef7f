"""A Valkey whose clock tests put ahead and back, as an operator's mistake or a bad time server does.

With libfaketime (Debian: `apt install libfaketime`). The server's monotonic clock, as a kernel's, goes on unmoved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app.localhost.location import Location
from app.localhost.servers import Valkey

LIBRARIES = sorted(path for place in ("", "*/") for path in Path("/usr").glob(f"l*/{place}faketime/libfaketime.so.1"))
"""As in /usr/lib/x86_64-linux-gnu/faketime. Each worker of the suite looks: not through all of /usr/lib."""

MOVE_SECONDS = 5.0
NEAR_SECONDS = 5
"""Tests move the clock by much more."""

needs_faketime = pytest.mark.skipif(not LIBRARIES, reason="no libfaketime on this machine (Debian: libfaketime)")


class MovedValkey(Valkey):
    """`move(3600)`: the server's wall clock is an hour ahead from now on."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._offset = location.folder / "clock"
        self._write(0)
        self.environment = {
            **Valkey.environment,
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, seconds: int) -> None:
        """Returns when the server's clock shows it: it reads the clock once for several commands."""
        self._write(seconds)
        deadline = time.monotonic() + MOVE_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            while abs(client.time()[0] - time.time() - seconds) > NEAR_SECONDS:
                assert time.monotonic() < deadline, "the server's clock does not move"

    def _write(self, seconds: int) -> None:
        written = self._offset.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n", encoding="ascii")
        written.chmod(0o644)  # the server may run as another account
        written.replace(self._offset)

    @contextmanager
    def moved(self, seconds: int) -> Iterator[None]:
        self.move(seconds)
        try:
            yield
        finally:
            self.move(0)
