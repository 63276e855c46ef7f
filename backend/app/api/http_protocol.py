"""uvicorn's HTTP protocol with bounds: what a client may send before anything is known about it, and for how long.

httptools has no limit on the size of a head, and uvicorn none on the time that a request may take to arrive. Here:

    a head (request line and headers)   32 KB, 100 headers, 10 s
    a body                              10 s, more only for what comes at 32 KB/s or faster: a photo by a slow line; and
                                        no more chunks than its size explains (how large it may be is the application's
                                        affair: api/body_limit.py)
    requests sent ahead of the answers  4
    a new connection without a byte     10 s; idle after an answer: `idle_seconds`
    an answer that the client does not read   30 s without progress
    connections                         `connections`: the one that has made us wait the longest gives way to a new one

After any error the connection is closed, and the answer says so. Answers to earlier requests of the same connection are
sent first. A close waits up to 2 s for the client to stop sending: bytes that are not read make the kernel reset the
connection, and the client would lose the answer (RFC 9112, section 9.6).

`BoundedServer` calls `look` of every connection once a second, so that no request needs a timer of its own. WebSockets
are not spoken.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
import orjson
import uvicorn
from prometheus_client import Counter
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.advice import sentence

RECEIVE_BYTES = 32 * 1024
"""The kernel's receive buffer of a connection, which Linux doubles: the most that one read can bring, and one read of
each connection may be in memory before anything counts it. Left alone the buffer grows to megabytes, and 200 clients
that fill it keep the loop from everything else."""
CHUNK_BYTES = 512
"""Smaller chunks than proxies and clients send on average."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    connections: int = 2000
    head_bytes: int = 32 * 1024
    headers: int = 100
    requests_ahead: int = 4
    chunks: int = 100
    """Of a body, besides one for each `CHUNK_BYTES`: every chunk costs a call, even one of a single byte."""
    receive_seconds: float = 10.0
    body_bytes_per_second: float = 32 * 1024
    """Of a body that takes longer than `receive_seconds`, on average."""
    idle_seconds: float = 75.0
    unread_seconds: float = 30.0
    linger_seconds: float = 2.0
    discarded_bytes: int = 1024 * 1024
    """Of a body that was refused, this much is read and thrown away."""
    discard_pause_seconds: float = 0.1
    """After each piece that is thrown away: 200 clients that send without end must leave time for the others."""


ENDED = Counter(
    "chorus_http_connections_ended_total", "Connections that were ended for what the client did", ["reason"]
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    what: str

    def __post_init__(self) -> None:
        ENDED.labels(self.code)  # from the start: an increase from nothing is none to Prometheus

    def answer(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        message = sentence(self.code, self.status, self.what)
        body = orjson.dumps({"error": {"code": self.code, "message": message, "request_id": None}})
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"connection"]
        if self.status == 503:
            lines.append(b"retry-after: 5\r\n")
        lines.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        return STATUS_LINE[self.status] + b"".join(lines) + body


_INVALID = _Refusal(400, "bad_request", "this is not a valid HTTP/1.1 request")
_SLOW = _Refusal(408, "request_timeout", "the request did not arrive in time")
_LARGE_HEAD = _Refusal(431, "headers_too_large", "the request line or the headers are too large")
_TINY_CHUNKS = _Refusal(400, "too_many_chunks", "the body comes in too many small chunks")
_TOO_MANY_AHEAD = _Refusal(429, "too_many_requests_ahead", "too many requests wait for answers on this connection")
_TOO_MUCH_DISCARDED = _Refusal(413, "body_too_large", "the body is too large")
_FULL = _Refusal(503, "too_many_connections", "this replica has no connection left")
for _quiet in ("unread_answer", "gave_way"):
    ENDED.labels(_quiet)


class Refused(Exception):
    """Raised inside a callback of the parser, which then stops."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. `waiting` holds, over all connections, those that wait for their client, longest first."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        waiting: dict[BoundedHttpProtocol, None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._waiting = waiting
        self._running: RequestResponseCycle | None = None
        """The request that the application is answering, or answered last."""
        self._refusal: _Refusal | None = None
        self._is_receiving = False
        """A part of a request has come, and not yet its end."""
        self._has_ended = False
        """Nothing that still comes is read."""
        self._progressed = False
        self._without_progress = 0
        self._discarded = 0
        self._chunks_left = float(limits.chunks)
        self._body_bytes = 0
        """What has come of the newest request's body."""
        self._since = self.loop.time()
        """When the present waiting began: for the rest of a head or of a body, or for the next request."""
        self._idle_seconds = limits.receive_seconds
        self._unread_bytes = 0
        self._unread_since = self._since
        self._resting: asyncio.TimerHandle | None = None

    # -- the connection --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # wider than uvicorn's
        self._raw_transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]  # it does all that uvicorn asks of one
        self._waiting[self] = None
        if len(self.connections) > self._limits.connections:
            longest = next(iter(self._waiting))
            if longest is self:
                self._refuse(_FULL)
            else:
                longest.give_way()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        self._has_ended = True
        if self._resting is not None:
            self._resting.cancel()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells only the newest request of the connection.
            self._running.disconnected = True
            self._running.message_event.set()
        self._forget_bodies()
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Close at once, for another connection."""
        ENDED.labels("gave_way").inc()
        self._waiting.pop(self, None)
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: a connection without an answer under way closes at once."""
        self._waiting.pop(self, None)
        if self._is_answering() or self._has_ended:
            super().shutdown()
        else:
            self._has_ended = True
            self._raw_transport.close()

    def look(self, now: float) -> None:
        """Once a second: end the connection if its client is late."""
        limits = self._limits
        if self._is_unread_for_long(now):
            ENDED.labels("unread_answer").inc()
            self.transport.abort()
        elif self._unread_bytes or (self.flow.read_paused and not self.transport.is_closing()):
            self._since = now  # an answer is on its way, or the client waits for us
        elif self.transport.is_closing():
            if now - self._since > limits.linger_seconds:
                self.transport.abort()
        elif self._is_receiving and not self._has_ended:
            if now - self._since > limits.receive_seconds + self._body_bytes / limits.body_bytes_per_second:
                self._refuse(_SLOW)
        elif now - self._since > self._idle_seconds and not self._is_answering():
            self.transport.close()

    def _is_unread_for_long(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if size == 0 or size < self._unread_bytes or self._unread_bytes == 0:
            self._unread_since = now
        self._unread_bytes = size
        return now - self._unread_since > self._limits.unread_seconds

    # -- what comes --

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        if not self._is_receiving:
            self._is_receiving, self._since = True, self.loop.time()
        self._progressed = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if nothing else than HTTP/1.1 had been asked for; what follows may be of another protocol.
            self._end_after_answers()
        except httptools.HttpParserError:
            self._refuse(self._refusal or _INVALID)
        else:
            self._without_progress = 0 if self._progressed else self._without_progress + len(data)
            if (
                self._without_progress > self._limits.head_bytes
            ):  # a head, or what may stand between the chunks of a body
                self._refuse(_LARGE_HEAD)
            elif self._is_receiving and self._progressed and not self.cycle.response_complete:
                self.flow.pause_reading()  # the application reads on when it wants the rest of the body

    def on_message_begin(self) -> None:
        if not self._is_receiving:  # a request sent ahead
            self._is_receiving, self._since = True, self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """uvicorn's, and at once: a read of 256 KB holds 40,000 headers."""
        if len(self.headers) >= self._limits.headers:
            self._stop(_LARGE_HEAD)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > self._limits.head_bytes:
            self._stop(_LARGE_HEAD)
        if len(self.pipeline) >= self._limits.requests_ahead:
            self._stop(_TOO_MANY_AHEAD)
        self._progressed, self._since, self._discarded = True, self.loop.time(), 0
        self._chunks_left, self._body_bytes = float(self._limits.chunks), 0
        super().on_headers_complete()
        self.headers = []  # the trailers of a chunked body are not headers of the request

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        self._body_bytes += len(body)
        self._chunks_left += len(body) / CHUNK_BYTES - 1
        if self._chunks_left < 0:
            self._stop(_TINY_CHUNKS)
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > self._limits.discarded_bytes:
                self._stop(_TOO_MUCH_DISCARDED)
            self._rest()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progressed, self._is_receiving, self._since, self._body_bytes = True, False, self.loop.time(), 0
        super().on_message_complete()
        self.cycle.more_body = False
        self._waiting.pop(self, None)
        if self.cycle.response_complete:
            self._waiting[self] = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]  # wider than uvicorn's
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]  # it does all that uvicorn asks of one

    def on_response_complete(self) -> None:
        self._idle_seconds = self._limits.idle_seconds
        if not self.pipeline:
            self._waiting[self] = None
        if not self._is_receiving:
            self._since = self.loop.time()
        super().on_response_complete()

    def _stop(self, refusal: _Refusal) -> None:
        self._refusal = refusal
        raise Refused

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self.transport.is_closing() and self._discarded > self._limits.discarded_bytes:
            self.transport.abort()
        else:
            self._rest()

    def _rest(self) -> None:
        if self._resting is None:
            self._raw_transport.pause_reading()
            self._resting = self.loop.call_later(self._limits.discard_pause_seconds, self._read_on)

    def _read_on(self) -> None:
        self._resting = None
        if not self.flow.read_paused and not self._raw_transport.is_closing():
            self._raw_transport.resume_reading()

    # -- the end --

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer with an error, if the answer to what came last has not begun, and close."""
        ENDED.labels(refusal.code).inc()
        newest: RequestResponseCycle | None = self.cycle
        own = newest if newest is not None and newest.more_body else None
        if own is not None and own in [cycle for cycle, _ in self.pipeline]:
            self.pipeline.popleft()  # the newest
            own = None
        if self._is_answering() and own is not self._running:
            self._end_after_answers()
            return
        self._has_ended = True
        if own is not None:
            own.disconnected = True
            own.message_event.set()
        if own is None or not own.response_started:
            self.transport.write(refusal.answer(self.server_state.default_headers))
        self.transport.close()

    def _end_after_answers(self) -> None:
        """Read no more; the last answer closes the connection."""
        self._stop_parsing()
        self.flow.pause_reading()
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and not last.response_complete:
            last.keep_alive = False
        else:
            self.transport.close()

    def _stop_parsing(self) -> None:
        """Let go of what the parser holds: a refused head may be large."""
        self._has_ended = True
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when the connection is lost
        self.headers = []

    def _forget_bodies(self) -> None:
        """What no application will read. A connection and its transport refer to each other: they, and all that they
        hold, stay until the garbage collector comes."""
        for cycle in (self._running, self.cycle):
            if cycle is not None:
                cycle.body = bytearray()

    def linger(self) -> bool:
        """Is there more to come, which must be read before the connection can close? From now on it is thrown away."""
        more = self._is_receiving or self._has_ended or self.flow.read_paused
        self._stop_parsing()
        self._forget_bodies()
        self._since, self._discarded = self.loop.time(), 0
        if more:
            self.flow.resume_reading()
        return more


class _Lingering:
    """asyncio's transport, except that `close` first closes our side only, while the client still sends, and that the
    head of an answer waits for the first piece of its body, until the next turn of the loop at most: uvicorn writes it
    by itself, and uvloop makes a system call of each write."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedHttpProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._closes = False
        self._head = b""
        self.abort = transport.abort
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._protocol.loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def is_closing(self) -> bool:
        return self._closes or self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        if self.is_closing():
            return
        self._closes = True
        if self._protocol.linger() and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()


def bounded(limits: ConnectionLimits) -> dict[str, Any]:
    """For `uvicorn.Config`: HTTP/1.1 within `limits`, and nothing else. What balancers say of the client is read where
    it counts (session_cookie.py): uvicorn believes whatever this machine says, TRUSTED_PROXIES or not."""
    return {"http": partial(BoundedHttpProtocol, limits=limits, waiting={}), "ws": "none", "proxy_headers": False}


class BoundedServer(uvicorn.Server):
    """For a configuration with `bounded`: looks at the connections from start to end."""

    look_seconds = 1.0
    _next_look: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._look()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._next_look is not None:
            self._next_look.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            assert isinstance(connection, BoundedHttpProtocol)  # noqa: S101  there is no other
            connection.look(loop.time())
        self._next_look = loop.call_later(self.look_seconds, self._look)
