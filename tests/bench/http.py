"""What an exchange over HTTP costs, and what is said of one that fails: our client, what is beneath others, and floors.

    python -m tests.bench.http      # peers: httpx's own transport, httpx-aiohttp, pyreqwest, httpx2; floor: aiohttp

The server is another process that does nothing but answer. CPU is this process's, threads included. An answer is three
exchanges, one after the other: the model, the receipt, the send. Each contender has a turn in each round. The last line
is for the process that started this one.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "backend"))

import httpx
import orjson
import uvloop

from app.core import http_client
from app.core.egress import Egress
from app.core.event_loop import ResolvingLoop
from app.core.http_client import ConnectFailed
from tests.bench.report import Bar, ratio, table, write_bars
from tests.support.tls import certificate_of

ROUNDS = 5
ANSWERS = 400
"""A round; three exchanges each."""
AT_ONCE: Mapping[int, float] = {1: 1 / 2, 20: 1 / 3, 100: 1 / 3}
"""And the share of httpx's cost that ours may have (ADR 18)."""
CHORUS, CHORUS_CLIENT, HTTPX = "Chorus: request()", "Chorus: client.post()", "httpx, its own transport"
AIOHTTP = "floor: aiohttp, without httpx"
PAYLOADS: Mapping[str, object] = {
    "/v1beta/models/a-model:generateContent": {"contents": [{"role": "user", "parts": [{"text": "x" * 2_000}]}]},
    "/v23.0/123/messages": {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.HBgLMzM2MDAwMDA"},
    "/v23.0/456/messages": {"messaging_product": "whatsapp", "to": "+33600000000", "text": {"body": "x" * 200}},
}
HEADERS = {"authorization": "Bearer a-token", "content-type": "application/json"}
ANSWER = b'{"messaging_product":"whatsapp","messages":[{"id":"wamid.HBgLMzM2MDAwMDAwMDAVAgARGBI"}]}'
LIMIT_SECONDS = 0.4
Exchange = Callable[[str, object], Awaitable[Any]]
"""Posts an object to a URL as JSON, and returns when it has the whole answer."""


@dataclass(frozen=True)
class Setup:
    """`authority`: the file of the certificate that vouches for the server, if it speaks TLS."""

    authority: Path | None = None
    limit_seconds: float = 10.0

    def context(self) -> Any:
        return ssl.create_default_context(cafile=self.authority) if self.authority else True


# -- the contenders --


@asynccontextmanager
async def chorus(setup: Setup) -> AsyncIterator[Exchange]:
    async def exchange(url: str, payload: object) -> None:
        await http_client.request("POST", url, timeout_seconds=setup.limit_seconds, headers=HEADERS, payload=payload)

    async with _our_clients(setup):
        yield exchange


@asynccontextmanager
async def chorus_client(setup: Setup) -> AsyncIterator[Exchange]:
    """As supabase-py uses it."""
    async with _our_clients(setup):
        client = await http_client.get_http_client()
        yield lambda url, payload: client.post(url, content=orjson.dumps(payload), headers=HEADERS)


@asynccontextmanager
async def _our_clients(setup: Setup) -> AsyncIterator[None]:
    http_client.leave_by(Egress(ca_file=str(setup.authority) if setup.authority else None))
    http_client.make_room_for(max(AT_ONCE))
    try:
        yield
    finally:
        await http_client.close_http_client()


def over_httpx(library: Any, transport: Callable[[Setup], Any] | None = None) -> Any:
    """As our request() was before: a stream, read to its end."""

    @asynccontextmanager
    async def contender(setup: Setup) -> AsyncIterator[Exchange]:
        limits = library.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4)
        timeout = library.Timeout(setup.limit_seconds)
        options = (
            {"limits": limits, "verify": setup.context()} if transport is None else {"transport": transport(setup)}
        )
        async with library.AsyncClient(trust_env=False, timeout=timeout, **options) as client:

            async def exchange(url: str, payload: object) -> None:
                async with client.stream("POST", url, content=orjson.dumps(payload), headers=HEADERS) as response:
                    async for _ in response.aiter_bytes():
                        pass

            yield exchange

    return contender


@asynccontextmanager
async def aiohttp_alone(setup: Setup) -> AsyncIterator[Exchange]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=100, ssl=setup.context())
    async with aiohttp.ClientSession(connector=connector) as session:

        async def exchange(url: str, payload: object) -> None:
            async with session.post(url, data=orjson.dumps(payload), headers=HEADERS) as response:
                await response.read()

        yield exchange


def contenders() -> tuple[dict[str, Any], list[str]]:
    """By name, and the ones that are not installed."""
    found: dict[str, Any] = {CHORUS: chorus, CHORUS_CLIENT: chorus_client, HTTPX: over_httpx(httpx)}
    absent = []

    def httpx_aiohttp() -> Any:
        from httpx_aiohttp import AiohttpTransport

        return over_httpx(httpx, lambda setup: AiohttpTransport(verify=setup.context()))

    def pyreqwest() -> Any:
        from pyreqwest.client import ClientBuilder
        from pyreqwest.compatibility.httpx import HttpxTransport

        def transport(setup: Setup) -> Any:
            # rustls believes no server that vouches for itself.
            return HttpxTransport(ClientBuilder().danger_accept_invalid_certs(setup.authority is not None).build())

        return over_httpx(httpx, transport)

    def httpx2() -> Any:
        import httpx2 as library

        return over_httpx(library)

    def floor() -> Any:
        import aiohttp  # noqa: F401  is it there?

        return aiohttp_alone

    others: dict[str, Callable[[], Any]] = {
        "httpx over httpx-aiohttp": httpx_aiohttp, "httpx over pyreqwest": pyreqwest, "httpx2": httpx2, AIOHTTP: floor,
    }  # fmt: skip
    for name, make in others.items():
        try:
            found[name] = make()
        except ImportError as exc:
            absent.append(f"  {name}: not installed ({exc.name})")
    return found, absent


# -- what an exchange costs --


async def costs(url: str, setup: Setup) -> tuple[list[str], list[Bar]]:
    found, lines = contenders()
    bars = []
    how = "TLS" if setup.authority else "no TLS"
    async with AsyncExitStack() as stack:
        exchanges = {name: await stack.enter_async_context(make(setup)) for name, make in found.items()}
        for at_once, most in AT_ONCE.items():
            micros: dict[str, list[float]] = {name: [] for name in exchanges}
            for number in range(ROUNDS + 1):
                for name, exchange in exchanges.items():
                    cost = await _micros(exchange, url, at_once)
                    if number:  # the first one opens the connections
                        micros[name].append(cost)
            lines.append(table(f"CPU of an exchange, {how}, {at_once} at once, {ROUNDS} rounds", "µs", micros))
            share = ratio(micros[CHORUS], micros[HTTPX])
            bars.append(Bar(f"http: an exchange, {how}, {at_once} at once, of httpx's", share, most, "x", at_most=True))
            shares = " · ".join(f"{name} {ratio(values, micros[HTTPX]):.2f}x" for name, values in micros.items())
            lines.append(f"  of httpx's: {shares}")
    return lines, bars


async def _micros(exchange: Exchange, url: str, at_once: int) -> float:
    async def several() -> None:
        for _ in range(ANSWERS // at_once):
            for path, payload in PAYLOADS.items():
                await exchange(url + path, payload)

    gc.collect()
    began = time.process_time()
    await asyncio.gather(*(several() for _ in range(at_once)))
    return (time.process_time() - began) / (ANSWERS // at_once * at_once * len(PAYLOADS)) * 1e6


# -- what is said of one that fails --


@dataclass
class Fickle:
    """In a thread of its own: answers the first `good` requests, then does `then`. Counts what arrived."""

    good: int
    then: str
    got: int = 0
    url: str = ""
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Fickle:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as requests:
            while _read_request(requests):
                self.got += 1
                if self.got <= self.good or self.then == "answer and close":
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
                    if self.then == "answer and close" and self.got == 1:
                        time.sleep(0.05)
                        return
                elif self.then == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                elif self.then == "close":
                    return
                elif self.then == "half":
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf")
                    return
                else:
                    time.sleep(2 * LIMIT_SECONDS)


def _read_request(requests: BinaryIO) -> bool:
    """False at the end of the connection."""
    length = 0
    while (line := requests.readline()) not in (b"", b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return bool(line) and len(requests.read(length)) == length


FAILURES: dict[str, tuple[int, str]] = {
    "closed after the request": (0, "close"),
    "closed, on a kept connection": (1, "close"),
    "reset after the request": (0, "reset"),
    "reset, on a kept connection": (1, "reset"),
    "half an answer": (0, "half"),
    "no answer": (0, "hang"),
}


async def failures() -> tuple[list[str], list[Bar]]:
    """What each contender says when the request arrived and the answer did not, by the rule of core/http_client.py: an
    error that it takes for "not sent" is repeated, and the customer gets the message twice."""
    found, _ = contenders()
    names = [name for name in found if name not in (CHORUS_CLIENT, AIOHTTP)]
    lines, wrong = ["what is said of a request that arrived and was not answered:"], dict.fromkeys(names, 0)
    for what, (good, then) in FAILURES.items():
        said = []
        for name in names:
            verdict = await _verdict(found[name], good, then)
            wrong[name] += "TWICE" in verdict
            said.append(f"    {name:28}{verdict}")
        lines += [f"  {what}", *said]
    lines.append("a kept connection that the peer has closed, before the loop has read that:")
    stale = {name: await _stale(found[name]) for name in names}
    lines += [f"    {name:28}{verdict}" for name, verdict in stale.items()]
    return lines, [
        Bar("http: failures of Chorus' that would send twice", wrong[CHORUS], 0, at_most=True),
        Bar("http: requests of Chorus' lost on a closed connection", stale[CHORUS] != "served", 0, at_most=True),
    ]  # fmt: skip


async def _verdict(make: Any, good: int, then: str) -> str:
    with Fickle(good, then) as peer:
        async with make(Setup(limit_seconds=LIMIT_SECONDS)) as exchange:
            for _ in range(good):
                await exchange(peer.url, {})
            try:
                await exchange(peer.url, {})
            except Exception as exc:  # noqa: BLE001  whatever a peer raises is what it says
                verdict = "not sent: it is SENT TWICE" if _is_not_sent(exc) else "ambiguous"
                arrived = peer.got - good
                more = "" if arrived == 1 else f", sent {arrived} times already"
                return f"{_name(exc)}: {verdict}{more}"
            return "served"


async def _stale(make: Any) -> str:
    with Fickle(0, "answer and close") as peer:
        async with make(Setup(limit_seconds=LIMIT_SECONDS)) as exchange:
            await exchange(peer.url, {})
            time.sleep(0.2)
            try:
                await exchange(peer.url, {})
            except Exception as exc:  # noqa: BLE001  as above
                return f"{_name(exc)}: {'not sent: it is SENT TWICE' if _is_not_sent(exc) else 'ambiguous'}"
            return "served"


def _is_not_sent(exc: Exception) -> bool:
    """By name: httpx2's exceptions are its own."""
    return isinstance(exc, ConnectFailed) or type(exc).__name__ in {each.__name__ for each in http_client._NOT_SENT}


def _name(exc: Exception) -> str:
    return f"{type(exc).__name__}({exc.__cause__ and type(exc.__cause__).__name__})"


# -- the server --


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import httptools

        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-fb-trace-id: AbCdEf\r\ncontent-length: %d\r\n\r\n"
        )
        self._transport.write(head % len(ANSWER) + ANSWER)


async def serve(files: Sequence[str]) -> None:
    """`files`: certificate and key. Prints the port without TLS and the one with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Answering, "127.0.0.1", 0, ssl=each) for each in (None, context)]
    sys.stdout.write(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers) + "\n")
    sys.stdout.flush()
    await servers[0].serve_forever()


async def measure(ports: Sequence[int], authority: Path) -> tuple[list[str], list[Bar]]:
    lines, bars = [], []
    for stage in (
        costs(f"http://127.0.0.1:{ports[0]}", Setup()),
        costs(f"https://127.0.0.1:{ports[1]}", Setup(authority)),
        failures(),
    ):
        said, judged = await stage
        lines += said
        bars += judged
    return lines, bars


def main(arguments: Sequence[str]) -> None:
    if arguments:
        uvloop.run(serve(arguments))
        return
    with TemporaryDirectory() as folder:
        authority, key = certificate_of(Path(folder))
        command = [sys.executable, "-m", "tests.bench.http", str(authority), str(key)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            ports = [int(port) for port in server.stdout.readline().split()]
            with asyncio.Runner(loop_factory=ResolvingLoop) as runner:
                lines, bars = runner.run(measure(ports, authority))
        finally:
            server.terminate()
            server.wait()
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, write_bars(bars)]))


if __name__ == "__main__":
    main(sys.argv[1:])
