"""`/webhook/whatsapp`: verified, stored, 200. Plain ASGI: Meta sends three statuses for every message, so every
microsecond here counts threefold, and nothing may be parsed before the signature over the raw bytes is verified.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import orjson
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from app.api.advice import sentence
from app.api.body_limit import BodiesTooLarge, Body, BodyBudget, BodyTooLarge, announced_bytes
from app.api.deps import services
from app.api.errors import error_response
from app.api.openapi import plain_problem
from app.core.errors import Expected, Unavailable
from app.core.failure_words import in_words
from app.core.logging import bind_request_id, log_canonical
from app.core.tolerant_json import loads
from app.core.tracing import span
from app.domain.app_secrets import read_app_secrets, signer_of
from app.services.ingest_service import IngestService

logger = logging.getLogger(__name__)

PATH = "/webhook/whatsapp"
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Meta sends up to 3 MB (Cloud API webhooks, payload size)."""
MAX_BODIES_BYTES = 24 * 1024 * 1024
"""Of all deliveries that are not complete yet. One that comes in one piece, as ordinary ones do, is not counted."""
SIGNATURE = re.compile(rb"sha256=[0-9a-f]{64}")
RETRY_AFTER = b"5"

WEBHOOK_SECONDS = Histogram(
    "chorus_webhook_seconds",
    "Time to the answer, by HTTP status",
    ["status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
_OK_SECONDS = WEBHOOK_SECONDS.labels(200)
REFUSED = Counter("chorus_webhook_refused_total", "Requests of Meta, or of strangers, that were refused", ["reason"])
for _reason in (
    "signature_missing", "signature_malformed", "signature_wrong", "invalid_json", "body_too_large", "overloaded",
    "unavailable", "verification_failed",
):  # fmt: skip
    REFUSED.labels(_reason)  # from the start: an increase from nothing is none to Prometheus
TELL_SECONDS = 60.0
"""Refused signatures and handshakes are told once a minute: a warning for each would be a way to fill the disk."""
MAX_LOOKS = 2
"""For a verify token that strangers may have made up, at the same time."""


class Unsigned(Expected):
    """The request cannot be Meta's; the text is the reason to count."""


class WebhookReceiver:
    """`POST /webhook/whatsapp` as an ASGI callable. `app_secrets`: as META_APP_SECRET has them.

    200: durably stored · 400: not JSON · 401: no or wrong signature, nothing stored · 413 · 503: nothing durable could
    take it, or too many large deliveries at once and this one has been on its way the longest; Meta delivers again.

    Without a well-formed signature the body is not read. An answer that comes before the whole body announces that the
    connection will be closed.
    """

    def __init__(self, ingest: IngestService, app_secrets: Sequence[str]) -> None:
        self._ingest = ingest
        self._secrets = read_app_secrets(app_secrets)
        self._budget = BodyBudget(MAX_BODIES_BYTES)
        self._told_at = -TELL_SECONDS
        self._untold = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = bind_request_id()
        body = Body(receive, max_bytes=MAX_BODY_BYTES, budget=self._budget)
        accepted = duplicates = 0
        error = refused = reason = ""
        try:
            content = await self._signed_content(scope, body)
            if content is None:
                return
            app_id, payload = content
            with span("webhook"):
                result = await self._ingest.accept(loads(payload), signed_by=app_id)
            accepted, duplicates = result.accepted, result.duplicates
            status = 200
        except Unsigned as exc:
            status, error, refused = 401, "invalid_signature", str(exc)
            self._tell_unsigned(refused, started)
        except BodyTooLarge:
            status, error, refused = 413, "body_too_large", "body_too_large"
        except BodiesTooLarge:
            status, error, refused = 503, "overloaded", "overloaded"
        except json.JSONDecodeError:
            status, error, refused = 400, "invalid_json", "invalid_json"
        except Unavailable as exc:
            status, error, refused = 503, f"{exc.dependency}_unavailable", "unavailable"
            reason = in_words(exc)
        finally:
            body.close()
        if status == 200:
            await send(_OK_START)
            await send(_OK_BODY)
        else:
            REFUSED.labels(refused).inc()
            await _refuse(send, status, error, request_id, closes=not body.is_complete)
        seconds = time.perf_counter() - started
        (_OK_SECONDS if status == 200 else WEBHOOK_SECONDS.labels(status)).observe(seconds)
        log_canonical(
            "webhook", status=status, accepted=accepted, duplicates=duplicates, error=error, reason=reason or refused,
            ms=round(seconds * 1000, 2),
        )  # fmt: skip

    async def _signed_content(self, scope: Scope, body: Body) -> tuple[str, bytes] | None:
        """The app that signed it, and the body. `None` if the client went away. Raises `Unsigned`, `BodyTooLarge` or
        `BodiesTooLarge`."""
        signature, length = _headers(scope)
        if SIGNATURE.fullmatch(signature) is None:
            body.is_complete = length == 0
            raise Unsigned("signature_malformed" if signature else "signature_missing")
        if length > MAX_BODY_BYTES:
            raise BodyTooLarge
        content = await body.read()
        if content is None:
            return None
        app_id = signer_of(self._secrets, content, signature)
        if app_id is None:
            raise Unsigned("signature_wrong")
        return app_id, content

    def _tell_unsigned(self, refused: str, now: float) -> None:
        """With a wrong app secret every delivery ends here, and nothing else in the system goes wrong."""
        self._untold += 1
        if now - self._told_at >= TELL_SECONDS:
            logger.warning(
                "webhooks refused: the signature does not match; is META_APP_SECRET the secret of the app that sends?",
                extra={"reason": refused, "refused": self._untold},
            )
            self._told_at, self._untold = now, 0


def _headers(scope: Scope) -> tuple[bytes, int]:
    """(signature, body length as announced). An announcement that is no number is more than any body; chunks, which
    announce nothing, are at least one byte."""
    signature, length = b"", 0
    for name, value in scope["headers"]:
        if name == b"x-hub-signature-256":
            signature = value
        elif name == b"content-length":
            length = announced_bytes(value, limit=MAX_BODY_BYTES)
        elif name == b"transfer-encoding":
            length = max(length, 1)
    return signature, length


async def _refuse(send: Send, status: int, error: str, request_id: str, *, closes: bool) -> None:
    message = sentence(error, status, MESSAGES.get(error, NOT_STORED))
    body = orjson.dumps({"error": {"code": error, "message": message, "request_id": request_id}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", RETRY_AFTER))
    if closes:
        # The rest of the body is on the wire; reading it is what we refuse.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_OK_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
_OK_BODY = {"type": "http.response.body", "body": b"OK"}
MESSAGES = {
    "invalid_signature": "X-Hub-Signature-256 is missing or does not match the body",
    "invalid_json": "the body is not valid JSON",
    "body_too_large": f"the body is larger than {MAX_BODY_BYTES} bytes",
    "overloaded": "too many large deliveries are on their way",
}
NOT_STORED = "nothing durable could store this"
"""Whatever is away."""


class Handshake:
    """`GET /webhook/whatsapp`: Meta's, once for an app. Guessed tokens get two looks into the database at a
    time; a handshake beside them is answered 503, and Meta's form is sent again."""

    def __init__(self) -> None:
        self._looking = 0
        self._told_at: dict[str, float] = {}

    async def answer(self, request: Request) -> Response:
        """The raw challenge back if the token is the global one or an account's."""
        query = request.query_params
        token, challenge = query.get("hub.verify_token", ""), query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not token:
            return self._refuse("hub.mode or hub.verify_token is missing")
        replica = services(request)
        expected = replica.verify_token
        is_global = expected is not None and secrets.compare_digest(expected.encode(), token.encode())
        if not is_global:
            if self._looking >= MAX_LOOKS:
                REFUSED.labels("overloaded").inc()
                return error_response(503, "overloaded", "many handshakes at once", headers={"Retry-After": "5"})
            self._looking += 1
            try:
                account = await replica.accounts.by_verify_token(token)
            finally:
                self._looking -= 1
            if account is None:
                return self._refuse("no account has this verify token")
        return PlainTextResponse(challenge)

    def _refuse(self, what: str) -> Response:
        REFUSED.labels("verification_failed").inc()
        now = time.monotonic()
        if now - self._told_at.get(what, -math.inf) >= TELL_SECONDS:
            self._told_at[what] = now
            logger.warning("webhook verification refused", extra={"reason": what})
        return error_response(403, "verification_failed", what)


def _query(name: str, description: str, **schema: object) -> dict[str, object]:
    """Not required: what is missing is a refused handshake (403), as it is for Meta."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"} | schema}


def _unsigned() -> dict[str, object]:
    """Without the challenge that a 401 of the other routes carries."""
    return plain_problem(401, "The signature is missing or does not match; nothing was stored.") | {"headers": {}}


OPERATIONS: dict[str, Any] = {
    PATH: {
        "get": {
            "tags": ["webhook"],
            "operationId": "verify_webhook",
            "summary": "Meta's handshake",
            "description": "When the webhook is entered in the app's dashboard, Meta asks for the challenge back.",
            "security": [],
            "parameters": [
                _query("hub.mode", "Always `subscribe`.", example="subscribe"),
                _query("hub.verify_token", "WHATSAPP_VERIFY_TOKEN, or an account's `verify_token`."),
                _query("hub.challenge", "Comes back as it is.", example="1158201444"),
            ],
            "responses": {
                "200": {
                    "description": "The challenge.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                "403": plain_problem(403, "The verify token is nobody's, or the mode is another."),
                "503": plain_problem(503),
            },
        },
        "post": {
            "tags": ["webhook"],
            "operationId": "receive_webhook",
            "summary": "Messages and statuses from Meta",
            "description": "Stored durably, then 200; everything else happens afterwards. Meta repeats what was not"
            " answered with 200 for seven days.",
            "security": [],
            "parameters": [
                {
                    "name": "X-Hub-Signature-256",
                    "in": "header",
                    "required": True,
                    "description": "HMAC-SHA256 of the raw body with the Meta app's secret.",
                    "schema": {"type": "string", "pattern": "^sha256=[0-9a-f]{64}$"},
                }
            ],
            "requestBody": {
                "required": True,
                "description": "As the Cloud API documents it; unknown shapes are kept as dead letters.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "responses": {
                "200": {"description": "Stored, or known already. The body is `OK`, without a content type."},
                "400": plain_problem(400),
                "401": _unsigned(),
                "413": plain_problem(413, f"The body is larger than {MAX_BODY_BYTES} bytes."),
                "503": plain_problem(503, "Nothing durable could take it; Meta delivers it again."),
            },
        },
    }
}
"""For the OpenAPI document: neither is one of FastAPI's routes."""
