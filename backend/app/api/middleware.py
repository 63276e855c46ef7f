"""Around every route but the webhook, which does its own: a request id, one log line, RED metrics, bounds on the body,
headers of every answer."""

from __future__ import annotations

import re
import time

from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.body_limit import BodiesTooLarge, Body, BodyBudget, BodyTooLarge, announced_bytes
from app.api.errors import error_response
from app.api.form import is_form
from app.core.logging import bind_request_id, log_canonical
from app.domain import media

MAX_BODY_BYTES = 1024 * 1024
MAX_BODIES_BYTES = 8 * 1024 * 1024
"""Of all requests that are under way at the same time, besides those of strangers, whose bodies are not read."""
UPLOADS = re.compile(r"/conversations/[^/]+/messages")
"""Where a form with a file may be larger."""
MAX_UPLOAD_BYTES = media.MAX_UPLOAD_BYTES + 64 * 1024
MAX_UPLOADS_BYTES = 48 * 1024 * 1024
"""Of all forms with files that are on their way."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STREAM = "/events"
REQUEST_SECONDS = Histogram(
    "chorus_http_request_seconds", "Requests by route and status", ["method", "route", "status"]
)
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


class Observed:
    """Outside of everything. The request id is the caller's `X-Request-ID` if `REQUEST_ID` allows it, else a new one.

    An answer that comes before the whole body is here announces that the connection will be closed. An error that was
    answered with a 500 ends here: the application's handler has logged it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._budget = BodyBudget(MAX_BODIES_BYTES)
        self._uploads = BodyBudget(MAX_UPLOADS_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = bind_request_id(given if REQUEST_ID.fullmatch(given) else None)
        is_upload = UPLOADS.fullmatch(scope["path"]) is not None and is_form(scope)
        most = MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES
        body = _ApiBody(receive, headers, self._uploads if is_upload else self._budget, max_bytes=most)
        status, is_answered, began = 500, False, 0.0

        async def observed_send(message: Message) -> None:
            nonlocal status, is_answered, began
            if message["type"] == "http.response.start":
                status, began = message["status"], time.perf_counter()
                message["headers"] = _headers(message["headers"], request_id, closes=not body.is_complete)
            await send(message)
            is_answered = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            if announced_bytes(headers.get(b"content-length", b"0"), limit=most) > most:
                response = error_response(413, "body_too_large", f"the body is larger than {most} bytes")
                await response(scope, receive, observed_send)
            else:
                await self._app(scope, body.receive, observed_send)
        except Exception:
            if not is_answered:
                raise
        finally:
            body.close()
            # A stream lasts as long as its reader wants: what counts is how soon it begins.
            ended = began if began and _route(scope) == STREAM else time.perf_counter()
            _record(scope, status, ended - started)


def _headers(own: list[tuple[bytes, bytes]], request_id: str, *, closes: bool) -> list[tuple[bytes, bytes]]:
    """Answers are about people: no cache keeps them, unless the route says how long."""
    added = [(b"x-request-id", request_id.encode()), _NOSNIFF]
    if not any(name == b"cache-control" for name, _ in own):
        added.append(_NO_STORE)
    if closes:
        added.append(_CLOSE)
    return [*own, *added]


def _record(scope: Scope, status: int, seconds: float) -> None:
    route = _route(scope)
    method = scope["method"] if scope["method"] in METHODS else "other"
    REQUEST_SECONDS.labels(method, route, status).observe(seconds)
    if not route.startswith(("/health", "/metrics")) or status >= 500:
        log_canonical("request", method=method, route=route, status=status, ms=round(seconds * 1000, 2))


class _ApiBody(Body):
    """Read when the application asks for it, and handed over in one piece."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], budget: BodyBudget, *, max_bytes: int) -> None:
        super().__init__(receive, max_bytes=max_bytes, budget=budget)
        self._receive_next = receive
        self.is_complete = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        self._is_handed_over = False

    async def receive(self) -> Message:
        """ASGI's. Raises `HTTPException`, which FastAPI lets through where it reads bodies."""
        if self._is_handed_over:
            return await self._receive_next()
        self._is_handed_over = True
        if self.is_complete:
            return await self._receive_next()
        try:
            body = await self.read()
        except BodyTooLarge:
            raise HTTPException(413) from None
        except BodiesTooLarge:
            raise HTTPException(503, headers={"Retry-After": "5"}) from None
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}


def _route(scope: dict[str, object] | Scope) -> str:
    """The template, never the path: a label must not grow with what strangers ask for."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unmatched"
