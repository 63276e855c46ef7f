"""What is beneath the HTTP clients: httpx's requests over our own connections (core/http_connection.py) and pool.

httpx's own transport costs 0.6 ms of CPU a request, and three times that with 50 at once; ADR 16 has the figures, and
why none of the libraries beneath httpx would do. This one promises what "never sent twice" rests on:

    not sent    ConnectError, ConnectTimeout, ProxyError, PoolTimeout, LocalProtocolError, UnsupportedProtocol:
                no byte of the request was given to a connection
    ambiguous   everything else

A kept connection is looked at before it is used, with no step of the event loop in between: one that the peer has
closed, as far as this machine knows, is not used. Nothing is repeated. A connection is closed, not kept, when its
exchange was left half-way, by a failure or a cancellation.

At most `per_host` exchanges with one origin and `connections` in all, each with one connection; those beyond wait their
turn. At most `keepalive` connections are kept, each `keepalive_seconds`. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import cast

import httpx

from app.core.http_connection import BrokenAnswer, Connection

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}

UNSENT = "unsent"
"""The extension of a request that tells a caller whose time limit ends it how far it was: there until the request is
given to a connection."""

Seconds = Mapping[str, float | None]
"""httpx's time limits by name: connect, read, write, pool."""


class Transport(httpx.AsyncBaseTransport):
    """`context`: for peers, and `proxy.ssl_context` for a proxy that is reached by TLS."""

    def __init__(
        self,
        *,
        connections: int,
        keepalive: int,
        per_host: int,
        keepalive_seconds: float,
        context: ssl.SSLContext,
        proxy: httpx.Proxy | None = None,
    ) -> None:
        self.connections = connections
        self.keepalive = keepalive
        self._per_host = per_host
        self._keepalive_seconds = keepalive_seconds
        self._context = context
        self._proxy = proxy
        self._turns = asyncio.Semaphore(connections)
        self._origins: dict[str, _Turns] = {}
        self._under_way = 0
        self._idle: dict[str, list[Connection]] = {}
        """By origin, the one that was used last at the end."""
        self._open: set[Connection] = set()
        self._closing_idle: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's exceptions, by what had happened to the request."""
        url = request.url
        if url.scheme not in DEFAULT_PORTS or not url.raw_host:
            raise httpx.UnsupportedProtocol("a URL begins with http:// or https:// and a host")
        head, body = self._head(request), _body(request)
        seconds: Seconds = request.extensions.get("timeout", {})
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        request.extensions[UNSENT] = "waiting for its turn"
        await self._enter(origin, seconds.get("pool"))
        try:
            request.extensions[UNSENT] = "connecting"
            connection = self._kept(origin) or await self._connect(url, seconds)
            del request.extensions[UNSENT]
            try:
                with _WRITING:
                    await connection.send(head, body, method=request.method, seconds=seconds.get("write"))
                with _READING:
                    await connection.receive_head(seconds=seconds.get("read"))
            except BaseException:
                self._close(connection)
                raise
        except BaseException:
            self._leave(origin)
            raise
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=_Body(connection, seconds.get("read"), lambda: self._give_back(origin, connection)),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": connection.reason},
        )

    async def aclose(self) -> None:
        """Close all connections, and return when they are closed."""
        if self._closing_idle is not None:
            self._closing_idle.cancel()
            self._closing_idle = None
        closing = list(self._open)
        for connection in closing:
            self._close(connection)
        self._idle.clear()
        if closing:
            await asyncio.wait([connection.gone for connection in closing])

    # -- turns --

    async def _enter(self, origin: str, seconds: float | None) -> None:
        turns = self._origins.get(origin)
        if turns is None:
            turns = self._origins[origin] = _Turns(self._per_host)
        turns.users += 1
        try:
            if turns.free.locked() or self._turns.locked():
                async with asyncio.timeout(seconds):
                    await turns.free.acquire()
                    try:
                        await self._turns.acquire()
                    except BaseException:
                        turns.free.release()
                        raise
            else:  # both return at once
                await turns.free.acquire()
                await self._turns.acquire()
        except BaseException as exc:
            self._forget(origin, turns)
            if isinstance(exc, TimeoutError):
                raise httpx.PoolTimeout("as many requests as may be") from exc
            raise
        self._under_way += 1

    def _leave(self, origin: str) -> None:
        turns = self._origins[origin]
        self._under_way -= 1
        self._turns.release()
        turns.free.release()
        self._forget(origin, turns)

    def _forget(self, origin: str, turns: _Turns) -> None:
        turns.users -= 1
        if not turns.users:
            del self._origins[origin]

    # -- connections --

    def _kept(self, origin: str) -> Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if not kept:
                del self._idle[origin]
            if not self._is_old(connection) and connection.is_reusable():
                return connection
            self._close(connection)
        return None

    def _give_back(self, origin: str, connection: Connection) -> None:
        if connection in self._open and connection.is_reusable():
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, []).append(connection)
            if self._number_idle() > self.keepalive:
                self._close_oldest()
            if self._closing_idle is None:
                self._closing_idle = loop.call_later(self._keepalive_seconds, self._close_old)
        else:
            self._close(connection)
        self._leave(origin)

    async def _connect(self, url: httpx.URL, seconds: Seconds) -> Connection:
        while self._number_idle() + self._under_way > self.connections:
            self._close_oldest()
        proxy = self._proxy
        place = url if proxy is None else proxy.url
        context = None
        if place.scheme == "https":
            context = self._context if proxy is None else proxy.ssl_context or self._context
        with _CONNECTING:
            connection = await Connection.open(
                place.raw_host.decode("ascii"),
                place.port or DEFAULT_PORTS[place.scheme],
                context,
                seconds=seconds.get("connect"),
                on_lost=self._lost,
            )
            self._open.add(connection)
            if proxy is not None and url.scheme == "https":
                try:
                    await self._tunnel(connection, proxy, url, seconds)
                except BaseException:
                    self._close(connection)
                    raise
        return connection

    async def _tunnel(self, connection: Connection, proxy: httpx.Proxy, url: httpx.URL, seconds: Seconds) -> None:
        host = url.raw_host.decode("ascii")
        target = b"%b:%d" % (f"[{host}]".encode() if ":" in host else host.encode(), url.port or DEFAULT_PORTS["https"])
        head = _checked(b"CONNECT", target, [(b"Host", target), (b"Accept", b"*/*"), *_of_proxy(proxy)])
        await connection.send(head, b"", method="CONNECT", seconds=seconds.get("write"))
        await connection.receive_head(seconds=seconds.get("read"))
        if not 200 <= connection.status < 300:
            raise httpx.ProxyError(f"{connection.status} {connection.reason.decode('ascii', 'replace')}")
        await connection.start_tls(self._context, host, seconds=seconds.get("connect"))

    def _head(self, request: httpx.Request) -> bytes:
        url, headers = request.url, request.headers.raw
        if self._proxy is None or url.scheme == "https":
            return _checked(request.method.encode(), url.raw_path, headers)
        target = b"http://%b%b" % (url.netloc, url.raw_path)
        return _checked(request.method.encode(), target, [*_of_proxy(self._proxy), *headers])

    def _close(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()

    def _lost(self, connection: Connection) -> None:
        """The peer closed it, or we did."""
        self._open.discard(connection)
        for origin, kept in self._idle.items():
            if connection in kept:
                kept.remove(connection)
                if not kept:
                    del self._idle[origin]
                return

    def _number_idle(self) -> int:
        return sum(map(len, self._idle.values()))

    def _close_oldest(self) -> None:
        origin = min(self._idle, key=lambda each: self._idle[each][0].idle_since)
        self._close(self._idle[origin].pop(0))
        if not self._idle[origin]:
            del self._idle[origin]

    def _is_old(self, connection: Connection) -> bool:
        return asyncio.get_running_loop().time() >= connection.idle_since + self._keepalive_seconds

    def _close_old(self) -> None:
        self._closing_idle = None
        while self._idle:
            oldest = min((kept[0] for kept in self._idle.values()), key=lambda kept: kept.idle_since)
            if not self._is_old(oldest):
                loop = asyncio.get_running_loop()
                self._closing_idle = loop.call_at(oldest.idle_since + self._keepalive_seconds, self._close_old)
                return
            self._close_oldest()


class _Turns:
    """Of one origin. `users`: with a turn or waiting for one."""

    __slots__ = ("free", "users")

    def __init__(self, number: int) -> None:
        self.free = asyncio.Semaphore(number)
        self.users = 0


class _Body(httpx.AsyncByteStream):
    """Of a response, as it arrives. Closing it ends the exchange."""

    def __init__(self, connection: Connection, seconds: float | None, end: Callable[[], None]) -> None:
        self._connection = connection
        self._seconds = seconds
        self._end: Callable[[], None] | None = end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            with _READING:
                piece = await self._connection.receive_piece(seconds=self._seconds)
            if not piece:
                return
            yield piece

    async def aclose(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()


class _Named:
    """What a failure is called to httpx's callers. The cause stays: core/network_trouble.py reads it."""

    def __init__(self, error: type[httpx.TransportError], timeout: type[httpx.TransportError]) -> None:
        self._error = error
        self._timeout = timeout

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        match exc:
            case None:
                return
            case TimeoutError():
                raise self._timeout(str(exc)) from exc
            case OSError():
                raise self._error(str(exc)) from exc
            case BrokenAnswer():
                remote = httpx.RemoteProtocolError(str(exc))
                remote.__cause__ = exc
                if self._error is httpx.ConnectError:
                    raise httpx.ConnectError(str(exc)) from remote
                raise remote


_CONNECTING = _Named(httpx.ConnectError, httpx.ConnectTimeout)
_WRITING = _Named(httpx.WriteError, httpx.WriteTimeout)
_READING = _Named(httpx.ReadError, httpx.ReadTimeout)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(
    rb"%b [\x21-\x7e]+ HTTP/1\.1\r\n(?:%b: (?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?\r\n)+\r\n" % (_TOKEN, _TOKEN)
)
"""RFC 9112."""


def _checked(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Raises `LocalProtocolError` for what may not stand in a head."""
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join([b"%b: %b\r\n" % header for header in headers]))
    # A value with a line break would be a header of its own.
    if head.count(b"\n") != len(headers) + 2 or not _HEAD.fullmatch(head):
        raise httpx.LocalProtocolError("characters that a method, a path or a header must not have")
    return head


def _of_proxy(proxy: httpx.Proxy) -> list[tuple[bytes, bytes]]:
    """Its headers, and its user and password as one more."""
    if proxy.raw_auth is None:
        return proxy.headers.raw
    return [*proxy.headers.raw, (b"Proxy-Authorization", b"Basic " + b64encode(b":".join(proxy.raw_auth)))]


def _body(request: httpx.Request) -> bytes | AsyncIterable[bytes]:
    try:
        return request.content
    except httpx.RequestNotRead:
        stream = cast(AsyncIterable[bytes], request.stream)
        return _chunks(stream) if request.headers.get("transfer-encoding") == "chunked" else stream


async def _chunks(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for piece in stream:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
