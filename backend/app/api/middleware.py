"""Around every route but the webhook, which does its own: a request id, one log line, RED metrics, a body limit."""

from __future__ import annotations

import re
import time
from typing import Any

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.body_limit import announced_bytes
from app.api.errors import BODY_TOO_LARGE, error_response
from app.core.logging import bind_request_id, log_canonical

MAX_BODY_BYTES = 1024 * 1024
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REQUEST_SECONDS = Histogram(
    "chorus_http_request_seconds", "Requests by route and status", ["method", "route", "status"]
)


class Observed:
    """Outermost middleware. The request id is the caller's `X-Request-ID` if `REQUEST_ID` allows it, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = bind_request_id(given if REQUEST_ID.fullmatch(given) else None)
        status = 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if announced_bytes(headers.get(b"content-length", b"0"), limit=MAX_BODY_BYTES) > MAX_BODY_BYTES:
                response = error_response(413, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
                await response(scope, receive, observed_send)
            else:
                await self._app(scope, _bounded(receive, scope), observed_send)
        finally:
            seconds = time.perf_counter() - started
            route = _route(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUEST_SECONDS.labels(method, route, status).observe(seconds)
            if not route.startswith(("/health", "/metrics")) or status >= 500:
                log_canonical(
                    "request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 2)
                )


def _bounded(receive: Receive, scope: Scope) -> Receive:
    """A chunked body has no length to check beforehand."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            scope[BODY_TOO_LARGE] = True
            return {"type": "http.disconnect"}
        return message

    return bounded


def _route(scope: dict[str, Any] | Scope) -> str:
    """The template, never the path: a label must not grow with what strangers ask for."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unmatched"
