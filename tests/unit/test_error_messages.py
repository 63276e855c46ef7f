"""The `message` of every error body: a sentence that says what happened, and one that says what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI

import app.domain.errors as errors
from app.adapters.sql_store import CONFLICTS
from app.api.advice import ADVICE, advice_for
from app.api.errors import HTTP_ERRORS, STATUS_OF, install_error_handlers, response_for
from app.api.middleware import MAX_BODY_BYTES, Observed
from app.api.routes_webhook import MESSAGES, WebhookReceiver
from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.errors import DeadlineExceeded, Overloaded, Unavailable
from app.core.queue import Event, PutResult, QueueFull, QueueUnavailable
from app.domain.models import BlockReason
from app.sandbox.webhooks import signed_headers
from app.services.ingest_service import IngestService


def _says_what_to_do(error: dict[str, Any], status: int) -> None:
    code, message = error["code"], error["message"]
    assert re.fullmatch(r"[A-Z].{8,}\. [A-Z].{8,}\.", message), (code, message)
    assert message.endswith(advice_for(code, status)), (code, message)
    assert code not in message, (code, message)


def _raised() -> Iterator[Exception]:
    """One of every error that is raised on purpose, and of every code that one class has several of."""
    arguments: dict[str, tuple[Any, ...]] = {
        "ConfigurationError": ("REDIS_URL", "is missing"), "Conflict": ("x", "it is taken"), "NotFound": ("account",),
        "Unprocessable": ("unknown status x",),
    }  # fmt: skip
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind is errors.RateLimited:
            yield errors.RateLimited("too many tries within an hour", retry_after=60)
        elif kind is errors.AccountRejected:
            yield errors.AccountRejected("HTTP 401, code 190", reason=BlockReason.TOKEN_INVALID)
        elif issubclass(kind, errors.ChorusError):
            yield kind(*arguments.get(name, ("it went wrong",)))
    for what in ("account", "conversation", "breaker", "member", "template"):
        yield errors.NotFound(what)
    for code, message in CONFLICTS.items():
        yield errors.Conflict(code, message)
    yield errors.Conflict("window_closed", "WhatsApp allows free text only within 24 hours")
    for kind in (Unavailable, DeadlineExceeded, Overloaded, QueueUnavailable, QueueFull):
        yield kind("redis", "it is away")
    yield CircuitBreakerOpenError("gemini", 3.0, "failures: HTTP 503")


@pytest.mark.parametrize("exc", list(_raised()), ids=lambda exc: f"{type(exc).__name__}-{getattr(exc, 'code', '')}")
def test_every_error_raised_on_purpose_says_what_to_do(exc: Exception) -> None:
    response = response_for(exc)
    _says_what_to_do(orjson.loads(response.body)["error"], response.status_code)


def test_every_status_of_the_table_has_an_advice_of_its_own() -> None:
    for status in {status for _, status in STATUS_OF} | HTTP_ERRORS.keys():
        assert advice_for("a code without an advice", status)
    for advice in ADVICE.values():
        assert re.fullmatch(r"[A-Z].*\.", advice)


def _app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(Observed)
    install_error_handlers(app)

    @app.post("/things")
    def things(body: dict[str, int]) -> None: ...

    @app.get("/bug")
    def bug() -> None:
        raise KeyError("secret")

    return app


def _client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://chorus.test")


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


JSON = {"content-type": "application/json"}
Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
REQUESTS: Sequence[tuple[str, int, Ask]] = (
    ("not_found", 404, lambda http: http.get("/nowhere")),
    ("method_not_allowed", 405, lambda http: http.get("/things")),
    (
        "invalid_json",
        400,
        lambda http: http.post("/things", content=b"{", headers=JSON),
    ),
    ("invalid_input", 422, lambda http: http.post("/things", json={"a": "x"})),
    ("invalid_input", 422, lambda http: http.post("/things")),
    ("body_too_large", 413, lambda http: http.post("/things", content=b"x" * (MAX_BODY_BYTES + 1))),
    ("body_too_large", 413, lambda http: http.post("/things", content=_chunks(b"x" * MAX_BODY_BYTES, b"x"))),
    ("internal_error", 500, lambda http: http.get("/bug")),
)


@pytest.mark.parametrize(("code", "status", "ask"), REQUESTS)
async def test_what_the_framework_refuses_says_what_to_do(code: str, status: int, ask: Ask) -> None:
    async with _client(_app()) as http:
        response = await ask(http)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "secret" not in error["message"]
    _says_what_to_do(error, status)


class _Away:
    def __init__(self, exc: Unavailable) -> None:
        self._exc = exc

    async def put(self, events: Sequence[Event]) -> PutResult:
        raise self._exc


WEBHOOKS: Sequence[tuple[str, int, Unavailable, dict[str, Any]]] = (
    ("queue_unavailable", 503, QueueUnavailable("queue", "x"), {"content": b"{}"}),
    ("queue_unavailable", 503, QueueFull("queue", "x"), {"content": b"{}"}),
    ("database_unavailable", 503, Unavailable("database", "x"), {"content": b"{}"}),
    ("invalid_json", 400, QueueFull("queue", "x"), {"content": b"{"}),
    ("body_too_large", 413, QueueFull("queue", "x"), {"content": b"x" * (4 * 1024 * 1024 + 1)}),
    ("invalid_signature", 401, QueueFull("queue", "x"), {"content": b"{}", "headers": {"x-hub-signature-256": "no"}}),
)


@pytest.mark.parametrize(("code", "status", "exc", "sent"), WEBHOOKS)
async def test_what_the_webhook_refuses_says_what_to_do(
    code: str, status: int, exc: Unavailable, sent: dict[str, Any]
) -> None:
    headers = signed_headers("s", sent["content"])
    async with _client(WebhookReceiver(IngestService(_Away(exc)), ["s"])) as http:
        response = await http.post("/webhook/whatsapp", **({"headers": headers} | sent))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert code in MESSAGES or status == 503
    _says_what_to_do(error, status)
