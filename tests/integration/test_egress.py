"""HTTP_TRUST_ENV: requests leave through a real proxy to a server whose certificate a private CA signed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.core.egress import Egress
from app.core.http_client import (
    ConnectFailed,
    close_http_client,
    get_http_client,
    get_http_client_for_media,
    leave_by,
    request,
)
from app.settings import Settings
from tests.support.fakes import peer, read_request, response
from tests.support.tls import TlsFronts, running_fronts


@pytest.fixture(autouse=True)
async def _as_before() -> AsyncIterator[None]:
    yield
    await close_http_client()
    leave_by(Egress())


@dataclass
class HttpProxy:
    """Tunnels (CONNECT) and forwards; remembers what it was asked for, and by whom."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)
    refuses: bool = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers, _ = await read_request(reader)
        method, target, _ = line.split()
        self.asked.append(f"{method} {target}")
        self.credentials.append(headers.get("proxy-authorization", ""))
        if self.refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        if method != "CONNECT":
            writer.write(response(b'"forwarded"', headers="connection: close\r\n"))
            await writer.drain()
            return
        host, port = target.rsplit(":", 1)
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with closing(there[1]):
            ways = [asyncio.create_task(_pump(reader, there[1])), asyncio.create_task(_pump(there[0], writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def running_proxy() -> AsyncIterator[HttpProxy]:
    proxy = HttpProxy()
    async with peer(proxy.handle) as proxy.url:
        yield proxy


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[TlsFronts]:
    with running_fronts(tmp_path) as running:
        yield running


async def _answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(response(b'"here"'))
    await writer.drain()


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)


async def test_requests_go_through_the_proxy_and_believe_the_private_ca(fronts: TlsFronts) -> None:
    async with peer(_answering) as target, running_proxy() as proxy:
        port = fronts.before(urlsplit(target).port or 0)
        leave_by(
            settings(
                http_trust_env=True,
                https_proxy=proxy.url.replace("://", "://user:p%40ss@"),
                ssl_cert_file=str(fronts.authority),
            ).egress
        )
        for get_client in (get_http_client, get_http_client_for_media):
            answer = await request("GET", f"https://127.0.0.1:{port}/x", timeout_seconds=5, get_client=get_client)
            assert answer.body == b'"here"'
    assert proxy.asked == [f"CONNECT 127.0.0.1:{port}"] * 2
    assert set(proxy.credentials) == {"Basic " + base64.b64encode(b"user:p@ss").decode()}
    assert fronts.encrypted[port] == 2


async def test_without_the_setting_neither_counts(fronts: TlsFronts, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(_answering) as target, running_proxy() as proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(fronts.authority))
        assert settings().egress == Egress()
        leave_by(settings().egress)
        assert (await request("GET", f"{target}/x", timeout_seconds=5)).body == b'"here"'
        port = fronts.before(urlsplit(target).port or 0)
        with pytest.raises(ConnectFailed):
            await request("GET", f"https://127.0.0.1:{port}/x", timeout_seconds=5)
    assert proxy.asked == []


async def test_with_the_setting_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(_answering) as target, running_proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_TRUST_ENV", "true")
        leave_by(settings().egress)
        assert (await request("GET", f"{target}/x", timeout_seconds=5)).body == b'"forwarded"'


@pytest.mark.parametrize("straight", ["127.0.0.1", "{place}", "*", "other.example, 127.0.0.1"])
async def test_hosts_of_no_proxy_are_reached_straight(straight: str) -> None:
    async with peer(_answering) as target, running_proxy() as proxy:
        no_proxy = straight.format(place=urlsplit(target).netloc)
        leave_by(Egress(http_proxy=proxy.url, https_proxy=proxy.url, no_proxy=no_proxy))
        assert (await request("GET", f"{target}/x", timeout_seconds=5)).body == b'"here"'
    assert proxy.asked == []


@pytest.mark.parametrize("straight", ["127.0.0.2", "example.com", "10.0.0.0/8", "::1", "[::1]", "127.0.0.1:1"])
async def test_other_hosts_are_not(straight: str) -> None:
    egress = Egress(no_proxy=straight)
    assert egress.problems() == {}
    async with peer(_answering) as target, running_proxy() as proxy:
        leave_by(Egress(http_proxy=proxy.url, no_proxy=straight))
        assert (await request("GET", f"{target}/x", timeout_seconds=5)).body == b'"forwarded"'


async def test_a_proxy_that_refuses_or_is_away_means_that_nothing_was_sent() -> None:
    async with running_proxy() as proxy:
        proxy.refuses = True
        leave_by(Egress(https_proxy=proxy.url))
        with pytest.raises(ConnectFailed):
            await request("POST", "https://127.0.0.1:1/x", timeout_seconds=5, payload={})
    await close_http_client()
    with pytest.raises(ConnectFailed):
        await request("POST", "https://127.0.0.1:1/x", timeout_seconds=5, payload={})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"https_proxy": "proxy.example:3128"}, "HTTPS_PROXY"),
        ({"https_proxy": "socks5://proxy.example:1"}, "HTTPS_PROXY"),
        ({"http_proxy": "http://proxy.example:port"}, "HTTP_PROXY"),
        ({"ssl_cert_file": "/no/such/file"}, "SSL_CERT_FILE"),
        ({"ssl_cert_file": __file__}, "SSL_CERT_FILE"),
        ({"no_proxy": "http://a"}, "NO_PROXY"),
    ],
)
def test_what_cannot_work_is_named_and_only_when_it_is_used(given: dict[str, str], named: str) -> None:
    assert set(settings(http_trust_env=True, **given).egress.problems()) == {named}
    assert settings(**given).egress.problems() == {}
