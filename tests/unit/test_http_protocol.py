"""What uvicorn writes of an answer reaches the socket in as few system calls as it can."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.api.http_protocol import BoundedHttpProtocol, ConnectionLimits, bounded

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


class Written(asyncio.Transport):
    """A transport that keeps each write by itself."""

    def __init__(self, carrier: socket.socket) -> None:
        super().__init__()
        self._carrier = carrier
        self.writes: list[bytes] = []
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._carrier if name == "socket" else default

    def write(self, data: bytes) -> None:  # type: ignore[override]  # narrower than asyncio's
        assert not self.is_closed
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


async def asked(app: Any, request: bytes = REQUEST) -> Written:
    """After its first answer, or until it waits for something else."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **bounded(ConnectionLimits()))
    config.load()
    protocol = BoundedHttpProtocol(
        config, ServerState(), {}, asyncio.get_running_loop(), limits=ConnectionLimits(), waiting={}
    )
    with socket.socket() as carrier:
        transport = Written(carrier)
        protocol.connection_made(transport)
    protocol.data_received(request)
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    return transport


async def test_head_and_body_of_an_answer_are_one_write() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"OK"})

    transport = await asked(app)
    (written,) = transport.writes
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"\r\n\r\nOK")
    assert not transport.is_closed


async def test_a_head_without_a_body_yet_is_written_in_the_next_turn() -> None:
    go_on = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"OK"})

    transport = await asked(app)
    (head,) = transport.writes
    assert head.endswith(b"\r\n\r\n")
    go_on.set()
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert transport.writes == [head, b"OK"]


async def test_an_answer_that_closes_the_connection_is_written_before() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})

    transport = await asked(app)
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 204 No Content\r\n")
    assert transport.is_closed
