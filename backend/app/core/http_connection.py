"""One TCP connection to a peer, as an HTTP/1.1 client: one exchange at a time, parsed by llhttp (httptools).

    connection = await Connection.open("api.example", 443, context, seconds=3.0, on_lost=forget)
    await connection.send(head, body, method="POST", seconds=10.0)     # from here on the peer may have the request
    await connection.receive_head(seconds=10.0)                        # then status, reason and headers are there
    while piece := await connection.receive_piece(seconds=10.0): ...
    connection.is_reusable()                                           # or close()

Each `seconds` bounds one wait, not the whole: a peer that sends something begins the next one. What fails is
`TimeoutError`, another `OSError` (of the system, or of TLS), or `BrokenAnswer`. After a failure, and when the caller is
cancelled, the caller closes the connection: an exchange that was left half-way cannot be followed by another.

Bounds: a head, and what stands between two pieces of a body, has `MAX_HEAD_BYTES`; more than `HIGH_WATER_BYTES` that
were not fetched yet stop the reading. It knows no pool, no proxy and no packed bodies (core/http_transport.py).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any, cast

import httptools

MAX_HEAD_BYTES = 100_000
HIGH_WATER_BYTES = 262_144
JOINED_BYTES = 65_536
"""A body up to this size leaves in one piece with its head."""
STAGGER_SECONDS = 0.25
"""The head start of an address before the next one is tried (RFC 8305)."""


class BrokenAnswer(Exception):
    """The peer closed before the end of its answer, or what it sent is not HTTP/1.1."""


class Connection(asyncio.Protocol):
    """`on_lost` is called once, when the connection is gone, whoever closed it."""

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cannot_write = False
        self._failure: Exception | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.idle_since = 0.0
        self._is_reading_paused = False
        self._begin("")

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        seconds: float | None,
        on_lost: Callable[[Connection], None],
    ) -> Connection:
        """`seconds` for all of it: the look-up, the connection and the handshake of TLS, if there is a `context`."""
        connection = cls(on_lost)
        try:
            async with asyncio.timeout(seconds):
                sock = await _connect(host, port)
                try:
                    await asyncio.get_running_loop().create_connection(
                        lambda: connection, sock=sock, ssl=context, server_hostname=host if context else None
                    )
                except BaseException:
                    sock.close()
                    raise
        except BaseException:
            connection.close()
            raise
        return connection

    async def start_tls(self, context: ssl.SSLContext, host: str, *, seconds: float | None) -> None:
        """After the answer to CONNECT: from now on the connection leads to `host`."""
        async with asyncio.timeout(seconds):
            transport = await self._loop.start_tls(self._open_transport(), self, context, server_hostname=host)
        if transport is None:
            raise BrokenAnswer("closed while TLS began")
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def is_reusable(self) -> bool:
        """Has the last exchange ended so that another may follow, and has the peer not closed since? This asks the
        system: what has arrived, and be it the end, may not have been read yet."""
        return (
            self._complete
            and self._keeps_alive
            and not self._is_reading_paused
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
            and not self._poll.poll(0)
        )

    async def send(
        self, head: bytes, body: bytes | AsyncIterable[bytes], *, method: str, seconds: float | None
    ) -> None:
        """Returns when the system has taken it, or when the peer answers before that. A connection that breaks
        meanwhile is the affair of `receive_head`: a peer may answer and close before it has read everything."""
        transport = self._open_transport()
        self._begin(method)
        if not isinstance(body, bytes):
            transport.write(head)
            async for piece in body:
                if piece:
                    transport.write(piece)
                    await self._written(seconds)
        elif len(body) <= JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        await self._written(seconds)

    async def receive_head(self, *, seconds: float | None) -> None:
        while not self._has_head:
            await self._wait(seconds)

    async def receive_piece(self, *, seconds: float | None) -> bytes:
        """Of the body; nothing at its end."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait(seconds)
        piece = self._pieces.popleft()
        self._unfetched -= len(piece)
        if self._is_reading_paused and self._unfetched <= HIGH_WATER_BYTES // 2 and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return piece

    def close(self) -> None:
        """At once, without a word to the peer. Idempotent; `gone` is set a moment later."""
        self._keeps_alive = False
        if self._transport is not None:
            self._transport.abort()
        elif not self.gone.done():
            self.gone.set_result(None)

    def _begin(self, method: str) -> None:
        self._method = method
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces: deque[bytes] = deque()
        self._unfetched = 0
        self._between = 0
        """Bytes since the last piece of the body."""
        self._has_head = False
        self._has_length = False
        self._keeps_alive = False
        self._is_reading_paused = False
        self._complete = not method

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise self._failure or BrokenAnswer("closed")
        return self._transport

    async def _written(self, seconds: float | None) -> None:
        while self._cannot_write and not self._has_head and self._failure is None:
            await self._wait(seconds)

    async def _wait(self, seconds: float | None) -> None:
        """For whatever happens next on the connection."""
        if self._failure is not None:
            raise self._failure
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, _time_out, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if self._complete:
            return
        self._failure = self._failure or failure
        self._wake()

    # -- called by the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._complete:  # it was not asked for
            self.close()
            return
        self._between += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._keeps_alive = False
            self._fail(BrokenAnswer(f"no HTTP/1.1: {type(exc).__name__}"))
            self.close()
        if self._between > MAX_HEAD_BYTES:
            self._fail(BrokenAnswer(f"more than {MAX_HEAD_BYTES} bytes of headers"))
            self.close()
        self._wake()

    def eof_received(self) -> None:
        self._keeps_alive = False
        if self._has_head and not self._has_length:
            self._complete = True
        self._fail(BrokenAnswer("closed before the end of the answer"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cannot_write = self._keeps_alive = False
        self._fail(exc if isinstance(exc, OSError) else BrokenAnswer("closed before the end of the answer"))
        if not self.gone.done():
            self.gone.set_result(None)
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._cannot_write = True

    def resume_writing(self) -> None:
        self._cannot_write = False
        self._wake()

    # -- called by the parser --

    def on_message_begin(self) -> None:
        if self._complete:
            raise BrokenAnswer("more than one answer")

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:  # a trailer
            return
        self.headers.append((name, value))
        if name.lower() in _LENGTHS:
            self._has_length = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.reason, self.headers, self._has_length = b"", [], False
            return
        self.status = status
        self._has_head = True
        if self._method in ("HEAD", "CONNECT"):  # no body follows, whatever the headers say, and llhttp waits for one
            self._complete = True
        else:
            self._keeps_alive = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        self._between = 0
        self._pieces.append(piece)
        self._unfetched += len(piece)
        if self._unfetched > HIGH_WATER_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._open_transport().pause_reading()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._complete = True


_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})


def _time_out(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


async def _connect(host: str, port: int) -> socket.socket:
    """To the first address of `host` that takes the connection; each has a head start before the next."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    waiting = deque(_alternating(found))
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.ensure_future(_connect_to(waiting.popleft())))
            done, attempts = await asyncio.wait(
                attempts, timeout=STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                try:
                    connected = attempt.result()
                except OSError as exc:
                    failures.append(exc)
                    continue
                attempts |= done - {attempt}
                return connected
    finally:
        for attempt in attempts:
            attempt.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    if not failures:
        raise OSError(f"no address of {host}")
    if len({str(exc) for exc in failures}) == 1:
        raise failures[0]
    raise OSError("; ".join(map(str, failures))) from ExceptionGroup("each address", failures)


async def _connect_to(info: Sequence[Any]) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003  the standard library's signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _alternating(found: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Addresses by turns of either family, the first one's first: one that leads nowhere must not delay the others."""
    first = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    turns = [info for pair in zip(first, others, strict=False) for info in pair]
    return turns + first[len(others) :] + others[len(first) :]
