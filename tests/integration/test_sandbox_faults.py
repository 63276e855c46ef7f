"""Faults as a caller's socket sees them: what is dropped is really dropped, what hangs really hangs."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.core.http_client import AmbiguousFailure, close_http_client, get_http_client, request
from app.sandbox.app import RunningSandbox, running_sandbox
from app.sandbox.client import SandboxClient, SandboxRefused
from app.sandbox.config import SandboxConfig
from tests.support.patience import Within

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEND = {"messaging_product": "whatsapp", "to": "+16505551234", "type": "text", "text": {"body": "Hi"},
        "biz_opaque_callback_data": "out-1"}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(SandboxConfig()) as sandbox:
        yield sandbox
        await close_http_client()


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(server: RunningSandbox) -> SandboxClient:
    client = SandboxClient(server.url)
    await client.reset()
    return client


class RawConnection:
    """A bare TCP connection, to see what really comes back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sandbox: SandboxClient) -> RawConnection:
        host, port = sandbox.url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def send(self, payload: dict[str, Any] = SEND) -> None:
        body = json.dumps(payload).encode()
        head = (
            "POST /v26.0/106/messages HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer t\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()

    async def read_to_end(self) -> bytes:
        """Everything until the peer closes; raises `ConnectionResetError` on RST."""
        async with asyncio.timeout(5):
            return await self._reader.read()

    async def read_status(self) -> int:
        async with asyncio.timeout(5):
            line = await self._reader.readline()
            head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(row.split(b":")[1]) for row in head.splitlines() if row.lower().startswith(b"content-length"))
        await self._reader.readexactly(length)
        return int(line.split()[1])

    async def close(self) -> None:
        self._writer.close()


async def post(sandbox: SandboxClient, *, timeout_seconds: float = 5, to: str = "+16505551234") -> int:
    url = f"{sandbox.url}/v26.0/106/messages"
    response = await request(
        "POST", url, headers={"Authorization": "Bearer t"}, payload=SEND | {"to": to}, timeout_seconds=timeout_seconds
    )
    return response.status


async def test_drop_before_closes_the_connection_without_a_byte_and_without_effect(sandbox: SandboxClient) -> None:
    fault = await sandbox.add_fault("whatsapp", action="drop_before")
    connection = await RawConnection.open(sandbox)
    await connection.send()
    assert await connection.read_to_end() == b""
    await connection.close()
    (entry,) = await sandbox.wait(kind="send", state="closed")
    assert (entry["processed"], entry["status"], entry["fault"]) == (False, None, fault)
    assert (entry["to"], entry["callback_data"]) == ("16505551234", "out-1")


async def test_drop_after_closes_the_connection_but_the_message_went_out(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="drop_after")
    connection = await RawConnection.open(sandbox)
    await connection.send()
    assert await connection.read_to_end() == b""
    await connection.close()
    (entry,) = await sandbox.wait(kind="send", state="closed")
    assert (entry["processed"], entry["status"]) == (True, None)
    assert entry["wamid"].startswith("wamid.")


async def test_refuse_resets_the_connection(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="refuse")
    connection = await RawConnection.open(sandbox)
    await connection.send()
    with pytest.raises(ConnectionResetError):
        await connection.read_to_end()
    await connection.close()
    (entry,) = await sandbox.wait(kind="send", state="closed")
    assert not entry["processed"]


async def test_a_kept_alive_connection_is_dropped_in_the_middle(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="drop_before", skip=1)
    connection = await RawConnection.open(sandbox)
    await connection.send()
    assert await connection.read_status() == 200
    await connection.send()
    assert await connection.read_to_end() == b""
    await connection.close()


async def test_an_http_client_sees_a_dropped_connection_as_ambiguous(sandbox: SandboxClient) -> None:
    for action in ("refuse", "drop_before", "drop_after"):
        await sandbox.clear_faults()
        await sandbox.add_fault("whatsapp", action=action, count=1)
        with pytest.raises(AmbiguousFailure):
            await post(sandbox)
        assert await post(sandbox) == 200


async def test_drops_leave_no_error_in_the_log(sandbox: SandboxClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await test_an_http_client_sees_a_dropped_connection_as_ambiguous(sandbox)
    assert not caplog.records


async def test_hang_before_holds_until_the_rule_is_deleted(sandbox: SandboxClient) -> None:
    fault = await sandbox.add_fault("whatsapp", action="hang_before")
    sending = asyncio.create_task(post(sandbox))
    (entry,) = await sandbox.wait(kind="send", state="open")
    assert not entry["processed"]
    assert not sending.done()
    await sandbox.remove_fault(fault)
    assert await sending == 200
    assert (await sandbox.record(kind="send"))[0]["processed"]


async def test_hang_before_never_processes_a_request_whose_caller_left(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="hang_before")
    with pytest.raises(AmbiguousFailure):
        await post(sandbox, timeout_seconds=0.5)
    (entry,) = await sandbox.wait(kind="send", state="closed")
    assert not entry["processed"]


async def test_hang_after_has_sent_although_the_caller_timed_out(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="hang_after")
    with pytest.raises(AmbiguousFailure):
        await post(sandbox, timeout_seconds=0.5)
    (entry,) = await sandbox.wait(kind="send", state="closed")
    assert entry["processed"]


async def test_a_hang_can_have_an_end(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", action="hang_before", hang_seconds=0.1)
    started = time.monotonic()
    assert await post(sandbox) == 200
    assert time.monotonic() - started >= 0.1


async def test_latency_delays_and_then_processes_even_without_a_caller(sandbox: SandboxClient, within: Within) -> None:
    await sandbox.add_fault("whatsapp", latency_ms=100, jitter_ms=50)
    started = time.monotonic()
    assert await post(sandbox) == 200
    assert 0.1 <= time.monotonic() - started < within(1)
    await sandbox.clear_record()
    with pytest.raises(AmbiguousFailure):
        await post(sandbox, timeout_seconds=0.05)
    (entry,) = await sandbox.wait(kind="send", processed="true")
    assert entry["status"] == 200


async def test_latency_and_an_error_combine(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", latency_ms=50, error="131016", retry_after=9)
    started = time.monotonic()
    url = f"{sandbox.url}/v26.0/106/messages"
    response = await request("POST", url, headers={"Authorization": "Bearer t"}, payload=SEND, timeout_seconds=5)
    assert (response.status, response.headers["retry-after"]) == (503, "9")
    assert time.monotonic() - started >= 0.05


async def test_a_bare_status_is_what_a_proxy_would_say(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", http_status=502)
    url = f"{sandbox.url}/v26.0/106/messages"
    response = await request("POST", url, headers={"Authorization": "Bearer t"}, payload=SEND, timeout_seconds=5)
    assert (response.status, response.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert response.body.startswith(b"<html>")


async def test_one_customer_or_a_share_of_the_requests_can_be_singled_out(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("whatsapp", error="131026", match={"recipient": "16505550001"})
    half = await sandbox.add_fault("whatsapp", error="131000", rate=0.5)
    assert await post(sandbox, to="+16505550001") == 400
    statuses = [await post(sandbox) for _ in range(40)]
    assert {200, 500} == set(statuses)
    seen = await sandbox.get_fault(half)
    assert (seen["matched"], seen["fired"]) == (40, statuses.count(500))


async def test_rules_are_listed_and_wrong_ones_are_refused_clearly(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("gemini", gemini="quota_per_day", count=2)
    listed = (await request("GET", f"{sandbox.url}/sandbox/faults", timeout_seconds=5)).json()["faults"]
    assert [(rule["target"], rule["gemini"], rule["count"], rule["fired"]) for rule in listed] == [
        ("gemini", "quota_per_day", 2, 0)
    ]
    with pytest.raises(SandboxRefused, match="not a Cloud API error code"):
        await sandbox.add_fault("whatsapp", error="1310999")
    with pytest.raises(SandboxRefused, match="no such fault"):
        await sandbox.get_fault(10_000)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/faults", b"{oops", 400, "not JSON"),
        ("POST", "/faults", b"[]", 422, "valid dictionary"),
        ("POST", "/accounts", b'{"phone_number_id":"x","access_token":"t"}', 422, "phone_number_id"),
        ("PUT", "/callbacks", b'{"urls":["ftp://x"]}', 422, "http://"),
        ("PATCH", "/behaviour", b'{"pair_burst":0}', 422, "pair_burst"),
        ("PATCH", "/behaviour", b"[]", 422, "JSON object"),
        ("GET", "/record?afer=1", None, 422, "afer"),
        ("GET", "/record/wait?count=none", None, 422, "count"),
        ("DELETE", "/faults/77", None, 404, "no such fault"),
    ],
)
async def test_the_control_api_answers_wrong_input_with_one_clear_error(
    sandbox: SandboxClient, method: str, path: str, body: bytes | None, status: int, message: str
) -> None:
    client = await get_http_client()
    response = await client.request(method, f"{sandbox.url}/sandbox{path}", content=body)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


async def test_stopping_lets_go_of_what_hangs(within: Within) -> None:
    async with running_sandbox() as other:
        client = SandboxClient(other.url)
        await client.add_fault("whatsapp", action="hang_before")
        sending = asyncio.create_task(post(client))
        await client.wait(kind="send", state="open")
        started = time.monotonic()
    assert await sending == 200
    assert time.monotonic() - started < within(1.5)
