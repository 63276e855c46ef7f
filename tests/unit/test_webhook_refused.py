"""Every refused webhook is counted by its reason, and a wrong app secret is told in words, once a minute."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette

from app.api import routes_webhook
from app.api.plain_route import PlainRoute
from app.api.routes_webhook import WebhookReceiver, verify
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
    async def by_verify_token(self, token: str) -> None:
        return None


async def test_a_refused_verification_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    services = SimpleNamespace(verify_token="the right one", accounts=_NoAccounts())
    app = Starlette(routes=[PlainRoute("/webhook/whatsapp", verify)])

    async def with_services(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"services": services}
        await app(scope, receive, send)

    before = count("verification_failed")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_services), base_url="http://chorus.test") as http:
        for query in ({}, {"hub.mode": "subscribe", "hub.verify_token": "wrong"}):
            assert (await http.get("/webhook/whatsapp", params=query)).status_code == 403
        good = {"hub.mode": "subscribe", "hub.verify_token": "the right one", "hub.challenge": "42"}
        assert (await http.get("/webhook/whatsapp", params=good)).text == "42"
    assert count("verification_failed") == before + 2
    assert [line.reason for line in caplog.records if "verification refused" in line.getMessage()] == [
        "hub.mode or hub.verify_token is missing", "no account has this verify token",
    ]  # fmt: skip
