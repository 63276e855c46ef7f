"""The load generator: 64 kept-alive connections, one request under way on each, all of them built beforehand.

A process of its own, on a core of its own, the same for every contender.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvloop

from tests.bench.child import answer_commands
from tests.bench.traffic import http_request, webhook

CONNECTIONS = 64
GRACE_SECONDS = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Round:
    """What one round's connections share."""

    def __init__(self, requests: Iterator[bytes], seconds: float) -> None:
        self.requests = requests
        self.until = time.monotonic() + seconds
        self.last = 0.0
        self.good = 0
        self.bad = 0
        self.open = CONNECTIONS
        self.finished = asyncio.get_running_loop().create_future()

    def next(self) -> bytes | None:
        return next(self.requests, None) if time.monotonic() < self.until else None

    def count(self, head: bytes) -> None:
        self.last = time.monotonic()
        if head.startswith(b"HTTP/1.1 200 "):
            self.good += 1
        else:
            self.bad += 1

    def close(self) -> None:
        self.open -= 1
        if not self.open:
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    round: Round
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def begin(self, shared: Round) -> None:
        self.round = shared
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self.round.count(head)
        self._send()

    def _send(self) -> None:
        request = self.round.next()
        if request is None:
            self.transport.close()
        else:
            self.transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.round.bad += 1
        self.round.close()


async def run(port: int, requests: Iterator[bytes], seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    started, used = time.monotonic(), time.process_time()
    shared = Round(requests, seconds)
    for connection in connections:
        connection.begin(shared)
    async with asyncio.timeout(seconds + GRACE_SECONDS):
        await shared.finished
    taken = shared.last - started
    return {"good": shared.good, "bad": shared.bad, "seconds": taken, "busy": (time.process_time() - used) / taken}


def main(count: str) -> None:
    app_secret = os.environ["META_APP_SECRET"]
    requests = [http_request(webhook(n), app_secret) for n in range(int(count))]
    answer_commands(
        {
            "ready": dict,
            "run": lambda port, seconds: uvloop.run(run(port, iter(requests), seconds)),
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
