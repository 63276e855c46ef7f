"""/health/live, /health/ready, /health, /metrics: from memory, without I/O.

Plain Starlette routes: balancers, orchestrators and dashboards of a whole fleet ask all the time, and the machinery of
a documented API route costs more than the answer.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import is_operator, services
from app.api.plain_route import PlainRoute
from app.core.metrics import render

NOT_KEPT = {"Cache-Control": "no-store"}


async def live(request: Request) -> Response:
    return _answer(services(request).health.liveness())


async def ready(request: Request) -> Response:
    return _answer(services(request).health.readiness())


async def health(request: Request) -> Response:
    status, body = services(request).health.page(full=is_operator(request))
    return Response(body, status, NOT_KEPT, media_type="application/json")


async def metrics(_request: Request) -> Response:
    body, content_type = render()
    return Response(body, media_type=content_type)


ROUTES = [
    PlainRoute("/health", health),
    PlainRoute("/health/ready", ready),
    PlainRoute("/health/live", live),
    PlainRoute("/metrics", metrics),
]


def _answer(result: tuple[int, dict[str, Any]]) -> Response:
    status, body = result
    return Response(orjson.dumps(body), status, NOT_KEPT, media_type="application/json")
