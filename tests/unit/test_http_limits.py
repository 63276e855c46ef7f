"""The pool and one host's share of it, and what may be fetched with a token from a URL that came from outside."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from contextlib import AsyncExitStack

import httpx
import orjson
import pytest

from app.core import http_client
from app.core.circuit_breaker import IGNORED, default_classify
from app.core.http_client import (
    AmbiguousFailure,
    BodyTooLarge,
    ForbiddenHost,
    PoolFull,
    close_http_client,
    download,
    get_http_client,
    get_http_client_for_media,
    get_http_client_for_probes,
    request,
)
from tests.support.fakes import peer, read_request, response, set_limit


@pytest.fixture(autouse=True)
async def _closed_afterwards():
    yield
    await close_http_client()


async def hang(reader, _writer):
    await reader.read()


async def answer(reader, writer):
    while True:
        await read_request(reader)
        writer.write(response(b"ok"))
        await writer.drain()


async def test_a_host_that_hangs_cannot_take_the_pool_from_another(monkeypatch):
    set_limit("POOL_SECONDS", 0.05, monkeypatch)
    async with peer(hang) as gemini, peer(answer) as whatsapp:
        stuck = [
            asyncio.create_task(request("POST", gemini, timeout_seconds=30, payload={}))
            for _ in range(http_client.MAX_CONNECTIONS + 20)
        ]
        finished, _ = await asyncio.wait(stuck[http_client.MAX_PER_HOST :], timeout=20)
        waiting = [task for task in stuck if not task.done()]
        assert len(waiting) == http_client.MAX_PER_HOST
        assert {type(task.exception()) for task in finished} == {PoolFull}
        answers = await asyncio.gather(*(request("GET", whatsapp, timeout_seconds=5) for _ in range(40)))
        assert {one.status for one in answers} == {200}
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert (await get_http_client())._transport._origins == {}


class Host:
    """Counts its connections; answers once its gate is open."""

    def __init__(self):
        self.open = self.served = 0
        self.gate = asyncio.Event()

    async def __call__(self, reader, writer):
        self.open += 1
        self.served += 1
        try:
            while True:
                await read_request(reader)
                await self.gate.wait()
                writer.write(response(b"ok"))
                await writer.drain()
        finally:
            self.open -= 1


async def test_a_hundred_connections_over_all_hosts_and_twenty_of_them_kept(monkeypatch):
    for limit in ("POOL_SECONDS", "CONNECT_SECONDS"):  # on a busy machine a hundred connections take seconds
        set_limit(limit, 60, monkeypatch)
    hosts = [Host() for _ in range(3)]

    def connections():
        return sum(host.open for host in hosts)

    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(peer(host)) for host in hosts]
        wanted = http_client.MAX_PER_HOST
        asking = [asyncio.create_task(request("GET", url, timeout_seconds=60)) for url in urls for _ in range(wanted)]
        async with asyncio.timeout(50):
            while connections() < http_client.MAX_CONNECTIONS:
                await asyncio.sleep(0.005)
        origins = (await get_http_client())._transport._origins.values()
        assert sum(turns.users for turns in origins) == 3 * wanted, "all have asked, a third of them waits"
        assert connections() == http_client.MAX_CONNECTIONS
        for host in hosts:
            host.gate.set()
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {200}
        async with asyncio.timeout(5):
            while connections() > http_client.MAX_KEEPALIVE:
                await asyncio.sleep(0.005)
        assert connections() == http_client.MAX_KEEPALIVE


async def test_requests_in_a_row_share_a_connection():
    host = Host()
    host.gate.set()
    async with peer(host) as url:
        for _ in range(10):
            assert (await request("GET", url, timeout_seconds=5)).status == 200
        assert host.served == 1


async def test_our_own_full_pool_says_nothing_about_the_peer():
    assert default_classify(PoolFull()) is IGNORED


async def test_a_token_goes_to_no_other_host(monkeypatch):
    asked = []

    async def never(*_args, **kwargs):
        asked.append((kwargs["timeout_seconds"], kwargs["get_client"]))

    async def take(*_args):
        return None

    monkeypatch.setattr(http_client, "_exchange", never)
    for url in (
        "https://evil.test/x", "https://fbsbx.com.evil.test/x", "http://lookaside.fbsbx.com/x", "None",
        "https://evilfbsbx.com/x", "https://lookaside.fbsbx.com:8443/x", "https://a:b@evil.test/.fbsbx.com",
    ):  # fmt: skip
        with pytest.raises(ForbiddenHost):
            await download(url, allowed_hosts=(".fbsbx.com",), headers={"authorization": "Bearer t"}, take=take)
    assert asked == []
    await download("https://lookaside.fbsbx.com/x", allowed_hosts=(".fbsbx.com",), headers={}, take=take)
    assert asked == [(30, get_http_client_for_media)]


@pytest.mark.parametrize(
    ("encoding", "layers"), [("gzip", 1), ("deflate", 1), ("gzip, gzip", 2), ("br", 1), ("zstd", 1)]
)
async def test_a_packed_body_is_bounded_by_what_comes_out_of_it(encoding, layers):
    """64 MB of zeros are 65 KB packed once and less than a kilobyte packed twice."""
    packed = bytes(64_000_000)
    for _ in range(layers):
        packed = zlib.compress(packed) if encoding == "deflate" else gzip.compress(packed)

    async def bomb(reader, writer):
        _, headers, _ = await read_request(reader)
        assert headers["accept-encoding"] == "identity"
        writer.write(response(packed, headers=f"content-encoding: {encoding}\r\n"))
        await writer.drain()

    tracemalloc.start()
    try:
        async with peer(bomb) as url:
            with pytest.raises(AmbiguousFailure):
                await request("GET", url, timeout_seconds=10)
            client = await get_http_client()
            with pytest.raises((BodyTooLarge, httpx.DecodingError)):
                await client.get(url)  # as supabase-py reads
            assert client._transport._origins == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", "GZIP, identity"])
async def test_a_body_that_a_proxy_packed_is_read(encoding):
    said = orjson.dumps({"text": "é" * 300_000})
    packed = {"deflate": zlib.compress, "identity": bytes}.get(encoding, gzip.compress)(said)

    async def pack(reader, writer):
        await read_request(reader)
        writer.write(response(packed, headers=f"content-encoding: {encoding}\r\n"))
        await writer.drain()

    async with peer(pack) as url:
        assert (await request("GET", url, timeout_seconds=5)).body == said
        assert (await (await get_http_client()).get(url)).json() == orjson.loads(said)


async def test_what_is_not_packed_as_announced_is_a_failure_of_the_peer():
    async def lie(reader, writer):
        await read_request(reader)
        writer.write(response(b"plain text", headers="content-encoding: gzip\r\n"))
        await writer.drain()

    async with peer(lie) as url:
        with pytest.raises(AmbiguousFailure, match="DecodingError"):
            await request("GET", url, timeout_seconds=5)


async def test_a_redirect_is_not_followed_and_a_body_not_read_beyond_its_bound():
    seen = []

    async def serve(reader, writer):
        line, headers, _ = await read_request(reader)
        seen.append((line.split()[1], headers.get("authorization")))
        if line.startswith("GET /moved"):
            writer.write(response(b"", status="302 Found", headers="Location: https://evil.test/\r\n"))
        else:
            writer.write(response(b"x" * 5000))
        await writer.drain()

    async def take(status, pieces):
        return status, [piece async for piece in pieces]

    async with peer(serve) as url:
        token = {"authorization": "Bearer t"}
        assert await download(f"{url}/moved", allowed_hosts=(url,), headers=token, take=take) == (302, [])
        with pytest.raises(BodyTooLarge):
            await download(f"{url}/large", allowed_hosts=(url,), headers=token, max_body_bytes=1000, take=take)
    assert seen == [("/moved", "Bearer t"), ("/large", "Bearer t")]


async def test_a_process_that_makes_more_calls_at_once_gets_room_for_them(monkeypatch):
    monkeypatch.setattr(http_client, "_room", http_client._room)
    http_client.make_room_for(10)
    assert (await get_http_client())._transport.connections == http_client.MAX_CONNECTIONS
    await close_http_client()
    http_client.make_room_for(120)
    host = Host()
    async with peer(host) as url:
        asking = [asyncio.create_task(request("GET", url, timeout_seconds=30)) for _ in range(120)]
        async with asyncio.timeout(10):
            while host.open < 120:
                await asyncio.sleep(0.005)
        host.gate.set()
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}


async def test_what_does_not_wait_leaves_half_of_a_host_s_places_to_what_does():
    host = Host()
    async with peer(host) as url:
        asking = [
            asyncio.create_task(request("GET", url, timeout_seconds=30, waits_for_turn=False))
            for _ in range(http_client.MAX_PER_HOST)
        ]
        _, waiting = await asyncio.wait(asking, timeout=20, return_when=asyncio.FIRST_EXCEPTION)
        async with asyncio.timeout(20):
            while host.open < http_client.MAX_PER_HOST // 2:
                await asyncio.sleep(0.005)
        assert {type(task.exception()) for task in asking if task.done()} == {PoolFull}
        assert sum(not task.done() for task in asking) == http_client.MAX_PER_HOST // 2
        host.gate.set()
        assert (await request("GET", url, timeout_seconds=5)).status == 200
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}


async def test_a_burst_s_connections_serve_the_next_one_although_fewer_are_kept_in_the_end():
    host = Host()
    host.gate.set()
    async with peer(host) as url:
        for _ in range(3):
            await asyncio.gather(*(request("GET", url, timeout_seconds=5) for _ in range(40)))
        assert host.served <= 40
        async with asyncio.timeout(5):
            while host.open > http_client.MAX_KEEPALIVE:
                await asyncio.sleep(0.005)
        assert host.open == http_client.MAX_KEEPALIVE


async def test_a_probe_waits_behind_no_call():
    async with peer(hang) as url, peer(answer) as well:
        stuck = [asyncio.create_task(request("GET", url, timeout_seconds=30)) for _ in range(http_client.MAX_PER_HOST)]
        stuck += [asyncio.create_task(request("GET", well, timeout_seconds=30)) for _ in range(10)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            probe = await request("GET", well, timeout_seconds=5, get_client=get_http_client_for_probes)
        assert probe.status == 200
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
