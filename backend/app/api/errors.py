"""One table: what an error means to an HTTP caller. One shape: `{"error":{"code","message","request_id"}}`.

A message says what happened and what to do about it (`api/advice.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.api.advice import sentence
from app.api.field_words import in_words
from app.core.logging import request_id
from app.domain.errors import (
    ChorusError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    SendError,
    Unauthenticated,
    Unavailable,
)

logger = logging.getLogger(__name__)

STATUS_OF: tuple[tuple[type[Exception], int], ...] = (
    (InvalidInput, 422),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (RateLimited, 429),
    (SendError, 502),
    (Unavailable, 503),
    (ChorusError, 500),
)
"""First match wins."""

DEFAULT_RETRY_AFTER_SECONDS = 5
MAX_MESSAGE_CHARS = 500
HTTP_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("bad_request", "the request cannot be read"),
    404: ("not_found", "there is no such route"),
    405: ("method_not_allowed", "this route does not take this method"),
    413: ("body_too_large", "the body is too large"),
    503: ("overloaded", "too many large bodies are on their way"),
}
"""The framework's own errors: code, and what happened."""


def error_response(
    status: int, code: str, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """`message`: what happened; what to do about it is added."""
    message = sentence(code, status, _printable(message))
    error: dict[str, object] = {"code": code, "message": message, "request_id": request_id()}
    if field:
        error["field"] = _printable(field)
    return Response(orjson.dumps({"error": error}), status, headers, media_type="application/json")


def _printable(text: str) -> str:
    """Names that callers chose come back here: cut, and without what UTF-8 cannot hold."""
    return text[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ChorusError, _expected)
    app.add_exception_handler(Unavailable, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _cut_off)
    app.add_exception_handler(Exception, _bug)


async def _expected(_request: Request, exc: Exception) -> Response:
    return response_for(exc)


def response_for(exc: Exception) -> Response:
    """The response for an error raised on purpose."""
    status = next(status for kind, status in STATUS_OF if isinstance(exc, kind))
    headers: dict[str, str] = {}
    if isinstance(exc, Unavailable):
        logger.warning("dependency unavailable", extra={"dependency": exc.dependency, "reason": str(exc)})
        headers["Retry-After"] = str(math.ceil(exc.retry_after or DEFAULT_RETRY_AFTER_SECONDS))
        return error_response(
            status, f"{exc.dependency}_unavailable", f"{exc.dependency} is unavailable", headers=headers
        )
    if isinstance(exc, RateLimited):
        headers["Retry-After"] = str(math.ceil(exc.retry_after))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    assert isinstance(exc, ChorusError)  # noqa: S101  the table's last row
    field = exc.field if isinstance(exc, InvalidInput) else None
    return error_response(status, exc.code, str(exc), field=field, headers=headers)


async def _invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  registered for it only
    first = exc.errors()[0]
    if first["loc"] == ("body",) and isinstance(exc.body, bytes):
        given = request.headers.get("content-type") or "none"
        what = f"the body must be JSON with Content-Type: application/json; this request's is {given}"
        return error_response(422, "invalid_input", what)
    if first["type"] == "json_invalid":
        return error_response(400, "invalid_json", "the body is not valid JSON")
    field = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"})
    problem = in_words(first)
    what = f'the field "{field}" is wrong: {problem}' if field else problem
    return error_response(422, "invalid_input", what, field=field)


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101  registered for it only
    status = exc.status_code
    code, what = HTTP_ERRORS.get(status, (f"http_{status}", str(exc.detail)))
    headers = {"Allow": _allowed_methods(request)} if status == 405 else exc.headers
    return error_response(status, code, what, headers=headers)


async def _cut_off(_request: Request, _exc: Exception) -> Response:
    """The body ended too early: a person cancelled, a line broke. For the log and the metrics, since the caller has
    gone."""
    return error_response(400, *HTTP_ERRORS[400])


def _allowed_methods(request: Request) -> str:
    """All of the path's: every method is a route of its own, and the one that refused knows no other."""
    route = request.scope.get("route")
    documented = request.app.openapi()["paths"].get(getattr(route, "path", None), {})
    return ", ".join(sorted({method.upper() for method in documented} | set(getattr(route, "methods", None) or ())))


async def _bug(_request: Request, exc: Exception) -> Response:
    logger.error("unhandled error", exc_info=exc)
    return error_response(500, "internal_error", "something went wrong on our side")
