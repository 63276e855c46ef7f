"""/health/live, /health/ready, /health, /metrics: from memory, without I/O.

Plain Starlette routes: balancers, orchestrators and dashboards of a whole fleet ask all the time, and the machinery of
a documented API route costs more than the answer.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import is_operator, may_read_metrics, services
from app.api.openapi import METRICS, OPERATOR, plain_problem
from app.api.plain_route import PlainRoute
from app.core.metrics import render
from app.domain.errors import Unauthenticated

NOT_KEPT = {"Cache-Control": "no-store"}


async def live(request: Request) -> Response:
    return _answer(services(request).health.liveness())


async def ready(request: Request) -> Response:
    return _answer(services(request).health.readiness())


async def health(request: Request) -> Response:
    status, body = services(request).health.page(full=await is_operator(request))
    return Response(body, status, NOT_KEPT, media_type="application/json")


async def metrics(request: Request) -> Response:
    if not await may_read_metrics(request):
        raise Unauthenticated("this needs METRICS_API_KEY or the operator's key")
    body, content_type = render()
    return Response(body, media_type=content_type)


ROUTES = [
    PlainRoute("/health", health),
    PlainRoute("/health/ready", ready),
    PlainRoute("/health/live", live),
    PlainRoute("/metrics", metrics),
]


def _json_answers(properties: dict[str, object], **described: str) -> dict[str, object]:
    """The same shape with every status: what is wrong is in it."""
    schema = {"type": "object", "required": ["status"], "properties": properties}
    return {
        status[1:]: {"description": text, "content": {"application/json": {"schema": schema}}}
        for status, text in described.items()
    }


_STORE = {"type": "string", "description": "`ok`, or what is wrong."}
OPERATIONS: dict[str, Any] = {
    "/health": {
        "get": {
            "tags": ["health"],
            "operationId": "get_health",
            "summary": "The whole picture",
            "description": "For people and dashboards; with the operator's key also the fleet, cache, queue and loops.",
            "security": [{}, OPERATOR],
            "responses": _json_answers(
                {
                    "status": {"enum": ["ok", "degraded", "error"]},
                    "timestamp": {"type": "string", "format": "date-time"},
                    "dependencies": {"type": "object", "additionalProperties": {"type": "object"}},
                    "circuit_breakers": {"type": "object", "additionalProperties": {"type": "object"}},
                },
                _200="`ok`, or `degraded`: something soft fails, or a circuit is not closed.",
                _503="`error`: no useful work is possible here.",
            ),
        }
    },
    "/health/ready": {
        "get": {
            "tags": ["health"],
            "operationId": "get_readiness",
            "summary": "Can this replica do useful work?",
            "description": "For load balancers.",
            "security": [],
            "responses": _json_answers(
                {"status": {"type": "string"}, "redis": _STORE, "database": _STORE},
                _200="`ready`.",
                _503="Starting, draining, or without its stores.",
            ),
        }
    },
    "/health/live": {
        "get": {
            "tags": ["health"],
            "operationId": "get_liveness",
            "summary": "Should this process be restarted?",
            "description": "For orchestrators; without any I/O.",
            "security": [],
            "responses": _json_answers(
                {"status": {"enum": ["alive", "stuck"]}, "loops": {"type": "array", "items": {"type": "string"}}},
                _200="`alive`.",
                _503="`stuck`: a background loop has stopped.",
            ),
        }
    },
    "/metrics": {
        "get": {
            "tags": ["health"],
            "operationId": "get_metrics",
            "summary": "For Prometheus",
            "security": [METRICS, OPERATOR],
            "responses": {
                "200": {
                    "description": "The text format of Prometheus.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                "401": plain_problem(401),
            },
        }
    },
}
"""For the OpenAPI document. Unknown query parameters are ignored here: probes add what they like."""


def _answer(result: tuple[int, dict[str, object]]) -> Response:
    status, body = result
    return Response(orjson.dumps(body), status, NOT_KEPT, media_type="application/json")
