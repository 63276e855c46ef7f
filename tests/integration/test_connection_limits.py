"""What a client may send before it is known, and for how long: a real server, bytes that no client library sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send

from app.api.http_protocol import ConnectionLimits
from tests.support.patience import Within
from tests.support.serving import served

LIMITS = ConnectionLimits(
    connections=20,
    receive_seconds=0.3,
    idle_seconds=0.6,
    unread_seconds=0.4,
    linger_seconds=0.3,
    discarded_bytes=200_000,
)
PATIENT = replace(LIMITS, receive_seconds=30, idle_seconds=30, unread_seconds=30)
HEAD = b"POST /read HTTP/1.1\r\nHost: x\r\n"


class App:
    """`/read` answers the size of the body, `/early` before it has read it, `/hold` when `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.held = 0
        self.seen: list[Scope] = []
        self.left: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        path, size = scope["path"], 0
        while path in ("/read", "/hold"):
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(path)
                return
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        if path == "/hold":
            self.held += 1
            await self.gate.wait()
        self.seen.append(scope)
        body = b"x" * 30_000_000 if path == "/large" else b"%d" % size
        closes = [(b"connection", b"close")] if path == "/refuse" else []
        headers = [(b"content-length", b"%d" % len(body)), *closes]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, _, rest = head.partition("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in rest.strip().split("\r\n"))
            return int(status.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bytes:
        """What still comes until the server closes, which is a reset where it leaves words of ours unread."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


class Server:
    def __init__(self, url: str, app: App) -> None:
        self.app = app
        self._port = int(url.rpartition(":")[2])
        self._clients: list[Client] = []

    async def connect(self, data: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(client)
        client.send(data)
        return client

    async def refused(self, data: bytes, status: int) -> Client:
        client = await self.connect(data)
        answer, headers, body = await client.answer()
        assert (answer, headers["connection"]) == (status, "close"), body
        assert await client.is_closed() == b""
        return client

    def close(self) -> None:
        for client in self._clients:
            client.writer.close()


@asynccontextmanager
async def server(limits: ConnectionLimits = LIMITS, **config: Any) -> AsyncIterator[Server]:
    app = App()
    async with served(app, limits, look_seconds=0.05, **config) as url:
        found = Server(url, app)
        try:
            yield found
        finally:
            app.gate.set()
            found.close()


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("chorus_http_connections_ended_total", {"reason": reason}) or 0.0


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 40_000,
        b"GET /" + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"\r\n" * 20_000,
    ],
    ids=["value", "name", "path", "complete", "many", "empty-lines"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    before = ended("headers_too_large")
    async with server(PATIENT) as at:
        await at.refused(head, 431)
        assert at.app.seen == []
    assert ended("headers_too_large") == before + 1


async def test_a_head_that_arrives_in_pieces_is_counted_as_a_whole() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        for _ in range(8):
            client.send(b"a" * 5_000)
            await client.writer.drain()
        assert (await client.answer())[0] == 431


@pytest.mark.parametrize("size", [20_000])
async def test_a_long_head_within_the_limit_is_taken(size: int) -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * size + b"\r\n\r\n")
        assert (await client.answer())[0] == 200


async def test_a_head_that_does_not_end_in_time_is_408_also_on_a_connection_that_was_used() -> None:
    async with server() as at:
        await at.refused(b"GET / HTTP/1.1\r\nHost: x\r\n", 408)
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer())[0] == 200
        client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.answer())[0] == 408
        assert await client.is_closed() == b""


async def test_a_head_that_comes_one_byte_at_a_time_gains_no_time(within: Within) -> None:
    async with server() as at:
        client = await at.connect()
        started = time.monotonic()

        async def drip() -> None:
            for byte in HEAD * 20:
                client.send(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await client.answer())[0] == 408
        dripping.cancel()
        assert time.monotonic() - started < within(2)


async def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    async with server() as at:
        assert await (await at.connect()).is_closed() == b""


async def test_a_connection_may_be_idle_between_requests_but_not_for_ever() -> None:
    async with server(replace(LIMITS, receive_seconds=0.2, idle_seconds=1.5)) as at:
        started = time.monotonic()
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        assert await client.is_closed() == b""
        assert time.monotonic() - started > 1


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [HEAD + b"Content-Length: 10\r\n\r\n123", HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n"]
)
async def test_a_body_that_does_not_end_in_time_is_408_and_the_application_is_told(start: bytes) -> None:
    async with server() as at:
        await at.refused(start, 408)
        assert at.app.left == ["/read"]
        assert at.app.seen == []


async def test_a_large_body_by_a_slow_line_has_the_time_that_it_takes() -> None:
    async with server(replace(LIMITS, receive_seconds=0.2, body_bytes_per_second=50_000)) as at:
        client = await at.connect(HEAD + b"Content-Length: 250000\r\n\r\n")
        for _ in range(5):
            client.send(bytes(50_000))
            await asyncio.sleep(0.3)  # time itself: the server looks once a second
        assert (await client.answer())[::2] == (200, b"250000")


async def test_a_body_may_come_in_pieces() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(HEAD + b"Content-Length: 300000\r\n\r\n")
        for _ in range(30):
            client.send(b"x" * 10_000)
            await asyncio.sleep(0)
        assert (await client.answer())[::2] == (200, b"300000")


async def test_what_stands_between_chunks_is_bounded_and_trailers_are_no_headers() -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    async with server(PATIENT) as at:
        client = await at.connect(chunked + b"0\r\nX-Hub-Signature-256: a\r\n\r\n")
        assert (await client.answer())[0] == 200
        assert b"x-hub-signature-256" not in dict(at.app.seen[0]["headers"])
        for endless in (b"0\r\nA: ", b"1;"):
            client = await at.connect(chunked)
            client.send(endless)
            for _ in range(20):
                client.send(b"a" * 5_000)
                await asyncio.sleep(0.001)
            assert (await client.answer())[0] in (400, 431)
            assert await client.is_closed() == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", b"Content-Length: -1\r\n\r\n", b"Content-Length: 1x\r\n\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n", b"Transfer-Encoding: chunked\r\n\r\n\xff\x00\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", b"Transfer-Encoding: gzip\r\n\r\nx",
        b"A\x00: b\r\n\r\n", b" folded: x\r\n\r\n", b"\x80: y\r\n\r\n",
    ],
)  # fmt: skip
async def test_garbage_is_400_and_closes(garbage: bytes) -> None:
    async with server(PATIENT) as at:
        await at.refused(HEAD + garbage, 400)


# -- several requests on a connection ----------------------------------------------------------------------------------


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with server(PATIENT) as at:
        sizes = range(PATIENT.requests_ahead + 1)
        client = await at.connect(b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % n + b"x" * n for n in sizes))
        assert [(await client.answer())[2] for _ in sizes] == [b"%d" % n for n in sizes]
        client.send(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert (await client.answer())[2] == b"1"


async def test_an_error_behind_good_requests_waits_for_their_answers() -> None:
    good = b"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx"
    for bad in (
        b"nonsense\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"a: b\r\n" * 200 + b"\r\n",
    ):
        async with server(PATIENT) as at:
            client = await at.connect(good * 3 + bad)
            async with asyncio.timeout(10):
                while not at.app.held:
                    await asyncio.sleep(0.01)
            at.app.gate.set()
            answers = [await client.answer() for _ in range(3)]
            assert [status for status, *_ in answers] == [200] * 3
            assert ["connection" in headers for _, headers, _ in answers] == [False, False, True]
            assert await client.is_closed() == b""


async def test_too_many_requests_ahead_are_not_taken_and_the_last_answer_says_so() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        everything = await client.is_closed()
        assert everything.count(b"HTTP/1.1 200 OK") == PATIENT.requests_ahead + 1
        assert everything.lower().count(b"connection: close") == 1
        assert everything.lower().rindex(b"connection: close") > everything.rindex(b"HTTP/1.1 200 OK")


async def test_after_an_early_answer_the_rest_of_the_body_is_not_taken_for_a_request() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        assert (await client.answer())[0] == 200
        client.send(b"GET / HTTP/1.1\r\n\r\n".ljust(60_000, b"x") + HEAD + b"Content-Length: 1\r\n\r\nx")
        assert (await client.answer())[2] == b"1"
        assert [scope["path"] for scope in at.app.seen] == ["/early", "/read"]


async def test_after_an_early_answer_only_so_much_is_thrown_away_and_only_for_so_long() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        assert (await client.answer())[0] == 200
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 9_000_000:
                client.send(b"x" * 65536)
                await client.writer.drain()
                sent += 65536
        assert sent < 9_000_000
    async with server() as at:
        client = await at.connect(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\nx")
        assert (await client.answer())[0] == 200
        assert await client.is_closed() == b""


async def test_an_answer_that_closes_arrives_although_the_body_is_still_on_its_way() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(
            b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\n\r\n" + b"x" * 150_000
        )
        await client.writer.drain()
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.is_closed() == b""


@pytest.mark.parametrize("other", [b"websocket", b"h2c", b"x/1"])
@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", HEAD + b"Content-Length: 0\r\n"])
async def test_an_upgrade_is_answered_as_an_ordinary_request_and_closes(other: bytes, start: bytes) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n" % other
    )
    async with server(PATIENT) as at:
        await at.refused(start + upgrade + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", 200)
        assert [scope["type"] for scope in at.app.seen] == ["http"]


@pytest.mark.parametrize("line", [b"CONNECT x:443 HTTP/1.1", b"PRI * HTTP/2.0", b"GET x HTTP/1.1", b"GET / HTTP/9.9"])
async def test_a_target_that_is_no_path_is_400(line: bytes) -> None:
    async with server(PATIENT) as at:
        await at.refused(line + b"\r\nHost: x\r\n\r\n", 400)
        assert at.app.seen == []


# -- connections -------------------------------------------------------------------------------------------------------


async def test_at_the_limit_the_connection_that_waits_longest_gives_way_and_requests_under_way_do_not() -> None:
    before = ended("gave_way")
    async with server(PATIENT) as at:
        busy = [await at.connect(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(5)]
        async with asyncio.timeout(10):
            while at.app.held < 5:
                await asyncio.sleep(0.01)
        halves = [await at.connect(b"GET / HTTP/1.1\r\n") for _ in range(40)]
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer())[0] == 200
        for half in halves[:25]:
            assert await half.is_closed() == b""
        at.app.gate.set()
        assert [(await each.answer())[0] for each in busy] == [200] * 5
    assert ended("gave_way") == before + 26


async def test_when_every_connection_is_busy_a_new_one_is_told_to_come_back() -> None:
    async with server(PATIENT) as at:
        busy = [await at.connect(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(20)]
        async with asyncio.timeout(10):
            while at.app.held < 20:
                await asyncio.sleep(0.01)
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"], "retry-after" in headers) == (503, "close", True)
        at.app.gate.set()
        assert [(await each.answer())[0] for each in busy] == [200] * 20


async def test_a_client_that_does_not_read_its_answer_is_ended() -> None:
    before = ended("unread_answer")
    async with server() as at:
        await at.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            while ended("unread_answer") == before:
                await asyncio.sleep(0.02)


async def test_a_client_that_reads_slowly_gets_the_whole_answer() -> None:
    async with server(replace(LIMITS, receive_seconds=0.2, idle_seconds=0.2, linger_seconds=0.1)) as at:
        client = await at.connect(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while chunk := await client.reader.read(1_000_000):
            size += len(chunk)
            await asyncio.sleep(0.01)
        assert size > 30_000_000


async def test_half_a_request_does_not_hold_up_the_end_of_the_server(within: Within) -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.answer()
        for half in (b"", b"GET / HTTP/1.1\r\n"):
            await at.connect(half)
        await (await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).answer()
        started = time.monotonic()
    assert time.monotonic() - started < within(3)


async def test_when_the_client_goes_requests_sent_ahead_are_not_started() -> None:
    async with server(PATIENT) as at:
        client = await at.connect(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        async with asyncio.timeout(10):
            while not at.app.held:
                await asyncio.sleep(0.01)
        client.writer.transport.abort()
        # The server has read the end of that connection before it answers on this one.
        await (await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).answer()
        at.app.gate.set()
        async with asyncio.timeout(10):
            while len(at.app.seen) < 2:
                await asyncio.sleep(0.01)
        await (await at.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).answer()
    assert at.app.held == 1
