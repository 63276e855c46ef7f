"""The shared HTTP clients: one pool, no surprises, and failures split by whether the request may have had an effect."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import UTC, datetime

import httpx
import pytest

from app.core.http_client import (
    AmbiguousFailure,
    BodyTooLarge,
    ConnectFailed,
    close_http_client,
    get_http_client,
    get_http_client_for_media,
    is_ambiguous,
    is_network_error,
    parse_retry_after,
    request,
)
from tests.support.fakes import peer, read_request, response, set_limit


@pytest.fixture(autouse=True)
async def _closed_afterwards():
    yield
    await close_http_client()


async def test_everybody_gets_the_same_client():
    assert await get_http_client() is await get_http_client()
    assert await get_http_client_for_media() is not await get_http_client()


async def test_its_time_limits_are_the_documented_ones():
    assert (await get_http_client()).timeout == httpx.Timeout(connect=3, read=10, write=10, pool=3)
    assert (await get_http_client_for_media()).timeout == httpx.Timeout(connect=3, read=30, write=30, pool=3)


async def test_it_never_opens_more_than_a_hundred_connections():
    transport = (await get_http_client())._transport
    assert (transport.connections, transport.keepalive) == (100, 20)


async def test_closing_closes_both_may_be_repeated_and_the_next_use_opens_a_new_one():
    client, media = await get_http_client(), await get_http_client_for_media()
    await close_http_client()
    await close_http_client()
    assert client.is_closed
    assert media.is_closed
    assert not (await get_http_client()).is_closed


async def test_a_client_somebody_closed_by_mistake_is_replaced():
    await (await get_http_client()).aclose()
    assert not (await get_http_client()).is_closed


def test_each_event_loop_has_its_own():
    async def one():
        client = await get_http_client()
        await close_http_client()
        return id(client), client

    (_, first), (_, second) = asyncio.run(one()), asyncio.run(one())
    assert first is not second


async def test_environment_proxies_are_ignored(monkeypatch):
    """A token must not travel through whatever HTTP_PROXY says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    async def handler(reader, writer):
        await read_request(reader)
        writer.write(response(b"direct"))
        await writer.drain()

    async with peer(handler) as url:
        assert (await request("GET", url, timeout_seconds=5)).body == b"direct"


async def test_redirects_are_not_followed_and_cookies_not_kept():
    seen = []

    async def handler(reader, writer):
        for _ in range(2):
            _, headers, _ = await read_request(reader)
            seen.append(headers)
            writer.write(response(b"", status="302 Found", headers="location: /other\r\nset-cookie: a=b\r\n"))
            await writer.drain()

    async with peer(handler) as url:
        assert (await request("GET", url, timeout_seconds=5)).status == 302
        assert (await request("GET", url, timeout_seconds=5)).status == 302
    assert len(seen) == 2
    assert "cookie" not in seen[1]


async def test_a_payload_is_sent_as_json_and_any_status_comes_back():
    seen = []

    async def handler(reader, writer):
        seen.append(await read_request(reader))
        writer.write(response(b'{"no":1}', status="503 Busy", headers="Retry-After: 7\r\n"))
        await writer.drain()

    async with peer(handler) as url:
        answer = await request("POST", f"{url}/x", timeout_seconds=5, headers={"x-a": "b"}, payload={"é": 1})
    line, headers, body = seen[0]
    assert (line, headers["content-type"], headers["x-a"]) == ("POST /x HTTP/1.1", "application/json", "b")
    assert body == '{"é":1}'.encode()
    assert (answer.status, answer.headers["retry-after"], answer.json()) == (503, "7", {"no": 1})


async def test_a_refused_connection_certainly_sent_nothing():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed, match=r"^ConnectError$"):
        await request("POST", f"http://127.0.0.1:{port}/secret-path", timeout_seconds=5, payload={})


async def test_no_free_connection_certainly_sent_nothing(monkeypatch):
    set_limit("POOL_SECONDS", 0.05, monkeypatch)
    busy = asyncio.Event()

    async def handler(reader, _writer):
        busy.set()
        await reader.read()

    limits = httpx.Limits(max_connections=1)
    async with peer(handler) as url, httpx.AsyncClient(limits=limits, trust_env=False) as client:

        async def get_client():
            return client

        holder = asyncio.create_task(client.get(url))
        await busy.wait()
        with pytest.raises(ConnectFailed, match=r"^PoolTimeout$"):
            await request("POST", url, timeout_seconds=5, payload={}, get_client=get_client)
        holder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holder


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"])
async def test_a_connection_lost_after_the_request_is_ambiguous(answer):
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with peer(handler) as url:
        with pytest.raises(AmbiguousFailure):
            await request("POST", url, timeout_seconds=5, payload={})


async def test_silence_is_ambiguous_and_bounded():
    async def handler(reader, _writer):
        await reader.read()

    async with peer(handler) as url:
        async with asyncio.timeout(10):
            with pytest.raises(AmbiguousFailure):
                await request("POST", url, timeout_seconds=0.1, payload={})


async def test_a_body_that_drips_is_bounded_in_total_not_only_between_bytes():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with peer(handler) as url:
        async with asyncio.timeout(10):
            with pytest.raises(AmbiguousFailure, match=r"^TimeoutError$"):
                await request("GET", url, timeout_seconds=0.2)


async def test_a_body_is_not_read_beyond_its_bound():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(response(b"x" * 5000))
        await writer.drain()

    async with peer(handler) as url:
        with pytest.raises(BodyTooLarge):
            await request("GET", url, timeout_seconds=5, max_body_bytes=1000)


async def test_cancelling_a_request_gives_its_connection_back():
    asked = asyncio.Event()

    async def handler(reader, _writer):
        asked.set()
        await reader.read()

    async with peer(handler) as url:
        task = asyncio.create_task(request("GET", url, timeout_seconds=5))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            while (await get_http_client())._transport._connector.open:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("exc", "network", "ambiguous"),
    [
        (ConnectFailed(), True, False),
        (AmbiguousFailure(), True, True),
        (httpx.ConnectError("x"), True, False),
        (httpx.PoolTimeout("x"), True, False),
        (httpx.ReadTimeout("x"), True, False),
        (httpx.ReadTimeout("x", request=httpx.Request("GET", "http://x")), True, False),
        (httpx.ReadTimeout("x", request=httpx.Request("POST", "http://x")), True, True),
        (httpx.RemoteProtocolError("x", request=httpx.Request("POST", "http://x")), True, True),
        (httpx.ConnectTimeout("x", request=httpx.Request("POST", "http://x")), True, False),
        (httpx.UnsupportedProtocol("x"), False, False),
        (ConnectionResetError(), True, False),
        (TimeoutError(), True, False),
        (FileNotFoundError(), False, False),
        (ValueError(), False, False),
    ],
)
def test_which_errors_are_the_networks_and_which_of_them_ambiguous(exc, network, ambiguous):
    assert (is_network_error(exc), is_ambiguous(exc)) == (network, ambiguous)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("12", 12.0),
        ("Mon, 23 Nov 2026 00:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 00:00:30 -0000", 30.0),
        ("Sun, 22 Nov 2026 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value, seconds):
    assert parse_retry_after(value, now=datetime(2026, 11, 23, tzinfo=UTC)) == seconds
