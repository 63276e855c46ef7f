"""Routes of the JSON API: who asks is known before the body is read, bodies are read strictly, and what the caller did
not ask for is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.body_limit import announced_bytes
from app.api.deps import authenticate, known_query, only_known_query
from app.domain.identifiers import as_written_by_us

OPEN_BYTES = 16 * 1024
"""As much of a body as no limit of all bodies together counts (`body_limit.py`)."""


_NOT_OURS = frozenset({"user_id"})


class StrictJsonRequest(Request):
    """The standard library reads NaN, lone surrogates and numbers of any length, which nothing behind us can store."""

    async def json(self) -> Any:
        """RFC 8259 in UTF-8, nothing more. Whole numbers beyond 64 bits become floating-point numbers."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """FastAPI reads the body before it solves the dependencies: a stranger's body would take memory from the others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            await authenticate(request)
            _name_rows_as_we_do(request)
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return strictly


def _name_rows_as_we_do(request: Request) -> None:
    """Ids of rows in the path, as written by us. Ids of people come from the identity provider and stay as they are."""
    given = request.path_params
    request.scope["path_params"] = {
        name: as_written_by_us(value) if name not in _NOT_OURS and isinstance(value, str) else value
        for name, value in given.items()
    }


class OpenRoute(APIRoute):
    """For strangers: a body of theirs is read only if it says that it is small, which costs the others nothing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        handle = super().get_route_handler()

        async def small(request: Request) -> Response:
            announced = request.headers.get("content-length", "0").encode("latin-1")
            if "transfer-encoding" in request.headers or announced_bytes(announced, limit=OPEN_BYTES) > OPEN_BYTES:
                raise HTTPException(413)
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return small


def open_router(prefix: str, tag: str) -> APIRouter:
    """Routes that need no credentials."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=OpenRoute,
        dependencies=[Depends(only_known_query)],
        generate_unique_id_function=_operation_id,
    )


def json_router(prefix: str, tag: str, *conditions: Callable[..., object]) -> APIRouter:
    """All routes of one resource. `conditions` are dependencies that refuse who may not."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=JsonRoute,
        dependencies=[Depends(condition) for condition in (*conditions, known_query)],
        generate_unique_id_function=_operation_id,
    )


def _operation_id(route: APIRoute) -> str:
    """The function's name, in the document and in the clients generated from it: it stays when a path moves."""
    return route.name
