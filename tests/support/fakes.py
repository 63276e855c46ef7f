"""What tests need instead of time and of a well-behaved peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core import http_client

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeClock:
    """Time that passes when told to. `sleep` returns at once, having moved the clock; `slept` lists the seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@asynccontextmanager
async def peer(handler: Handler) -> AsyncIterator[str]:
    """A TCP server that does what `handler` does to each connection, then closes it; its base URL."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await handler(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # closed, it would wait until the rest is read
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn of the loop


def set_limit(name: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the HTTP clients. They keep the limits that they have made for the life of the process: neither are those of
    other tests taken, nor are these left to them."""
    monkeypatch.setattr(http_client, name, seconds)
    made_anew = getattr(http_client._timeout, "__wrapped__", http_client._timeout)
    monkeypatch.setattr(http_client, "_timeout", made_anew)


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers (lower case) and body of one HTTP request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return head[0], headers, await reader.readexactly(int(headers.get("content-length", 0)))


def response(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


class Source:
    """Returns `value`, or raises `error`; `gate` holds loads back until it is set."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.error: Exception | None = None
        self.loads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def __call__(self, *_args: Any) -> Any:
        self.loads += 1
        self.started.set()
        value = self.value
        await self.gate.wait()
        if self.error:
            raise self.error
        return value
