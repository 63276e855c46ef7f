"""Every library that connects on our loop has its names looked up by our resolver; TLS still expects the name."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from app.adapters.receivers import HttpReceiver
from app.core.event_loop import ResolvingLoop
from app.core.http_client import close_http_client, request
from app.core.redis.client import connect
from app.core.resolver import MAX_LOOKUPS, LookUp, Resolver
from app.core.secrets import TokenCipher
from app.domain.endpoints import Endpoint, OutboxEvent, Outcome
from app.domain.webhook_signature import new_secret
from app.services.endpoint_service import deliver
from tests.support.fakes import peer, read_request, response
from tests.support.tls import NAME, TlsFronts, running_fronts

T = TypeVar("T")


class LookUps:
    """The same addresses for every name; remembers the names."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses or ("127.0.0.1",)
        self.names: list[str] = []

    def __call__(self, host: str | bytes, port: int, **_hints: int) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        self.names.append(host.decode() if isinstance(host, bytes) else host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


def on_our_loop(look_ups: LookUp, story: Callable[[], Awaitable[T]]) -> T:
    async def told() -> T:
        return await story()

    with asyncio.Runner(loop_factory=lambda: ResolvingLoop(Resolver(look_ups))) as runner:
        return runner.run(told())


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[TlsFronts]:
    with running_fronts(tmp_path) as running:
        yield running


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(response(b"ok"))
    await writer.drain()


@pytest.mark.parametrize("tls", [False, True])
def test_redis_is_reached_by_name(valkey_url: str, fronts: TlsFronts, *, tls: bool) -> None:
    look_ups, parts = LookUps(), urlsplit(valkey_url)
    assert parts.port is not None
    port = fronts.before(parts.port) if tls else parts.port
    scheme, options = ("rediss", f"?ssl_ca_certs={fronts.authority}") if tls else ("redis", "")

    async def story() -> bool:
        client = connect(f"{scheme}://:{parts.password}@{NAME}:{port}/0{options}")
        try:
            return bool(await client.ping())
        finally:
            await client.aclose()

    assert on_our_loop(look_ups, story)
    assert look_ups.names == [NAME]


@pytest.mark.parametrize("tls", [False, True])
def test_an_upstream_is_reached_by_name(fronts: TlsFronts, *, tls: bool) -> None:
    look_ups = LookUps()

    async def story() -> int:
        async with peer(answer) as url:
            port = urlsplit(url).port or 0
            context = ssl.create_default_context(cafile=fronts.authority)
            where = f"https://{NAME}:{fronts.before(port)}" if tls else f"http://{NAME}:{port}"
            async with httpx.AsyncClient(verify=context) as client:
                return (await client.get(where)).status_code

    assert on_our_loop(look_ups, story) == 200
    assert look_ups.names == [NAME]


def test_a_certificate_of_another_name_is_refused(valkey_url: str, fronts: TlsFronts) -> None:
    port = fronts.before(urlsplit(valkey_url).port or 0)

    async def story() -> None:
        context = ssl.create_default_context(cafile=fronts.authority)
        await asyncio.open_connection("another.test", port, ssl=context)

    with pytest.raises(ssl.SSLCertVerificationError):
        on_our_loop(LookUps(), story)


def test_postgres_is_reached_by_name(postgres_url: str) -> None:
    look_ups, parts = LookUps(), urlsplit(postgres_url)
    by_name = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{NAME}:{parts.port}").geturl()

    async def story() -> int:
        connection = await asyncpg.connect(by_name, timeout=5)
        try:
            return int(await connection.fetchval("select 1"))
        finally:
            await connection.close()

    assert on_our_loop(look_ups, story) == 1
    assert set(look_ups.names) == {NAME}


def test_an_address_that_refuses_is_passed_over(valkey_url: str) -> None:
    port = urlsplit(valkey_url).port

    async def story() -> str:
        _, writer = await asyncio.open_connection(NAME, port)
        writer.close()
        return str(writer.get_extra_info("peername")[0])

    assert on_our_loop(LookUps("127.0.0.2", "127.0.0.1"), story) == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        on_our_loop(LookUps("127.0.0.2", "127.0.0.3"), story)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
def test_an_address_is_not_looked_up(host: str | None) -> None:
    look_ups = LookUps()

    async def story() -> None:
        await asyncio.get_running_loop().getaddrinfo(host, 80)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(host or "127.0.0.1", 1)

    on_our_loop(look_ups, story)
    assert look_ups.names == []


def test_strangers_names_that_hang_take_no_look_up_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner may have as many names in webhooks as there are look-ups, each at a name server that never answers."""
    release = threading.Event()

    def look_up(host: str | bytes, port: int, **_hints: int) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name.endswith(".example"):
            release.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def told() -> tuple[set[Outcome], int]:
        receiver = HttpReceiver(timeout_seconds=0.3)
        event = OutboxEvent("id", "account", None, "message.sent", {}, datetime.now(UTC))
        urls = [f"https://hangs{n}.example/" for n in range(MAX_LOOKUPS + 1)]
        try:
            answers = await asyncio.gather(*(receiver.deliver(url, event, secrets=[new_secret()]) for url in urls))
            async with peer(answer) as url:
                ours = await request("GET", url.replace("127.0.0.1", "ours.test"), timeout_seconds=5)
            return {each.outcome for each in answers}, ours.status
        finally:
            release.set()
            await close_http_client()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    outcomes, status = on_our_loop(look_up, told)
    assert status == 200
    assert Outcome.DELIVERED not in outcomes


def test_an_account_of_slow_names_leaves_look_ups_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    asked: list[str] = []

    def look_up(host: str | bytes, port: int, **_hints: int) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        asked.append(name)
        release.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def told() -> None:
        receiver = HttpReceiver(timeout_seconds=0.3)
        cipher = TokenCipher([TokenCipher.generate_key()])
        event = OutboxEvent("id", "account", None, "message.sent", {}, datetime.now(UTC))

        def endpoint(account: str, url: str) -> Endpoint:
            return Endpoint(
                id=url, account_id=account, url=url, secret=cipher.encrypt(new_secret()), events=(), enabled=True,
                disabled_reason=None, disabled_at=None, failing_since=None, created_at=event.created_at,
                updated_at=event.created_at,
            )  # fmt: skip

        try:
            slow = (endpoint("one", f"https://slow{n}.example/") for n in range(MAX_LOOKUPS))
            await asyncio.gather(*(deliver(receiver, cipher, each, event) for each in slow))
            assert len(asked) == MAX_LOOKUPS // 2
            await deliver(receiver, cipher, endpoint("another", "https://well.example/"), event)
            assert asked[-1] == "well.example"
        finally:
            release.set()
            await close_http_client()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    on_our_loop(look_up, told)
