"""What an exchange over HTTP costs, and what is said of one that fails: our client, what is beneath others, and floors.

    python -m tests.bench.http      # peers: httpx's own transport, httpx-aiohttp, pyreqwest, httpx2; floor: aiohttp

The server is another process that does nothing but answer. CPU is this process's, threads included. Each contender has a
turn in each round. The last line is for the process that started this one.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "backend"))

import httpx
import orjson
import uvloop

from app.core import http_client
from app.core.event_loop import ResolvingLoop
from app.core.http_client import ConnectFailed
from tests.bench.report import Bar, ratio, table, write_bars

ROUNDS = 5
EXCHANGES = 2_000
AT_ONCE = (1, 5, 50)
CHORUS, CHORUS_CLIENT, HTTPX = "Chorus: request()", "Chorus: client.post()", "httpx, its own transport"
AIOHTTP = "floor: aiohttp, without httpx"
PAYLOAD = {"messaging_product": "whatsapp", "to": "+33600000000", "type": "text", "text": {"body": "x" * 200}}
HEADERS = {"authorization": "Bearer a-token", "content-type": "application/json"}
ANSWER = b'{"messaging_product":"whatsapp","messages":[{"id":"wamid.HBgLMzM2MDAwMDAwMDAVAgARGBI"}]}'
LIMIT_SECONDS = 0.4
Exchange = Callable[[str], Awaitable[Any]]
"""Posts to a URL, and returns when it has the whole answer."""


# -- the contenders --


@asynccontextmanager
async def chorus() -> AsyncIterator[Exchange]:
    async def exchange(url: str) -> None:
        await http_client.request("POST", url, timeout_seconds=10, headers=HEADERS, payload=PAYLOAD)

    try:
        yield exchange
    finally:
        await http_client.close_http_client()


@asynccontextmanager
async def chorus_client() -> AsyncIterator[Exchange]:
    client = await http_client.get_http_client()
    try:
        yield lambda url: client.post(url, content=orjson.dumps(PAYLOAD), headers=HEADERS)
    finally:
        await http_client.close_http_client()


def over_httpx(library: Any, transport: Any = None) -> Any:
    """As our request() was before: a stream, read to its end."""

    @asynccontextmanager
    async def contender(limit_seconds: float = 10.0) -> AsyncIterator[Exchange]:
        limits = library.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4)
        timeout = library.Timeout(limit_seconds)
        options = {"limits": limits} if transport is None else {"transport": transport()}
        async with library.AsyncClient(trust_env=False, timeout=timeout, **options) as client:

            async def exchange(url: str) -> None:
                async with client.stream("POST", url, content=orjson.dumps(PAYLOAD), headers=HEADERS) as response:
                    async for _ in response.aiter_bytes():
                        pass

            yield exchange

    return contender


@asynccontextmanager
async def aiohttp_alone() -> AsyncIterator[Exchange]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session:

        async def exchange(url: str) -> None:
            async with session.post(url, data=orjson.dumps(PAYLOAD), headers=HEADERS) as response:
                await response.read()

        yield exchange


def contenders() -> tuple[dict[str, Any], list[str]]:
    """By name, and the ones that are not installed."""
    found: dict[str, Any] = {CHORUS: chorus, CHORUS_CLIENT: chorus_client, HTTPX: over_httpx(httpx)}
    absent = []

    def add(name: str, make: Callable[[], Any]) -> None:
        try:
            found[name] = make()
        except ImportError as exc:
            absent.append(f"  {name}: not installed ({exc.name})")

    def httpx_aiohttp() -> Any:
        from httpx_aiohttp import AiohttpTransport

        return over_httpx(httpx, AiohttpTransport)

    def pyreqwest() -> Any:
        from pyreqwest.compatibility.httpx import HttpxTransport

        return over_httpx(httpx, HttpxTransport)

    def httpx2() -> Any:
        import httpx2 as library

        return over_httpx(library)

    def floor() -> Any:
        import aiohttp  # noqa: F401

        return aiohttp_alone

    for name, make in (
        ("httpx over httpx-aiohttp", httpx_aiohttp), ("httpx over pyreqwest", pyreqwest), ("httpx2", httpx2), (AIOHTTP, floor),
    ):  # fmt: skip
        add(name, make)
    return found, absent


# -- what an exchange costs --


async def costs(url: str) -> tuple[list[str], list[Bar]]:
    found, lines = contenders()
    bars = []
    async with AsyncExitStack() as stack:
        exchanges = {name: await stack.enter_async_context(make()) for name, make in found.items()}
        for at_once in AT_ONCE:
            micros: dict[str, list[float]] = {name: [] for name in exchanges}
            for number in range(ROUNDS + 1):
                for name, exchange in exchanges.items():
                    cost = await _micros(exchange, url, at_once)
                    if number:  # the first one opens the connections
                        micros[name].append(cost)
            lines.append(table(f"CPU of an exchange, {at_once} at once, {ROUNDS} rounds", "µs", micros))
            share = ratio(micros[CHORUS], micros[HTTPX])
            bars.append(Bar(f"http: an exchange, {at_once} at once, of httpx's", share, 1 / 3, "x", at_most=True))
            shares = " · ".join(f"{name} {ratio(values, micros[HTTPX]):.2f}x" for name, values in micros.items())
            lines.append(f"  of httpx's: {shares}")
    return lines, bars


async def _micros(exchange: Exchange, url: str, at_once: int) -> float:
    async def several() -> None:
        for _ in range(EXCHANGES // at_once):
            await exchange(url)

    gc.collect()
    began = time.process_time()
    await asyncio.gather(*(several() for _ in range(at_once)))
    return (time.process_time() - began) / EXCHANGES * 1e6


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
        with suppress(OSError), connection:
            while connection.recv(1_000_000):
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
            verdict = await _verdict(name, found[name], good, then)
            wrong[name] += "TWICE" in verdict
            said.append(f"    {name:28}{verdict}")
        lines += [f"  {what}", *said]
    lines.append("a kept connection that the peer has closed, before the loop has read that:")
    stale = {name: await _stale(name, found[name]) for name in names}
    lines += [f"    {name:28}{verdict}" for name, verdict in stale.items()]
    return lines, [
        Bar("http: failures of Chorus' that would send twice", wrong[CHORUS], 0, at_most=True),
        Bar("http: requests of Chorus' lost on a connection known to be closed", stale[CHORUS] != "served", 0, at_most=True),
    ]  # fmt: skip


async def _verdict(name: str, make: Any, good: int, then: str) -> str:
    with Fickle(good, then) as peer:
        async with _limited(name, make) as exchange:
            for _ in range(good):
                await exchange(peer.url)
            try:
                await exchange(peer.url)
            except Exception as exc:  # noqa: BLE001  whatever a peer raises is what it says
                verdict = "not sent: it is SENT TWICE" if _is_not_sent(exc) else "ambiguous"
                arrived = peer.got - good
                more = "" if arrived == 1 else f", sent {arrived} times already"
                return f"{_name(exc)}: {verdict}{more}"
            return "served"


async def _stale(name: str, make: Any) -> str:
    with Fickle(0, "answer and close") as peer:
        async with _limited(name, make) as exchange:
            await exchange(peer.url)
            time.sleep(0.2)
            try:
                await exchange(peer.url)
            except Exception as exc:  # noqa: BLE001
                return f"{_name(exc)}: {'not sent' if _is_not_sent(exc) else 'ambiguous'}"
            return "served"


@asynccontextmanager
async def _limited(name: str, make: Any) -> AsyncIterator[Exchange]:
    if name != CHORUS:
        async with make(LIMIT_SECONDS) as exchange:
            yield exchange
        return
    async with make():

        async def exchange(url: str) -> None:
            await http_client.request("POST", url, timeout_seconds=LIMIT_SECONDS, headers=HEADERS, payload=PAYLOAD)

        yield exchange


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


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def measure(url: str) -> tuple[list[str], list[Bar]]:
    lines, bars = await costs(url)
    more, others = await failures()
    return [*lines, *more], [*bars, *others]


def main(arguments: Sequence[str]) -> None:
    if arguments:
        uvloop.run(serve())
        return
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.http", "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v23.0/123/messages"
        with asyncio.Runner(loop_factory=ResolvingLoop) as runner:
            lines, bars = runner.run(measure(url))
    finally:
        server.terminate()
        server.wait()
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, write_bars(bars)]))


if __name__ == "__main__":
    main(sys.argv[1:])
