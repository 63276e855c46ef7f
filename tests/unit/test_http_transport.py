"""Our transport beneath httpx: what a failure says about the request, and when a connection serves again."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.core import http_client
from app.core.egress import Egress
from app.core.http_client import (
    AmbiguousFailure,
    ConnectFailed,
    PoolFull,
    close_http_client,
    get_http_client,
    leave_by,
    request,
)
from app.core.network_trouble import network_cause
from tests.integration.test_egress import HttpProxy
from tests.support.fakes import peer, read_request, response, set_limit
from tests.support.patience import Within
from tests.support.tls import certificate_of, running_fronts


@pytest.fixture(autouse=True)
async def _closed_afterwards() -> AsyncIterator[None]:
    yield
    await close_http_client()
    leave_by(Egress())


class Peer:
    """Answers each request with `answers`, one after the other, the last one again and again; then does `after`."""

    def __init__(self, *answers: bytes, after: str = "") -> None:
        self.answers = list(answers) or [response(b"ok")]
        self.after = after
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.lost = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await read_request(reader))
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
                if self.after == "close":
                    return
                if self.after == "reset":
                    at_once = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                    writer.transport.abort()
                    return
        finally:
            self.lost.set()


async def connector() -> Any:
    return (await get_http_client())._transport._connector


async def all_closed() -> None:
    async with asyncio.timeout(10):
        while (await connector()).open:
            await asyncio.sleep(0.005)


async def turns() -> Any:
    return (await get_http_client())._transport._origins


# -- a connection that was kept --


async def test_one_that_the_peer_has_closed_is_not_used_even_if_the_loop_has_not_read_it_yet() -> None:
    """The peer is in another thread; the loop is not run between its closing and the next request."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    got: list[bytes] = []
    may_close, closed = threading.Event(), threading.Event()

    def serve(close: bool) -> None:
        connection, _ = listener.accept()
        got.append(connection.recv(65536))
        connection.sendall(response(b"ok"))
        if close:
            may_close.wait(5)
        else:
            connection.recv(1)
        connection.close()
        closed.set()

    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener:
        first = asyncio.create_task(asyncio.to_thread(serve, True))
        assert (await request("POST", url, timeout_seconds=5, payload={})).status == 200
        second = asyncio.create_task(asyncio.to_thread(serve, False))
        may_close.set()
        assert closed.wait(5), "the loop stands still: the end lies in the system's buffer"
        assert len((await connector()).open) == 1, "the loop knows nothing of it"
        assert (await request("POST", url, timeout_seconds=5, payload={})).status == 200
        await close_http_client()
        await asyncio.gather(first, second)
    assert len(got) == 2


async def test_one_that_the_peer_closes_is_forgotten_at_once() -> None:
    server = Peer(after="close")
    async with peer(server) as url:
        await request("GET", url, timeout_seconds=5)
        await all_closed()
        assert (await connector()).kept == {}


@pytest.mark.parametrize(
    "answer",
    [
        response(b"ok", headers="connection: close\r\n"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        response(b"ok") + response(b"not asked for"),
    ],
    ids=["close", "HTTP/1.0", "two answers"],
)
async def test_one_that_must_not_serve_again_does_not(answer: bytes) -> None:
    server = Peer(answer)
    async with peer(server) as url:
        for _ in range(2):
            assert (await request("GET", url, timeout_seconds=5)).body == b"ok"
    assert server.connections == 2


async def test_one_that_the_peer_made_another_protocol_of_does_not() -> None:
    server = Peer(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", response(b"ok"))
    async with peer(server) as url:
        assert (await request("GET", url, timeout_seconds=5)).status == 101
        assert (await request("GET", url, timeout_seconds=5)).status == 200
    assert server.connections == 2


async def test_one_that_said_what_was_not_asked_for_does_not_serve_again() -> None:
    """Else it would be taken for the answer to the next request."""
    came = asyncio.Event()
    connections = 0

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(response(b"ok"))
            await came.wait()
            writer.write(response(b"of another request"))
            await writer.drain()

    async with peer(talkative) as url:
        assert (await request("GET", url, timeout_seconds=5)).body == b"ok"
        came.set()
        protocol = next(iter((await connector()).kept))
        async with asyncio.timeout(10):
            while not protocol.should_close:
                await asyncio.sleep(0.005)
        assert (await request("GET", url, timeout_seconds=5)).body == b"ok"
    assert connections == 2


async def test_we_close_it_before_the_peer_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEPALIVE_SECONDS", 0.1)
    server = Peer()
    async with peer(server) as url:
        await request("GET", url, timeout_seconds=5)
        async with asyncio.timeout(10):
            await server.lost.wait()


async def test_one_to_another_host_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_room", http_client._Room(connections=2, keepalive=2, per_host=2))
    first, second = Peer(), Peer()
    async with peer(first) as one, peer(second) as other:
        for url in (one, one, other):
            await request("GET", url, timeout_seconds=5)
        assert len((await connector()).open) == 2
        await asyncio.gather(*(request("GET", other, timeout_seconds=5) for _ in range(2)))
        assert len((await connector()).kept) == 2
        async with asyncio.timeout(10):
            await first.lost.wait()


async def test_a_cancelled_exchange_closes_its_connection() -> None:
    lost = asyncio.Event()
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()
        lost.set()

    async with peer(hang) as url:
        task = asyncio.create_task(request("POST", url, timeout_seconds=5, payload={}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await lost.wait()
        assert await turns() == {}


async def test_a_caller_that_is_cancelled_in_the_line_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_room", http_client._Room(connections=1, keepalive=1, per_host=1))
    gate = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await gate.wait()
        writer.write(response(b"ok"))
        await writer.drain()

    async with peer(wait) as url, peer(Peer()) as other:
        first = asyncio.create_task(request("GET", url, timeout_seconds=5))
        await asyncio.sleep(0.02)
        lines = [asyncio.create_task(request("GET", at, timeout_seconds=5)) for at in (url, other)]
        await asyncio.sleep(0.02)
        for each in lines:
            each.cancel()
        await asyncio.wait(lines)
        gate.set()
        await first
        assert (await request("GET", other, timeout_seconds=5)).status == 200
        assert await turns() == {}


# -- certainly not sent --


async def test_a_name_that_does_not_exist_was_not_sent_and_says_so() -> None:
    with pytest.raises(ConnectFailed, match="ConnectError") as caught:
        await request("POST", "http://no-such-host.invalid/", timeout_seconds=5, payload={})
    cause = network_cause(caught.value)
    assert cause is not None
    assert cause.said == "the host name is unknown"


async def test_a_handshake_that_hangs_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limit("CONNECT_SECONDS", 0.1, monkeypatch)

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(hang) as url:
        with pytest.raises(ConnectFailed, match=r"^ConnectTimeout$"):
            await request("POST", url.replace("http:", "https:"), timeout_seconds=5, payload={})
        await all_closed()


async def test_a_peer_without_tls_was_sent_nothing_and_says_so() -> None:
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")
        await writer.drain()

    async with peer(plain) as url:
        with pytest.raises(ConnectFailed, match=r"^ConnectError$") as caught:
            await request("POST", url.replace("http:", "https:"), timeout_seconds=5, payload={})
    cause = network_cause(caught.value)
    assert cause is not None
    assert cause.said == "the port does not speak TLS"


async def test_an_unknown_certificate_was_sent_nothing_and_says_so(tmp_path: Path) -> None:
    server = Peer()
    with running_fronts(tmp_path) as fronts:
        async with peer(server) as url:
            port = fronts.before(urlsplit(url).port or 0)
            with pytest.raises(ConnectFailed, match=r"^ConnectError$") as caught:
                await request("POST", f"https://127.0.0.1:{port}/", timeout_seconds=5, payload={})
            await close_http_client()
            leave_by(Egress(ca_file=str(fronts.authority)))
            assert (await request("POST", f"https://127.0.0.1:{port}/", timeout_seconds=5, payload={})).status == 200
            await close_http_client()
    assert any(isinstance(each, ssl.SSLCertVerificationError) for each in _chain(caught.value))
    assert len(server.requests) == 1


def _chain(exc: BaseException | None) -> list[BaseException]:
    return [] if exc is None else [exc, *_chain(exc.__cause__)]


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "a\r\nadmin: 1"}, {"x": "a\r\n\r\nGET / HTTP/1.1"}, {"x": "a\nb"}, {"x": "a\rb"}, {"x": "a\0b"},
        {"a b": "1"}, {"a:b": "1"}, {"": "1"}, {"a: b\r\nc": "1"},
    ],
)  # fmt: skip
async def test_what_may_not_stand_in_a_head_is_not_sent(headers: dict[str, str]) -> None:
    server = Peer()
    async with peer(server) as url:
        with pytest.raises(ConnectFailed, match=r"^LocalProtocolError$"):
            await request("POST", url, timeout_seconds=5, headers=headers, payload={})
    assert server.connections == 0


async def test_of_several_addresses_one_that_leads_nowhere_delays_the_next_by_its_head_start_only(
    monkeypatch: pytest.MonkeyPatch, within: Within
) -> None:
    """127.0.0.2 takes no more connections: its line is full, and the system drops what asks for one."""
    loop = asyncio.get_running_loop()
    getaddrinfo = loop.getaddrinfo

    async def look_up(host: str, port: int, **hints: int) -> list[Any]:
        if host != "both.test":  # uvloop looks addresses up as well
            return await getaddrinfo(host, port, **hints)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    async with peer(Peer()) as url:
        port = urlsplit(url).port or 0
        with ExitStack() as full:
            listener = full.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
            for _ in range(4):
                waiting = full.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            started = time.monotonic()
            assert (await request("GET", f"http://both.test:{port}/", timeout_seconds=5)).status == 200
            assert 0.2 < time.monotonic() - started < within(1.5)


@pytest.mark.parametrize("says", [b"", b"nonsense\r\n\r\n"])
async def test_a_proxy_that_breaks_off_was_sent_nothing_of_the_request(says: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(says)
        await writer.drain()

    async with peer(broken) as proxy:
        leave_by(Egress(https_proxy=proxy))
        with pytest.raises(ConnectFailed, match=r"^ConnectError$") as caught:
            await request("POST", "https://127.0.0.1:1/", timeout_seconds=5, payload={})
    cause = network_cause(caught.value)
    assert cause is not None
    assert cause.setting == "HTTPS_PROXY"


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_proxy_that_is_reached_by_tls(tmp_path: Path, scheme: str) -> None:
    """TLS within TLS for an https URL."""
    server, proxy = Peer(), HttpProxy()
    with running_fronts(tmp_path) as fronts:
        async with peer(server) as url, peer(proxy.handle) as proxy_url:
            proxy_port, port = (fronts.before(urlsplit(each).port or 0) for each in (proxy_url, url))
            by_tls = f"https://u:p@127.0.0.1:{proxy_port}"
            leave_by(Egress(https_proxy=by_tls, http_proxy=by_tls, ca_file=str(fronts.authority)))
            where = f"https://127.0.0.1:{port}/x" if scheme == "https" else f"{url}/x"
            for _ in range(2):
                assert (await request("POST", where, timeout_seconds=5, payload={})).status == 200
            await close_http_client()
        assert fronts.encrypted[proxy_port] >= 1
    if scheme == "https":
        assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"]
        assert len(server.requests) == 2
    else:
        assert set(proxy.asked) == {f"POST {where}"}
    assert set(proxy.credentials) == {"Basic dTpw"}


async def test_no_turn_within_the_time_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limit("POOL_SECONDS", 0.05, monkeypatch)
    monkeypatch.setattr(http_client, "_room", http_client._Room(connections=1, keepalive=1, per_host=1))

    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()

    server = Peer()
    async with peer(hang) as url, peer(server) as other:
        stuck = asyncio.create_task(request("POST", url, timeout_seconds=30, payload={}))
        await arrived.wait()
        for at in (url, other):
            with pytest.raises(PoolFull):
                await request("POST", at, timeout_seconds=5, payload={})
        stuck.cancel()
        await asyncio.wait([stuck])
    assert server.connections == 0


async def test_the_time_limit_of_the_whole_says_if_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_room", http_client._Room(connections=9, keepalive=1, per_host=1))
    monkeypatch.setattr(http_client, "_timeout", lambda _seconds: httpx.Timeout(5))

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(hang) as url:
        with pytest.raises(ConnectFailed, match=r"^TimeoutError while connecting$"):
            await request("POST", url.replace("http:", "https:"), timeout_seconds=0.1, payload={})
        stuck = asyncio.create_task(request("POST", url, timeout_seconds=5, payload={}))
        await asyncio.sleep(0.02)
        with pytest.raises(PoolFull, match=r"^TimeoutError while waiting for its turn$"):
            await request("POST", url, timeout_seconds=0.1, payload={})
        with pytest.raises(PoolFull, match=r"^PoolTimeout$"):
            async with asyncio.timeout(4):
                await request("POST", url, timeout_seconds=5, payload={}, waits_for_turn=False)
        stuck.cancel()
        await asyncio.wait([stuck])
        with pytest.raises(AmbiguousFailure, match=r"^TimeoutError$"):
            await request("POST", url, timeout_seconds=0.1, payload={})


# -- perhaps sent --

_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "after", "error"),
    [
        (b"", "close", "RemoteProtocolError"),
        (b"", "reset", "ReadError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "close", "RemoteProtocolError"),
        (_CHUNKED + b"4\r\nha", "close", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "close", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9\r\n", "", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\na: " + b"a" * 200_000, "", "RemoteProtocolError"),
        (b"HTTP/1.1 103 Early\r\na: b\r\n\r\n" * 8_000, "close", "(RemoteProtocolError|TimeoutError)"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"a" * 200_000,
            "",
            "(RemoteProtocolError|TimeoutError)",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", "", "RemoteProtocolError"),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
async def test_after_the_request_left_a_failure_is_ambiguous_and_nothing_is_repeated(
    answer: bytes, after: str, error: str, kept: bool
) -> None:
    server = Peer(*([response(b"ok")] if kept else []), answer)
    async with peer(server) as url:
        if kept:
            await request("GET", url, timeout_seconds=5)
        server.after = after
        with pytest.raises(AmbiguousFailure, match=rf"^{error}$"):
            await request("POST", url, timeout_seconds=1, payload={})
        assert [line.split()[0] for line, _, _ in server.requests].count("POST") == 1
        await all_closed()
        assert await turns() == {}


async def test_a_get_is_not_repeated_either() -> None:
    server = Peer(response(b"ok"), b"")
    async with peer(server) as url:
        await request("GET", url, timeout_seconds=5)
        server.after = "close"
        with pytest.raises(AmbiguousFailure):
            await request("GET", url, timeout_seconds=5)
    assert len(server.requests) == 2


async def test_a_body_that_the_peer_does_not_take_is_bounded_and_ambiguous() -> None:
    async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with peer(hang) as url:
        client = await get_http_client()
        limits = httpx.Timeout(1, write=0.2)
        with pytest.raises(httpx.WriteTimeout) as caught:
            await client.post(url, content=b"x" * 50_000_000, timeout=limits)
        assert caught.value.request.method == "POST"
        await all_closed()


async def test_closing_waits_for_no_peer() -> None:
    async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with peer(hang) as url:
        client = await get_http_client()
        stuck = asyncio.create_task(client.post(url, content=b"x" * 50_000_000))
        async with asyncio.timeout(5):
            while not (await connector()).open:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(10):
            await close_http_client()
            with pytest.raises(httpx.TransportError) as caught:
                await stuck
    assert http_client.is_ambiguous(caught.value)


async def test_a_peer_that_falls_silent_within_tls_holds_no_connection(tmp_path: Path) -> None:
    """It takes no farewell either."""
    silent = asyncio.Event()
    asked = asyncio.Event()
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it reads as well
        asked.set()
        await silent.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # it reads as well
        await reader.read()
        closed.set()

    certificate, key = certificate_of(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    leave_by(Egress(ca_file=str(certificate)))
    server = await asyncio.start_server(hang, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(AmbiguousFailure):
            await request("POST", url, timeout_seconds=0.5, payload={})
        assert asked.is_set()
        await all_closed()
        silent.set()
        async with asyncio.timeout(10):
            await closed.wait()


async def test_silence_is_bounded_by_the_time_to_read() -> None:
    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(hang) as url:
        with pytest.raises(httpx.ReadTimeout):
            await (await get_http_client()).post(url, timeout=httpx.Timeout(5, read=0.1))


async def test_an_answer_before_the_body_was_taken_counts() -> None:
    read = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"too large", status="413 Content Too Large", headers="connection: close\r\n"))
        await writer.drain()
        await read.wait()

    async with peer(refuse) as url:
        answer = await (await get_http_client()).post(url, content=b"x" * 20_000_000)
        read.set()
        assert (answer.status_code, answer.text) == (413, "too large")
        assert (await connector()).kept == {}


# -- forms of an answer and of a request --


@pytest.mark.parametrize(
    ("answer", "after", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nt: u\r\n\r\n", "", 200, b"ab"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", "close", 200, b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "", 304, b""),
        (b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\nx", "", 201, b"x"),
        (b"HTTP/1.1 100\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", 200, b""),
        (response(b"ok", headers="connection: upgrade\r\nupgrade: h2c\r\n"), "", 200, b"ok"),
    ],
)  # fmt: skip
async def test_every_form_of_an_answer_is_read(answer: bytes, after: str, status: int, body: bytes) -> None:
    server = Peer(answer, after=after)
    async with peer(server) as url:
        for _ in range(2):
            got = await request("GET", url, timeout_seconds=5)
            assert (got.status, got.body) == (status, body)
            assert not {"link", "t"} & set(got.headers)
    assert server.connections == (2 if after else 1)


async def test_byte_by_byte_is_read_as_well() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in b"HTTP/1.1 200 Fine so far\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with peer(drip) as url:
        answer = await (await get_http_client()).get(url)
    assert (answer.status_code, answer.reason_phrase, answer.headers["x"]) == (200, "Fine so far", "y")
    assert answer.content == b"ab"


async def test_a_reason_that_is_no_text_does_no_harm() -> None:
    async with peer(Peer(b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: 2\r\n\r\nok")) as url:
        answer = await (await get_http_client()).get(url)
    assert answer.text == "ok"


async def test_what_leaves_is_what_was_asked_for() -> None:
    """No header of aiohttp's own."""
    server = Peer()
    async with peer(server) as url:
        await request("GET", f"{url}/a%2Fb%20c?d=%C3%A9&e=+", timeout_seconds=5)
        await request("POST", url, timeout_seconds=5, headers={"X-Own": "e"}, payload={})
    (get, of_get, _), (_, of_post, body) = server.requests
    assert get == "GET /a%2Fb%20c?d=%C3%A9&e=+ HTTP/1.1"
    ours = {"host", "accept", "accept-encoding", "user-agent"}
    assert set(of_get) == ours
    assert set(of_post) == ours | {"content-type", "content-length", "x-own"}
    assert body == b"{}"


async def test_a_long_payload_says_how_long_it_is() -> None:
    """It leaves in pieces, but not in chunks, which some receivers do not take."""
    server = Peer()
    async with peer(server) as url:
        await request("POST", url, timeout_seconds=5, payload={"text": "x" * 200_000})
    ((_, headers, body),) = server.requests
    assert headers["content-length"] == str(len(body)) == str(len('{"text":""}') + 200_000)
    assert "transfer-encoding" not in headers


async def test_no_cookie_reaches_the_next_request() -> None:
    """By name: aiohttp keeps none of an address."""
    server = Peer(response(b"ok", headers="set-cookie: account=1; path=/\r\n"))
    async with peer(server) as url:
        for _ in range(2):
            await request("GET", url.replace("127.0.0.1", "localhost"), timeout_seconds=5)
    assert ["cookie" in headers for _, headers, _ in server.requests] == [False, False]


async def test_a_long_header_is_read() -> None:
    async with peer(Peer(response(b"ok", headers=f"content-security-policy: {'x' * 50_000}\r\n"))) as url:
        answer = await request("GET", url, timeout_seconds=5)
    assert len(answer.headers["content-security-policy"]) == 50_000


async def test_head_has_no_body_whatever_its_length() -> None:
    server = Peer(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
    async with peer(server) as url:
        for _ in range(2):
            assert (await request("HEAD", url, timeout_seconds=2)).body == b""


async def test_a_body_in_pieces_is_sent_in_chunks() -> None:
    got = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(response(b"ok"))
        await writer.drain()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"", b"two"):
            yield piece

    async with peer(take) as url:
        assert (await (await get_http_client()).post(url, content=pieces())).status_code == 200
    assert bytes(got).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_reader_that_is_slow_holds_the_peer_back() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n")
        for _ in range(300):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with peer(flood) as url, (await get_http_client()).stream("GET", url) as answer:
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 20_000_000
        size = 0
        async for piece in answer.aiter_raw():
            size += len(piece)
        assert size == 30_000_000


async def test_an_answer_that_is_not_read_to_its_end_costs_the_connection_only() -> None:
    server = Peer(response(b"x" * 400_000))
    async with peer(server) as url:
        for _ in range(2):
            async with (await get_http_client()).stream("GET", url) as answer:
                assert answer.status_code == 200
        await all_closed()
        assert await turns() == {}


# -- what httpx offers besides --


async def test_a_user_in_the_url_becomes_basic_authentication() -> None:
    server = Peer()
    async with peer(server) as url:
        await request("GET", url.replace("://", "://user:p%40ss@"), timeout_seconds=5)
        await (await get_http_client()).get(url, auth=("user", "p@ss"))
    assert {headers["authorization"] for _, headers, _ in server.requests} == {"Basic dXNlcjpwQHNz"}


async def test_a_caller_may_ask_for_redirects_and_reads_how_long_it_took() -> None:
    server = Peer(response(b"", status="302 Found", headers="location: /there\r\n"), response(b"there"))
    async with peer(server) as url:
        answer = await (await get_http_client()).get(url, follow_redirects=True)
        assert (answer.text, [each.status_code for each in answer.history]) == ("there", [302])
        assert (await (await get_http_client()).get(url)).elapsed.total_seconds() > 0


async def test_our_headers_go_along_and_a_callers_take_their_place() -> None:
    server = Peer()
    async with peer(server) as url:
        await request("GET", url, timeout_seconds=5)
        await request("GET", url, timeout_seconds=5, headers={"user-agent": "another"})
        await (await get_http_client()).get(url)
    agents = [headers["user-agent"] for _, headers, _ in server.requests]
    assert agents == ["chorus", "another", "chorus"]
    assert {headers["accept-encoding"] for _, headers, _ in server.requests} == {"identity"}


async def test_a_url_that_is_none_is_not_sent() -> None:
    for url in ("ftp://127.0.0.1/", "http:///", "127.0.0.1/x"):
        with pytest.raises(ConnectFailed, match=r"^UnsupportedProtocol$"):
            await request("GET", url, timeout_seconds=5)
