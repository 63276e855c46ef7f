"""Requests that are refused before their bodies are read: the answer, and what becomes of the connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from app.api import middleware, routes_webhook
from app.api.http_protocol import BoundedHttpProtocol
from app.sandbox import webhooks as wa
from app.sandbox.webhooks import dashboard_test, encode_like_meta, sign
from tests.support.replica import Replica, one_replica, token_of
from tests.support.serving import APP_SECRET, OPERATOR_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEBHOOK = "POST /webhook/whatsapp HTTP/1.1\r\nHost: x\r\n"
WELL_FORMED = f"X-Hub-Signature-256: sha256={'0' * 64}\r\n"
MEGABYTE = b"x" * 1_000_000
METRICS_KEY = "metrics-of-the-test-suite"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    async with one_replica(*module_stores, metrics_api_key=METRICS_KEY) as api:
        yield api


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        self.writer.write(head.encode("latin-1") + b"\r\n" + body)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, _, rest = answer.partition("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in rest.strip().split("\r\n"))
            return int(status.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


async def connect(api: Replica) -> Connection:
    where = urlsplit(api.url)
    return Connection(*await asyncio.open_connection(where.hostname, where.port))


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many bytes the server has read, by the client's port."""
    counts: Counter[int] = Counter()
    received = BoundedHttpProtocol.data_received

    def counting(protocol: BoundedHttpProtocol, data: bytes) -> None:
        assert protocol.client is not None
        counts[protocol.client[1]] += len(data)
        received(protocol, data)

    monkeypatch.setattr(BoundedHttpProtocol, "data_received", counting)
    return counts


class Unfinished:
    """A request that has sent a part of its body."""

    def __init__(self, connection: Connection, head: str, length: int, part: bytes) -> None:
        self.connection = connection
        sent = f"{head}Content-Length: {length}\r\n\r\n".encode() + part
        connection.writer.write(sent)
        self._port, self._sent = connection.writer.get_extra_info("sockname")[1], len(sent)
        self.answer = asyncio.create_task(connection.answer())

    async def is_held(self, arrived: Counter[int]) -> None:
        """Until the server has all of it, or has answered."""
        async with asyncio.timeout(10):
            while arrived[self._port] < self._sent and not self.answer.done():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def strangers(
    api: Replica, arrived: Counter[int], *crowds: tuple[int, str, int]
) -> AsyncIterator[list[Unfinished]]:
    """Connections that send `size` bytes of a body and never its end: (how many, head, size) of each crowd."""
    held: list[Unfinished] = []
    try:
        for count, head, size in crowds:
            for _ in range(count):
                held.append(Unfinished(await connect(api), head, size + 10_000, b"x" * size))
                await held[-1].is_held(arrived)
        yield held
    finally:
        for each in held:
            each.answer.cancel()
            each.connection.writer.transport.abort()
        await asyncio.gather(*(each.answer for each in held), return_exceptions=True)


async def in_two_pieces(api: Replica, arrived: Counter[int], head: str, body: bytes, *, first: int = 20_000) -> int:
    """The status of a request whose body takes two reads."""
    request = Unfinished(await connect(api), head, len(body), body[:first])
    await request.is_held(arrived)
    request.connection.writer.write(body[first:])
    status, *_ = await request.answer
    request.connection.writer.transport.abort()
    return status


@pytest.mark.parametrize(
    "signature",
    ["", "X-Hub-Signature-256: \r\n", "X-Hub-Signature-256: sha256=00\r\n", "X-Hub-Signature-256: sha1=aa\r\n",
     f"X-Hub-Signature-256: sha256={'Z' * 64}\r\n", f"X-Hub-Signature-256: sha256={'0' * 65}\r\n"],
)  # fmt: skip
@pytest.mark.parametrize(
    "length", ["Content-Length: 4000000\r\n", "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"]
)
async def test_without_a_well_formed_signature_no_byte_of_the_body_is_waited_for(
    api: Replica, signature: str, length: str
) -> None:
    connection = await connect(api)
    status, headers, body = await connection.ask(WEBHOOK + signature + length)
    assert (status, headers["connection"]) == (401, "close")
    assert b"invalid_signature" in body
    assert await connection.is_closed()
    connection.writer.close()


async def test_the_refusal_arrives_although_the_client_sends_its_body_first(api: Replica) -> None:
    for head in (
        f"{WEBHOOK}Content-Length: 1000000\r\n", "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n",
        "POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 1999999\r\n",
    ):  # fmt: skip
        connection = await connect(api)
        status, headers, _ = await connection.ask(head, MEGABYTE)
        assert (status, headers["connection"]) in {(401, "close"), (404, "close"), (413, "close")}
        connection.writer.close()


async def test_a_client_that_asks_before_it_sends_is_refused_without_being_told_to_go_on(api: Replica) -> None:
    connection = await connect(api)
    status, _, _ = await connection.ask(f"{WEBHOOK}Expect: 100-continue\r\nContent-Length: 1000\r\n")
    assert status == 401
    connection.writer.close()


async def test_after_an_error_whose_body_was_read_the_connection_is_kept(api: Replica) -> None:
    connection = await connect(api)
    operator = f"Host: x\r\nAuthorization: Bearer {OPERATOR_KEY}\r\nContent-Type: application/json\r\n"
    raw = encode_like_meta(dashboard_test())
    for head, body, expected in (
        (f"{WEBHOOK}{WELL_FORMED}Content-Length: 2\r\n", b"{}", 401),
        (f"{WEBHOOK}Content-Length: 0\r\n", b"", 401),
        (f"{WEBHOOK}X-Hub-Signature-256: {sign(APP_SECRET, b'{')}\r\nContent-Length: 1\r\n", b"{", 400),
        (f"POST /accounts HTTP/1.1\r\n{operator}Content-Length: 1\r\n", b"{", 400),
        (f"POST /accounts HTTP/1.1\r\n{operator}Content-Length: 2\r\n", b"{}", 422),
        ("GET /accounts HTTP/1.1\r\nHost: x\r\n", b"", 401),
        ("GET /none HTTP/1.1\r\nHost: x\r\n", b"", 404),
        (f"DELETE /accounts HTTP/1.1\r\n{operator}Content-Length: 0\r\n", b"", 405),
        (f"{WEBHOOK}X-Hub-Signature-256: {sign(APP_SECRET, raw)}\r\nContent-Length: {len(raw)}\r\n", raw, 200),
    ):
        status, headers, _ = await connection.ask(head, body)
        assert (status, headers.get("connection")) == (expected, None), head
    connection.writer.close()


async def test_answers_with_personal_data_are_kept_by_no_cache_and_guessed_by_no_browser(api: Replica) -> None:
    account = await api.new_account()
    for path in (
        "/accounts", f"/bot/profile?account_id={account['id']}", f"/conversations?account_id={account['id']}",
        "/admin/queue", "/health", "/none", "/metrics",
    ):  # fmt: skip
        headers = (await api.raw("GET", path)).headers
        assert headers.get_list("cache-control") == ["no-store"], path
        assert headers.get_list("x-content-type-options") == ["nosniff"], path


@pytest.mark.parametrize(
    "path", ["/accounts/", "/conversations/?account_id=x", "/health/", "/webhook/whatsapp/", "//accounts"]
)
async def test_no_redirect_is_made_of_what_the_client_calls_the_host(api: Replica, path: str) -> None:
    response = await api.raw("GET", path, headers={"Host": "evil.test"}, follow_redirects=False)
    assert response.status_code in (400, 401, 404, 405)
    assert "location" not in response.headers
    assert "evil.test" not in response.text


async def test_metrics_need_a_key_of_their_own_or_the_operators(api: Replica) -> None:
    async def status(bearer: str | None, path: str = "/metrics") -> int:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return (await api.http.get(api.url + path, headers=headers)).status_code

    assert [await status(key) for key in (None, "wrong", token_of("ada"))] == [401] * 3
    assert [await status(key) for key in (METRICS_KEY, OPERATOR_KEY)] == [200] * 2
    for path in ("/admin/queue", "/accounts", "/admin/fleet"):
        assert await status(METRICS_KEY, path) == 401
    assert (await api.raw("GET", "/health", headers={"Authorization": f"Bearer {METRICS_KEY}"})).json().get(
        "fleet"
    ) is None


def a_delivery(account: dict[str, Any], characters: int) -> tuple[str, bytes]:
    """The head and the body of a message, rightly signed."""
    person = wa.Person("33612345678", "Amina")
    change = wa.messages_change(wa.Business(account["phone_number_id"]), [wa.text(person, "y" * characters)], [person])
    raw = encode_like_meta(wa.envelope(change))
    return f"{WEBHOOK}X-Hub-Signature-256: {sign(APP_SECRET, raw)}\r\n", raw


@pytest.mark.parametrize("characters", [60_000, 900_000])
async def test_a_genuine_delivery_in_two_pieces_is_taken_while_strangers_hold_all_that_bodies_may_take(
    api: Replica, arrived: Counter[int], characters: int
) -> None:
    head, raw = a_delivery(await api.new_account(), characters)
    looks_signed = WEBHOOK + WELL_FORMED
    async with strangers(api, arrived, (8, looks_signed, 3_000_000), (220, looks_signed, 45_000)) as held:
        assert await in_two_pieces(api, arrived, head, raw) == 200
        for oldest in (held[0], held[8]):
            status, headers, body = await oldest.answer
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "5")
            assert b'"overloaded"' in body
            assert await oldest.connection.is_closed()


@pytest.mark.parametrize("credentials", ["", "Authorization: Bearer\r\n", "Authorization: Basic eDp5\r\n",
                                         "Authorization: Bearer made.up.token\r\n"])  # fmt: skip
async def test_without_valid_credentials_no_byte_of_a_body_for_the_api_is_waited_for(
    api: Replica, credentials: str
) -> None:
    for route in ("POST /accounts", "PUT /bot/profile?account_id=x", "POST /admin/dead-letters/drop"):
        for length in ("Content-Length: 1000000\r\n", "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"):
            connection = await connect(api)
            status, headers, body = await connection.ask(
                f"{route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{credentials}{length}"
            )
            assert (status, headers["connection"]) == (401, "close")
            assert headers["www-authenticate"] == "bearer"
            assert b'"unauthenticated"' in body
            assert await connection.is_closed()
            connection.writer.close()


@pytest.mark.parametrize(
    "credentials", ["", f"Authorization: Bearer {token_of('mallory')}\r\n"], ids=["strangers", "signed-in"]
)
async def test_a_members_profile_in_two_pieces_is_taken_while_others_hold_all_that_bodies_may_take(
    api: Replica, arrived: Counter[int], credentials: str
) -> None:
    account = await api.new_account(owner="ada")
    json = "HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    profile = f"PUT /bot/profile?account_id={account['id']} {json}Authorization: Bearer {token_of('ada')}\r\n"
    body = b'{"description":"%b"}' % (b"x" * 40_000)
    holds = f"POST /accounts {json}{credentials}"
    async with strangers(api, arrived, (8, holds, 1_000_000), (100, holds, 40_000)):
        assert await in_two_pieces(api, arrived, profile, body) == 200


async def test_ordinary_deliveries_are_taken_while_others_fill_what_bodies_may_take(api: Replica) -> None:
    raw = encode_like_meta(dashboard_test())
    good = f"{WEBHOOK}X-Hub-Signature-256: {sign(APP_SECRET, raw)}\r\nContent-Length: {len(raw)}\r\n"
    holders = [await connect(api) for _ in range(9)]
    try:
        for holder in holders:
            holder.writer.write((f"{WEBHOOK}{WELL_FORMED}Content-Length: 4000000\r\n\r\n").encode() + MEGABYTE * 3)
            await holder.writer.drain()
        full: list[asyncio.Task[bytes]] = [asyncio.create_task(holder.reader.readline()) for holder in holders]
        done, waiting = await asyncio.wait(full, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert [line.result().split()[1] for line in done] == [b"503"] * len(done)
        assert len(done) >= 1
        connection = await connect(api)
        assert (await connection.ask(good, raw))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        connection.writer.close()
    finally:
        for holder in holders:
            holder.writer.transport.abort()
    assert routes_webhook.MAX_BODIES_BYTES + middleware.MAX_BODIES_BYTES == 32 * 1024 * 1024
    assert issubclass(BoundedHttpProtocol, asyncio.Protocol)


async def test_what_bodies_took_is_given_back_however_they_end(api: Replica) -> None:
    signed_in = f"Authorization: Bearer {token_of('mallory')}\r\n"
    for path, signature in (("/webhook/whatsapp", WELL_FORMED), ("/accounts", signed_in)):
        for _ in range(12):
            connection = await connect(api)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{signature}Content-Length: 1040000\r\n\r\n"
            connection.writer.write(head.encode() + MEGABYTE)
            await connection.writer.drain()
            connection.writer.transport.abort()
        for _ in range(30):
            connection = await connect(api)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{signature}Content-Length: 1000000\r\n"
            assert (await connection.ask(head, MEGABYTE))[0] in (401, 422)
            connection.writer.close()


@pytest.mark.parametrize("depth", [63, 64, 65, 253, 254, 255, 1000, 100_000])
@pytest.mark.parametrize("where", ["all", "message", "status", "contact"])
async def test_a_signed_webhook_of_any_depth_is_taken(api: Replica, depth: int, where: str) -> None:
    for start, end in (("[", "]"), ('{"a":', "}")):
        deep = start * depth + "1" + end * depth
        value = {"message": '{"messages":[%s]}', "status": '{"statuses":[%s]}', "contact": '{"contacts":%s}'}
        change = '{"entry":[{"changes":[{"field":"messages","value":%s}]}]}'
        raw = (deep if where == "all" else change % (value[where] % deep)).encode()
        headers = {"X-Hub-Signature-256": sign(APP_SECRET, raw)}
        response = await api.http.post(f"{api.url}/webhook/whatsapp", content=raw, headers=headers)
        assert response.status_code == 200, response.text
