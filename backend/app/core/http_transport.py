"""What is beneath the HTTP clients: httpx's requests over aiohttp's connections, TLS, proxies and parser.

httpx's own transport costs five times as much; ADR 18 has the figures, and why not one of the published transports.
This one promises what "never sent twice" rests on:

    not sent    ConnectError, ConnectTimeout, ProxyError, PoolTimeout, LocalProtocolError, UnsupportedProtocol:
                the request was given to no connection
    ambiguous   everything else

It goes by how far the request was (`UNSENT`), because one exception of aiohttp may mean either. Nothing is
repeated. A kept connection from which something has arrived, be it its end, is not used. A connection is closed, not
kept, when its exchange was left half-way, by a failure or a cancellation.

At most `per_host` exchanges with one origin and `connections` in all, each with one connection; those beyond wait their
turn. At most `keepalive` connections are kept, each `keepalive_seconds`; more than that no longer than `SPARE_SECONDS`,
because exchanges that end together are often followed by as many. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, cast

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import is_ip_address
from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping
from yarl import URL

from app.core.errors import Expected
from app.core.network_trouble import went_through_proxy
from app.core.resolver import Resolver
from app.core.slots import CALLER

UNSENT = "unsent"
"""The extension of a request that tells a caller whose time limit ends it how far it was: there until the request is
given to a connection."""
MAX_BYTES = "max_body_bytes"
"""The extension of a request that bounds the body of its answer, unpacked."""

MAX_RESPONSE_BYTES = 32_000_000
"""Of any response that is not read through `request`: a page of the database's rows, unpacked."""
PIECE_BYTES = 65_536
MAX_HEADER_BYTES = 100_000
MAX_HEADERS = 500
SPARE_SECONDS = 1.0
JOINED_BYTES = 65_536
"""A body up to this size leaves in one piece."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 §5.6.2."""
_extensions: ContextVar[dict[str, Any]] = ContextVar("extensions")
"""Of the request under way in this task."""


class HttpError(Expected):
    """No usable HTTP response. The message names the kind of failure, never the URL or a header."""


class ConnectFailed(HttpError):
    """The request certainly did not leave: no connection within the time, or none free in the pool."""


class PoolFull(ConnectFailed):
    """No connection was free within the time: our own limit, not the peer's fault."""


class ForbiddenHost(ConnectFailed):
    """The URL is not https, not on an allowed host, or leads to an address that is not public. Nothing was sent."""


class AmbiguousFailure(HttpError):
    """The request left, wholly or in part, and no complete response came back."""


class BodyTooLarge(AmbiguousFailure):
    """A response came, longer than `max_body_bytes`; the rest was not read."""


class ForbiddenAddress(OSError):
    """A name or a URL leads to an address that the transport may not connect to. Nothing was sent."""


class Transport(httpx.AsyncBaseTransport):
    """`context`: for peers, and for a proxy that is reached by TLS. `allows`: judges each address before a connection
    is opened; a name with one address that is refused is refused, and the connection goes to one that was judged.
    `proxy_setting` is told in errors.
    """

    def __init__(
        self,
        *,
        connections: int,
        keepalive: int,
        per_host: int,
        keepalive_seconds: float,
        context: ssl.SSLContext,
        proxy: httpx.Proxy | None = None,
        proxy_setting: str = "",
        allows: Callable[[str], bool] | None = None,
    ) -> None:
        self._allows = allows
        self.connections = connections
        self.keepalive = keepalive
        self._per_host = per_host
        self._turns = asyncio.Semaphore(connections)
        self._origins: dict[str, _Turns] = {}
        resolver = aiohttp.ThreadedResolver() if allows is None else _JudgingResolver(allows)
        self._connector = _Connector(connections, keepalive, keepalive_seconds, context, resolver)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            middlewares=(_once,),
        )
        self._proxy = None if proxy is None else str(proxy.url)
        self._of_proxy = {} if proxy is None else _of_proxy(proxy)
        self._proxy_setting = proxy_setting

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's exceptions, by what had happened to the request; reading the body also `BodyTooLarge`."""
        begun = time.perf_counter()
        origin, url = _target(str(request.url))
        if self._allows is not None and is_ip_address(url.raw_host or "") and not self._allows(url.raw_host or ""):
            raise httpx.ConnectError("a forbidden address") from ForbiddenAddress()  # aiohttp resolves no literal
        headers: MultiMapping[str] = _headers(tuple(request.headers.raw))
        if url.scheme == "http" and self._of_proxy:  # the proxy reads the request itself
            headers = CIMultiDict([*headers.items(), *self._of_proxy.items()])
        body = _body(request)
        if isinstance(body, AsyncGenerator) and "content-length" not in headers:  # else it is chunked
            headers = CIMultiDict([*headers.items(), ("content-length", str(len(request.content)))])
        seconds = request.extensions.get("timeout", {})
        request.extensions[UNSENT] = "waiting for its turn"
        await self._enter(origin, seconds.get("pool"))
        try:
            response = await self._begin(request, url, headers, body, seconds)
        except BaseException as exc:
            self._leave(origin)
            if self._proxy_setting:
                went_through_proxy(exc, self._proxy_setting)
            raise

        def end() -> None:
            answer.elapsed = timedelta(seconds=time.perf_counter() - begun)
            self._leave(origin)

        stream = Body(response, request.extensions.get(MAX_BYTES, MAX_RESPONSE_BYTES), end)
        reason = response.reason or ""
        answer = httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=stream,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": reason.encode("ascii", "replace")},
        )
        try:
            stream.unpack = _unpacker(answer.headers)
        except httpx.DecodingError as exc:
            exc.request = request
            await answer.aclose()
            raise
        return answer

    async def aclose(self) -> None:
        """Close all connections, and return when they are closed. aiohttp would wait for what is not written yet."""
        for protocol in tuple(self._connector.open):
            protocol.abort()
        await self._session.close()

    async def _begin(
        self, request: httpx.Request, url: URL, headers: Any, body: Any, seconds: Mapping[str, float | None]
    ) -> aiohttp.ClientResponse:
        """The exchange up to the end of the answer's head."""
        connect, read = seconds.get("connect"), seconds.get("read")
        limits = [each for each in (connect, read, seconds.get("write")) if each is not None]
        extensions = request.extensions
        extensions[UNSENT] = "connecting"
        mark = _extensions.set(extensions)
        asked = self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False, timeout=_timeout(connect, read),
            proxy=self._proxy, proxy_headers=self._of_proxy,
        )  # fmt: skip
        try:
            if len(limits) < 3:
                return await asked
            # aiohttp begins to count `read` when all is written, and has no limit for that.
            async with asyncio.timeout(sum(limits)):
                return await asked
        except TimeoutError as exc:
            raise (httpx.ConnectTimeout if UNSENT in extensions else httpx.WriteTimeout)("not in time") from exc
        except (aiohttp.ClientError, OSError) as exc:
            failure = exc
        finally:
            _extensions.reset(mark)
        raise _named(failure, unsent=UNSENT in extensions)

    async def _enter(self, origin: str, seconds: float | None) -> None:
        """`seconds`: to wait. With none it is let in only while half of the origin's places are free: what may not wait
        is not worth one for which another would have to."""
        turns = self._origins.get(origin)
        if turns is None:
            turns = self._origins[origin] = _Turns(self._per_host)
        turns.users += 1
        is_full = turns.free.locked() or self._turns.locked()
        try:
            if seconds == 0 and (is_full or turns.users > (self._per_host + 1) // 2):
                raise TimeoutError
            if is_full:
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

    def _leave(self, origin: str) -> None:
        turns = self._origins[origin]
        self._turns.release()
        turns.free.release()
        self._forget(origin, turns)

    def _forget(self, origin: str, turns: _Turns) -> None:
        turns.users -= 1
        if not turns.users:
            del self._origins[origin]


class _Turns:
    """Of one origin. `users`: with a turn or waiting for one."""

    __slots__ = ("free", "users")

    def __init__(self, number: int) -> None:
        self.free = asyncio.Semaphore(number)
        self.users = 0


class _JudgingResolver(AbstractResolver):
    """What it returns is what aiohttp connects to: a name that is looked up anew with another answer gains nothing.

    It has look-ups and answers of its own: names of strangers that hang, or that are many, take none from ours. The
    groups of its callers (core/slots.py) share them.
    """

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows
        self._names = Resolver(socket.getaddrinfo)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._names.addresses(
            host, port, CALLER.get().group, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        if not all(self._allows(address[0]) for *_, address in found):
            raise ForbiddenAddress
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=kind, proto=proto, flags=numeric)
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held but threads that end by themselves."""


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, which does not bound what is kept, nor look at it before it is used. Names are the event loop's affair
    (core/event_loop.py); how many are in use at once is `Transport`'s. `_release` is not of aiohttp's documented
    interface: the tests of what is kept and of what is closed say if it changes."""

    def __init__(
        self,
        connections: int,
        keepalive: int,
        keepalive_seconds: float,
        context: ssl.SSLContext,
        resolver: AbstractResolver,
    ) -> None:
        super().__init__(
            limit=0, ssl=context, keepalive_timeout=keepalive_seconds, use_dns_cache=False, resolver=resolver
        )
        self._connections = connections
        self._keepalive = keepalive
        self.open: set[ResponseHandler] = set()
        self.kept: dict[ResponseHandler, object] = {}
        """Where they lead, the one that was used last at the end."""
        self._trimming = False

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: Any,  # noqa: ASYNC109  aiohttp's signature
    ) -> Connection:
        while len(self.open) >= self._connections and self.kept and req.connection_key not in self.kept.values():
            self._close_oldest()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast(ResponseHandler, connection.protocol)
            was_kept = self.kept.pop(protocol, None) is not None
            if was_kept and (protocol.should_close or _has_arrived(connection.transport)):
                connection.close()
                continue
            if not was_kept and (closed := protocol.closed) is not None:
                self.open.add(protocol)
                closed.add_done_callback(partial(self._lost, protocol))
            _extensions.get().pop(UNSENT, None)
            return connection

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """An exchange has ended, half-way if it `should_close`. aiohttp would close with a farewell and when all is
        written: a peer that takes nothing more would hold the connection for half a minute or for ever."""
        transport = protocol.transport
        if transport is None or should_close or protocol.should_close or transport.get_write_buffer_size():
            protocol.abort()
        else:
            self.kept[protocol] = key
            if len(self.kept) > self._keepalive and not self._trimming:
                self._trimming = True
                asyncio.get_running_loop().call_later(SPARE_SECONDS, self._trim)
        super()._release(key, protocol, should_close=should_close)

    def _trim(self) -> None:
        self._trimming = False
        while len(self.kept) > self._keepalive:
            self._close_oldest()

    def _close_oldest(self) -> None:
        protocol = next(iter(self.kept))
        del self.kept[protocol]
        self.open.discard(protocol)
        protocol.abort()

    def _lost(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        closed.cancelled() or closed.exception()  # else asyncio complains that it was not looked at
        self.open.discard(protocol)
        self.kept.pop(protocol, None)


def _has_arrived(transport: asyncio.Transport | None) -> bool:
    """Anything that the event loop may not have read yet."""
    if transport is None:
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Body(httpx.AsyncByteStream):
    """Of a response, as it arrives: unpacked, and at most `limit` bytes of it. Not only `http_client.request` is
    bounded this way: supabase-py reads through these clients as well. Closing it ends the exchange."""

    def __init__(self, response: aiohttp.ClientResponse, limit: int, end: Callable[[], None]) -> None:
        self._response = response
        self._left = self._limit = limit
        self._end: Callable[[], None] | None = end
        self.unpack: _Unpack | None = None
        self._unpacked: Iterator[bytes] = iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Not a generator: the event loop keeps track of each of those, which costs time."""
        while (piece := next(self._unpacked, None)) is None:
            try:
                arrived = await self._response.content.readany()
            except (aiohttp.ClientError, OSError) as exc:
                raise _named(exc, unsent=False) from exc
            if not arrived:
                raise StopAsyncIteration
            if self.unpack is None:
                piece = arrived
                break
            self._unpacked = self.unpack(arrived)
        self._left -= len(piece)
        if self._left < 0:
            raise BodyTooLarge(f"response of more than {self._limit} bytes")
        return piece

    async def aclose(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            self._response.close()  # of its connection only if the body is not at its end
            end()


def _unpacker(headers: httpx.Headers) -> _Unpack | None:
    """How a body is unpacked, in pieces: we ask for none that is packed, yet a proxy may do it. Takes the header away:
    httpx would unpack it once more. Raises `DecodingError` for layers upon layers, and for other formats."""
    if b"content-encoding" not in [name.lower() for name, _ in headers.raw]:  # httpx decodes them all to find out
        return None
    layers = [layer.strip().lower() for layer in headers.get_list("content-encoding", split_commas=True)]
    layers = [layer for layer in layers if layer not in ("", "identity")]
    if not layers:
        return None
    if len(layers) > 1 or layers[0] not in _WINDOWS:
        raise httpx.DecodingError("a content encoding that was not asked for")
    del headers["content-encoding"]
    inflator = zlib.decompressobj(_WINDOWS[layers[0]])
    return lambda chunk: _inflate(inflator, chunk)


_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_Unpack = Callable[[bytes], Iterator[bytes]]


def _inflate(inflator: Any, packed: bytes) -> Iterator[bytes]:
    """Never more than `PIECE_BYTES` at once, however much it is."""
    more = True
    while more:
        try:
            piece = inflator.decompress(packed, PIECE_BYTES)
        except zlib.error as exc:
            raise httpx.DecodingError("a body that cannot be unpacked") from exc
        yield piece
        packed = inflator.unconsumed_tail
        more = bool(packed) or len(piece) == PIECE_BYTES


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp sends a GET, PUT or DELETE once more when a kept connection breaks; only the callers may decide that."""
    try:
        return await handler(request)
    except aiohttp.ClientError as exc:
        failure = exc
    raise _named(failure, unsent=UNSENT in _extensions.get())


def _named(exc: Exception, *, unsent: bool) -> httpx.TransportError:
    """What a failure is called to httpx's callers. Its cause is what the system or TLS said, for
    core/network_trouble.py: aiohttp's errors have the URL in their words, and those of TLS lack what TLS said."""
    what = type(exc).__name__
    named: httpx.TransportError
    match exc:
        case TimeoutError():
            named = httpx.ConnectTimeout(what) if unsent else httpx.ReadTimeout(what)
        case aiohttp.ClientHttpProxyError() if unsent:
            named = httpx.ProxyError(f"{exc.status} {exc.message}")
        case OSError():
            named = httpx.ConnectError(what) if unsent else httpx.ReadError(what)
        case _:
            named = httpx.RemoteProtocolError(what)
            if unsent:
                exc, named = named, httpx.ConnectError(what)
    match exc:
        case aiohttp.ClientConnectorError():
            named.__cause__ = exc.os_error
        case aiohttp.ClientResponseError():
            named.__cause__ = exc.__cause__
        case _:
            named.__cause__ = exc
    return named


@lru_cache(1000)
def _target(asked: str) -> tuple[str, URL]:
    """The origin, and the URL without user and password, which httpx has made a header of. Kept by its text: httpx
    parses two URLs to compare them."""
    url = httpx.URL(asked)
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise httpx.UnsupportedProtocol("a URL begins with http:// or https:// and a host")
    return f"{url.scheme}://{url.netloc.decode('ascii')}", URL(str(url.copy_with(userinfo=b"")), encoded=True)


@lru_cache(100)
def _timeout(connect: float | None, read: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read)


def _of_proxy(proxy: httpx.Proxy) -> dict[str, str]:
    """Its headers, user and password."""
    if proxy.raw_auth is None:
        return dict(proxy.headers)
    return {**proxy.headers, "proxy-authorization": f"Basic {b64encode(b':'.join(proxy.raw_auth)).decode('ascii')}"}


@lru_cache(1000)
def _headers(raw: tuple[tuple[bytes, bytes], ...]) -> CIMultiDictProxy[str]:
    """Kept, because an account's are the same for every message. Raises `LocalProtocolError` for what may not stand in
    a head."""
    encoding = httpx.Headers(raw).encoding
    headers = [(_name(name), value.decode(encoding)) for name, value in raw]
    if _CONTROL.search("".join([value for _, value in headers])):
        raise httpx.LocalProtocolError("a header with characters that it must not have")
    return CIMultiDictProxy(CIMultiDict(header for header in headers if header[0] != "transfer-encoding"))


def _name(raw: bytes) -> str:
    if not _TOKEN.fullmatch(raw):
        raise httpx.LocalProtocolError("a header's name with characters that it must not have")
    return raw.decode("ascii").lower()


def _body(request: httpx.Request) -> Any:
    if not isinstance(request.stream, httpx.ByteStream):
        return request.stream
    content = request.read()
    if not content:
        return None
    return content if len(content) <= JOINED_BYTES else _pieces(content)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), JOINED_BYTES):
        yield content[at : at + JOINED_BYTES]
