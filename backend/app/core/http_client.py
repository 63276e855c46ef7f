"""The process's HTTP clients; with their transport the only modules that import httpx.

    client = await get_http_client()      # connect 3 s, read 10 s; at most 100 connections, 20 kept alive
    media = await get_http_client_for_media()                                   # the same with read and write 30 s
    probe = await get_http_client_for_probes()                                  # a few connections of its own
    stranger = await get_http_client_for_strangers()                            # public addresses only, no proxy
    await close_http_client()             # closes them all, may be called twice, and the next `get` opens anew

One pool per process and event loop: a connection belongs to the loop that opened it. One host gets at most
half of its connections, so that a peer that hangs leaves the other half to the others; `make_room_for` raises both
for a process that makes more calls at once. The clients do
not follow redirects (an Authorization header must never travel to another host), keep no cookies (one account's must
never reach another's request), and ignore the environment's proxy variables and `.netrc`: where a token goes is
decided by the base URLs in the settings alone. They ask for bodies that are not packed, and count what comes out of
one that is. They retry nothing; the caller decides (`core/resilience.py`).

`request()` is what adapters use. It bounds the whole exchange, not only each read, bounds the body, and splits
failures by the one question that matters for a message that must not be sent twice:

    HttpError
    ├── ConnectFailed          no byte of the request left: repeating it is harmless
    │   ├── PoolFull           we make as many requests as we may; it says nothing about the peer
    │   └── ForbiddenHost      a URL from outside that leads where our token must not go
    └── AmbiguousFailure       the peer may have processed it
        └── BodyTooLarge       it answered, with more than we take in

A kept connection whose end reaches this machine after our request left looks exactly like one lost while the peer was
working, so it is ambiguous too. `KEEPALIVE_SECONDS` makes it rare. What is beneath the clients is `http_transport.py`.
"""

from __future__ import annotations

import asyncio
import email.utils
import http.cookiejar
import secrets
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import httpx
import orjson
from httpx import AsyncClient

from app.core.egress import Egress, is_public
from app.core.http_transport import (
    MAX_BYTES,
    MAX_RESPONSE_BYTES,
    UNSENT,
    AmbiguousFailure,
    Body,
    BodyTooLarge,
    ConnectFailed,
    ForbiddenAddress,
    ForbiddenHost,
    HttpError,
    PoolFull,
    Transport,
)
from app.core.tracing import span

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
WRITE_SECONDS = 10.0
POOL_SECONDS = 3.0
MEDIA_SECONDS = 30.0
MAX_CONNECTIONS = 100
MAX_KEEPALIVE = 20
MAX_PER_HOST = 50
"""Half of the pool."""
MAX_PROBES = 10
MAX_STRANGERS = 250
"""More than a worker delivers to at a time, also of one host: receivers may share it, and one that hangs must leave
room to the others."""
KEEPALIVE_SECONDS = 4.0
"""Below the shortest idle limit in common use (5 s: uvicorn, Node), so that we are the side that closes first."""

MAX_BODY_BYTES = 2_000_000
MAX_MEDIA_BYTES = 100_000_000
"""The largest document WhatsApp takes."""

GetClient = Callable[[], Awaitable[AsyncClient]]
T = TypeVar("T")

__all__ = [
    "MEDIA_SECONDS", "AmbiguousFailure", "AsyncClient", "BodyTooLarge", "ConnectFailed", "ForbiddenHost", "GetClient",
    "HttpError", "PoolFull", "Response", "close_http_client", "download", "get_http_client",
    "get_http_client_for_media", "get_http_client_for_probes", "get_http_client_for_strangers", "is_ambiguous",
    "is_network_error", "is_pool_full", "leave_by", "make_room_for", "parse_retry_after", "request", "status_error",
    "upload",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response of any status. `headers` is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises `ValueError` if the body is not JSON."""
        return orjson.loads(self.body)


class _Room(NamedTuple):
    """How many connections a client may have: in all, kept alive, and to one host."""

    connections: int
    keepalive: int
    per_host: int


_DEFAULT_ROOM = _Room(MAX_CONNECTIONS, MAX_KEEPALIVE, MAX_PER_HOST)
_PROBES_ROOM = _Room(2 * MAX_PROBES, MAX_PROBES, MAX_PROBES)
_STRANGERS_ROOM = _Room(MAX_STRANGERS, MAX_KEEPALIVE, MAX_STRANGERS)

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncClient]] = WeakKeyDictionary()
_egress = Egress()
_room = _DEFAULT_ROOM


def make_room_for(calls: int) -> None:
    """Clients opened from now on let `calls` to one host through at once, if that is more than `MAX_PER_HOST`; as many
    connections are left for all other hosts together."""
    global _room  # noqa: PLW0603  of the process, as the clients are
    per_host = max(MAX_PER_HOST, calls)
    _room = _Room(2 * per_host, 2 * per_host * MAX_KEEPALIVE // MAX_CONNECTIONS, per_host)


def leave_by(egress: Egress) -> None:
    """How clients opened from now on reach the outside; one that is open stays as it is. Does not check `egress`:
    see `Egress.problems`."""
    global _egress  # noqa: PLW0603  of the process, as the clients are
    _egress = egress


async def get_http_client() -> AsyncClient:
    """The shared client. Do not close it and do not use it as a context manager: others hold it too."""
    return _shared_client("calls", READ_SECONDS, _room)


async def get_http_client_for_media() -> AsyncClient:
    """As `get_http_client`, with 30 s to read or write: uploads and downloads of media."""
    return _shared_client("media", MEDIA_SECONDS, _DEFAULT_ROOM)


async def get_http_client_for_probes() -> AsyncClient:
    """As `get_http_client`, with connections of its own: that ours are all in use says nothing about the peer."""
    return _shared_client("probes", READ_SECONDS, _PROBES_ROOM)


async def get_http_client_for_strangers() -> AsyncClient:
    """For URLs that came from outside: it connects to public addresses alone (`core/egress.py`), and past every proxy,
    which would look the name up once more. The URL's own form is the caller's to judge (`url_problem`)."""
    allows = None if _egress.strangers_may_be_private else is_public
    return _shared_client("strangers", READ_SECONDS, _STRANGERS_ROOM, straight=True, allows=allows)


async def close_http_client() -> None:
    """Close all clients of this event loop. Idempotent; a later `get_http_client` opens a new one."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


def _shared_client(name: str, io_seconds: float, room: _Room, **way: Any) -> AsyncClient:
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get(name)
    if client is None or client.is_closed:
        client = clients[name] = _new_client(io_seconds, room, **way)
    return client


def _new_client(
    io_seconds: float, room: _Room, *, straight: bool = False, allows: Callable[[str], bool] | None = None
) -> AsyncClient:
    options: dict[str, Any] = {
        **room._asdict(), "keepalive_seconds": KEEPALIVE_SECONDS, "context": _tls_context(_egress.ca_file),
    }  # fmt: skip
    return _Client(
        transport=Transport(**options, allows=allows),
        mounts={} if straight else _proxies(_egress, options),
        trust_env=False,
        follow_redirects=False,
        cookies=http.cookiejar.CookieJar(policy=http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        timeout=_timeout(io_seconds),
        headers=_HEADERS,
    )


class _Client(AsyncClient):
    """httpx's, without what ours never does, which is half of what a request costs in it. A caller that asks for
    authentication by httpx, for redirects that are followed or for hooks gets httpx's way."""

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx.USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        is_plain = auth in (None, httpx.USE_CLIENT_DEFAULT) and follow_redirects in (False, httpx.USE_CLIENT_DEFAULT)
        if self.is_closed or not is_plain or request.url.userinfo or any(self.event_hooks.values()):
            return await super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        if "timeout" not in request.extensions:
            request.extensions["timeout"] = self.timeout.as_dict()
        try:
            response = await self._transport_for_url(request.url).handle_async_request(request)
        except httpx.RequestError as exc:
            exc.request = request
            raise
        response.request = request
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


def _proxies(egress: Egress, options: Mapping[str, Any]) -> dict[str, httpx.AsyncBaseTransport | None]:
    """By httpx's URL patterns: the most specific one wins; `None` is the transport without a proxy."""
    by_scheme = {"https": egress.https_proxy, "http": egress.http_proxy}
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    straight = egress.straight_hosts()
    if "*" in straight:
        return mounts
    for scheme, url in by_scheme.items():
        if url:
            setting = f"{scheme.upper()}_PROXY"
            mounts[f"{scheme}://"] = Transport(**options, proxy=httpx.Proxy(url), proxy_setting=setting)
    return mounts | dict.fromkeys(_pattern(host) for host in straight if mounts)


def _pattern(host: str) -> str:
    """A name stands for itself and all names below it, an address or a place with a port for itself alone."""
    if host.count(":") > 1:
        return f"all://[{host.strip('[]')}]"
    name = host.removeprefix("*").removeprefix(".")
    return f"all://{name}" if ":" in name or name.replace(".", "").isdecimal() else f"all://*{name}"


@cache
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Loading the trust store costs tens of milliseconds; both clients share one."""
    context = httpx.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context


@lru_cache(100)
def _timeout(io_seconds: float) -> httpx.Timeout:
    return httpx.Timeout(
        read=io_seconds,
        write=max(WRITE_SECONDS, io_seconds),
        connect=min(CONNECT_SECONDS, io_seconds),
        pool=min(POOL_SECONDS, io_seconds),
    )


async def request(
    method: str,
    url: str,
    *,
    timeout_seconds: float,
    headers: Mapping[str, str] | None = None,
    payload: object = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    cuts_body: bool = False,
    get_client: GetClient = get_http_client,
    waits_for_turn: bool = True,
) -> Response:
    """One exchange within `timeout_seconds`, from the wait for a connection to the last byte of the body.

    `payload` is sent as JSON. With `cuts_body` the rest of a longer body is not read, instead of `BodyTooLarge`.
    Without `waits_for_turn` it is `PoolFull` at once while more than half of the host's connections are in use. A
    response of any status is returned; raises `ConnectFailed` or `AmbiguousFailure`. Does not retry, follow redirects
    or raise for a status.
    """
    return await _exchange(
        method,
        url,
        partial(_whole, cut_at=max_body_bytes) if cuts_body else _whole,
        timeout_seconds=timeout_seconds,
        headers=headers,
        payload=payload,
        max_body_bytes=MAX_RESPONSE_BYTES if cuts_body else max_body_bytes,
        get_client=get_client,
        waits_for_turn=waits_for_turn,
    )


async def _exchange(
    method: str,
    url: str,
    read: Callable[[httpx.Response], Awaitable[T]],
    *,
    timeout_seconds: float,
    headers: Mapping[str, str] | None,
    get_client: GetClient,
    payload: object = None,
    content: AsyncIterable[bytes] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    waits_for_turn: bool = True,
) -> T:
    """What `read` makes of the response, within the time."""
    client = await get_client()
    given, stream = tuple(headers.items()) if headers else (), None
    if payload is not None:
        # As a stream: given as content, httpx would look up four headers that are known here, and copy all of them.
        given, stream = (*given, _JSON), httpx.ByteStream(orjson.dumps(payload))
    seconds = _timeout(timeout_seconds).as_dict()
    seconds["read"] = seconds["write"] = None  # the limit of the whole exchange covers both, with one timer
    if not waits_for_turn:
        seconds["pool"] = 0
    limits = {"timeout": seconds, MAX_BYTES: max_body_bytes}
    prepared: httpx.Request | None = None
    try:
        where, host = _place(url)
        with span("http", method=method, host=host):
            # Not the client's own way to make one, which parses the URL each time and merges what ours has nothing of.
            prepared = httpx.Request(
                method, where, headers=_sent(host, given), content=content, stream=stream, extensions=limits
            )
            async with asyncio.timeout(timeout_seconds):
                response = await client.send(prepared, stream=True)
                try:
                    return await read(response)
                finally:
                    await response.aclose()
    except httpx.InvalidURL as exc:
        raise ConnectFailed(_describe(exc)) from exc
    except httpx.PoolTimeout as exc:
        raise PoolFull(_describe(exc)) from exc
    except _NOT_SENT as exc:
        kind = ForbiddenHost if isinstance(exc.__cause__, ForbiddenAddress) else ConnectFailed
        raise kind(_describe(exc)) from exc
    except TimeoutError as exc:
        unsent = prepared.extensions.get(UNSENT) if prepared else None
        if unsent is None:
            raise AmbiguousFailure(_describe(exc)) from exc
        raise (ConnectFailed if unsent == "connecting" else PoolFull)(f"{_describe(exc)} while {unsent}") from exc
    except httpx.RequestError as exc:
        raise AmbiguousFailure(_describe(exc)) from exc


async def download(
    url: str,
    *,
    allowed_hosts: Collection[str],
    headers: Mapping[str, str],
    max_body_bytes: int = MAX_MEDIA_BYTES,
    take: Callable[[int, AsyncIterator[bytes]], Awaitable[T]],
) -> T:
    """GET a URL that came from outside, with our token in `headers`, within `MEDIA_SECONDS`: what `take` makes of
    status and body, which comes in pieces and is never held as a whole here. Raises as `request`, `ForbiddenHost`, and
    what `take` raises.

    `allowed_hosts`: names, or `.suffix` for every name below it; https only. An entry with a scheme
    (`http://127.0.0.1:9000`) allows exactly that origin. A redirect is returned, never followed: the token stays here.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host.lower()
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise ForbiddenHost("what should be a URL is none") from exc
    origin = f"{parsed.scheme}://{parsed.netloc.decode()}".lower()
    named = any(host == allowed or (allowed[0] == "." and host.endswith(allowed)) for allowed in allowed_hosts)
    if origin not in allowed_hosts and not (named and parsed.scheme == "https" and parsed.port is None):
        raise ForbiddenHost("a URL on another host than allowed")

    async def piecewise(response: httpx.Response) -> T:
        return await take(response.status_code, _pieces(response))

    return await _exchange(
        "GET", url, piecewise, timeout_seconds=MEDIA_SECONDS, headers=headers, max_body_bytes=max_body_bytes,
        get_client=get_http_client_for_media,
    )  # fmt: skip


async def upload(
    url: str,
    *,
    fields: Mapping[str, str],
    name: str,
    mime_type: str,
    size: int,
    pieces: AsyncIterable[bytes],
    headers: Mapping[str, str],
) -> Response:
    """POST `fields` and one file as `multipart/form-data` (RFC 7578) within `MEDIA_SECONDS`; the file, of `size` bytes,
    goes out piece by piece. `name` stands in a header: what does not belong there is replaced. Raises as `request`."""
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    safe = "".join(character if character.isprintable() and character not in '"\\' else "_" for character in name)
    head += f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{safe}"\r\n'
    before = (head + f"content-type: {mime_type}\r\n\r\n").encode()
    behind = f"\r\n--{boundary}--\r\n".encode()

    async def body() -> AsyncIterator[bytes]:
        yield before
        async for piece in pieces:
            yield piece
        yield behind

    form = {
        "content-type": f"multipart/form-data; boundary={boundary}",
        "content-length": str(len(before) + size + len(behind)),
    }
    return await _exchange(
        "POST", url, _whole, timeout_seconds=MEDIA_SECONDS, headers={**headers, **form}, content=body(),
        get_client=get_http_client_for_media,
    )  # fmt: skip


_NOT_SENT = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError,
    httpx.ProxyError,  # it refused the tunnel
)  # fmt: skip


_HEADERS = {
    "accept": "*/*",
    # A body of a kilobyte may unpack to gigabytes, and what we read is small.
    "accept-encoding": "identity",
    "user-agent": "chorus",
}
"""Of every request. Names in small letters: a caller's of the same name take their place."""

_JSON = ("content-type", "application/json")


@lru_cache(1000)
def _place(url: str) -> tuple[httpx.URL, str]:
    """And its host, without user and password, which a base URL may carry. Kept: the same few places again and again,
    and parsing one costs more than the rest of a request's making. Raises `httpx.InvalidURL`."""
    where = httpx.URL(url)
    # httpx would decode an internationalised name for it, and raise for those that its IDNA 2008 does not have.
    return where, where.netloc.decode("ascii")


@lru_cache(1000)
def _sent(host: str, given: tuple[tuple[str, str], ...]) -> httpx.Headers:
    """Those of a request; httpx copies them for each. Kept, because an account's are the same for every message."""
    return httpx.Headers({"host": host, **_HEADERS, **dict(given)})


def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    # Ours are unpacked already; the way around that costs httpx a tenth of an exchange.
    is_ours = isinstance(response.stream, Body)
    return aiter(cast(AsyncIterable[bytes], response.stream if is_ours else response.aiter_bytes()))


async def _whole(response: httpx.Response, *, cut_at: int | None = None) -> Response:
    """With the first `cut_at` bytes of its body; the rest is not read. Its stream bounds one that is not cut."""
    body = bytearray()
    async for piece in _pieces(response):
        body += piece
        if cut_at is not None and len(body) > cut_at:
            del body[cut_at:]
            break
    return Response(response.status_code, response.headers, bytes(body))


def _describe(exc: BaseException) -> str:
    return type(exc).__name__


def is_network_error(exc: BaseException) -> bool:
    """Was the network or the peer's silence at fault? True for ours, httpx's and the standard library's errors."""
    if isinstance(exc, httpx.TransportError):
        return not isinstance(exc, (httpx.UnsupportedProtocol, httpx.LocalProtocolError))
    return isinstance(exc, (HttpError, ConnectionError, TimeoutError, socket.gaierror))


def is_pool_full(exc: BaseException) -> bool:
    """Was it our own limit on connections? Then it says nothing about the peer."""
    return isinstance(exc, (PoolFull, httpx.PoolTimeout))


_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110 §9.2.2."""


def is_ambiguous(exc: BaseException) -> bool:
    """May this failure have happened after the peer did the work, in a way that a repetition would do it twice?

    An error that does not tell its request says nothing about it, and is not called ambiguous.
    """
    if isinstance(exc, AmbiguousFailure):
        return True
    if not isinstance(exc, httpx.TransportError) or isinstance(exc, _NOT_SENT):
        return False
    try:
        return exc.request.method not in _IDEMPOTENT
    except RuntimeError:
        return False


def status_error(exc: BaseException) -> tuple[int, float | None] | None:
    """Status and `Retry-After` in seconds of an error raised by httpx's `raise_for_status()`, else `None`."""
    if not isinstance(exc, httpx.HTTPStatusError):
        return None
    return exc.response.status_code, parse_retry_after(exc.response.headers.get("retry-after"))


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header, a number or a date (RFC 9110 §10.2.3); `None` if it says nothing."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
