"""/health/live, /health/ready, /health, /metrics: from memory, without I/O."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.deps import is_operator, services
from app.core.metrics import render

router = APIRouter(tags=["health"])


@router.get("/health/live")
async def live(request: Request) -> Response:
    return _answer(services(request).health.liveness())


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    return _answer(services(request).health.readiness())


@router.get("/health")
async def health(request: Request) -> Response:
    return _answer(services(request).health.picture(full=is_operator(request)))


@router.get("/metrics")
async def metrics() -> Response:
    body, content_type = render()
    return Response(body, media_type=content_type)


def _answer(result: tuple[int, dict[str, Any]]) -> Response:
    status, body = result
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, media_type="application/json")
