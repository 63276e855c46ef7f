"""Every refused webhook is counted by its reason, and a wrong app secret is told in words, once a minute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette

from app.api import routes_webhook
from app.api.plain_route import PlainRoute
from app.api.routes_webhook import Handshake, WebhookReceiver
from app.core.queue import Event, PutResult, QueueUnavailable
from app.sandbox.webhooks import signed_headers
from app.services.ingest_service import IngestService


class Queue:
    def __init__(self, *, is_away: bool = False) -> None:
        self._is_away = is_away

    async def put(self, events: Sequence[Event]) -> PutResult:
        if self._is_away:
            raise QueueUnavailable("queue", "queue: put: Connection refused")
        return PutResult(len(events), 0)


def count(reason: str) -> float:
    return REGISTRY.get_sample_value("chorus_webhook_refused_total", {"reason": reason}) or 0.0


async def post(receiver: WebhookReceiver, content: bytes, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(receiver), base_url="http://chorus.test") as http:
        return (await http.post("/webhook/whatsapp", content=content, headers=headers)).status_code


CASES: Sequence[tuple[str, int, bytes, dict[str, str]]] = (
    ("signature_wrong", 401, b"{}", signed_headers("another secret", b"{}")),
    ("signature_missing", 401, b"{}", {}),
    ("signature_malformed", 401, b"{}", {"X-Hub-Signature-256": "sha256=00"}),
    ("invalid_json", 400, b"{", signed_headers("s", b"{")),
    ("body_too_large", 413, b"x" * (routes_webhook.MAX_BODY_BYTES + 1), signed_headers("s", b"")),
    ("unavailable", 503, b"{}", signed_headers("s", b"{}")),
)


@pytest.mark.parametrize(("reason", "status", "content", "headers"), CASES)
async def test_a_refused_delivery_is_counted_by_its_reason(
    reason: str, status: int, content: bytes, headers: dict[str, str]
) -> None:
    before = count(reason)
    assert await post(WebhookReceiver(IngestService(Queue(is_away=True)), ["s"]), content, headers) == status
    assert count(reason) == before + 1


async def test_an_accepted_delivery_is_not_counted_as_refused() -> None:
    before = {reason: count(reason) for reason, *_ in CASES}
    receiver = WebhookReceiver(IngestService(Queue()), ["s"])
    assert await post(receiver, b"{}", signed_headers("s", b"{}")) == 200
    assert {reason: count(reason) for reason, *_ in CASES} == before


def _warnings(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [line for line in caplog.records if line.getMessage().startswith("webhooks refused")]


async def test_a_wrong_app_secret_is_told_at_once_and_then_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = WebhookReceiver(IngestService(Queue()), ["s"])
    for _ in range(40):
        await post(receiver, b"{}", signed_headers("another secret", b"{}"))
    (first,) = _warnings(caplog)
    assert "META_APP_SECRET" in first.getMessage()
    assert (first.reason, first.refused) == ("signature_wrong", 1)
    monkeypatch.setattr(routes_webhook, "TELL_SECONDS", 0.0)
    await post(receiver, b"{}", signed_headers("another secret", b"{}"))
    assert _warnings(caplog)[1].refused == 40


async def test_a_503_says_on_its_line_what_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await post(WebhookReceiver(IngestService(Queue(is_away=True)), ["s"]), b"{}", signed_headers("s", b"{}"))
    (line,) = [line.fields for line in caplog.records if line.getMessage() == "webhook"]
    assert (line["error"], line["reason"]) == ("queue_unavailable", "put: Connection refused")


class _NoAccounts:
    def __init__(self, answered: asyncio.Event | None = None) -> None:
        self.asked = 0
        self._answered = answered

    async def by_verify_token(self, token: str) -> None:
        self.asked += 1
        if self._answered is not None:
            await self._answered.wait()


@asynccontextmanager
async def handshakes(accounts: _NoAccounts) -> AsyncIterator[httpx.AsyncClient]:
    services = SimpleNamespace(verify_token="the right one", accounts=accounts)
    app = Starlette(routes=[PlainRoute("/webhook/whatsapp", Handshake().answer)])

    async def with_services(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"services": services}
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_services), base_url="http://chorus.test") as http:
        yield http


GOOD = {"hub.mode": "subscribe", "hub.verify_token": "the right one", "hub.challenge": "42"}
GUESS = {"hub.mode": "subscribe", "hub.verify_token": "wrong"}


async def test_a_refused_verification_is_counted_and_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    before = count("verification_failed")
    async with handshakes(_NoAccounts()) as http:
        for query in ({}, GUESS, GUESS, {}):
            assert (await http.get("/webhook/whatsapp", params=query)).status_code == 403
        assert (await http.get("/webhook/whatsapp", params=GOOD)).text == "42"
    assert count("verification_failed") == before + 4
    assert [line.reason for line in caplog.records if "verification refused" in line.getMessage()] == [
        "hub.mode or hub.verify_token is missing", "no account has this verify token",
    ]  # fmt: skip


async def test_guessed_verify_tokens_have_two_looks_into_the_database_at_a_time() -> None:
    answered = asyncio.Event()
    accounts = _NoAccounts(answered)
    async with handshakes(accounts) as http:
        guesses = [asyncio.create_task(http.get("/webhook/whatsapp", params=GUESS)) for _ in range(20)]
        while sum(guess.done() for guess in guesses) < 18:
            await asyncio.sleep(0)
        assert (await http.get("/webhook/whatsapp", params=GOOD)).text == "42", "the global token needs no look"
        assert accounts.asked == 2
        answered.set()
        answers = [await guess for guess in guesses]
        assert sorted(answer.status_code for answer in answers) == [403] * 2 + [503] * 18
        assert all(answer.headers["retry-after"] == "5" for answer in answers if answer.status_code == 503)
        assert (await http.get("/webhook/whatsapp", params=GUESS)).status_code == 403, "and then others have theirs"
