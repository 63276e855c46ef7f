"""The OpenAPI document: what FastAPI finds out by itself, and what it cannot know.

FastAPI knows the routes of the JSON API, their parameters, bodies and answers. Added here: the one error shape with
the status codes that each route can give, who may call what, descriptions of the tags, and the routes that are plain
ASGI (health, metrics, webhook), which are written by hand beside their code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from app.domain.models import Json

Security = dict[str, list[str]]

OPERATOR: Security = {"operatorKey": []}
USER: Security = {"supabaseToken": []}
KEY: Security = {"apiKey": []}
METRICS: Security = {"metricsKey": []}
SESSION: Security = {"session": []}

_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "5",
    }
}
_CHALLENGE = {
    "WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}},
}
_STATUSES: Mapping[int, tuple[str, str, Json]] = {
    400: ("invalid_json", "The body is not JSON.", {}),
    401: ("unauthenticated", "No credentials, or wrong ones.", _CHALLENGE),
    403: ("forbidden", "The credentials are right, but this needs more: another role, or the operator.", {}),
    404: ("account_not_found", "It does not exist, or the caller may not know that it does.", {}),
    409: ("slug_taken", "The request is well formed, but the present state forbids it.", {}),
    413: ("body_too_large", "The body is larger than 1 MiB.", {}),
    416: ("range_not_satisfiable", "The file has no such part.", {}),
    422: ("invalid_input", "Something in the request is wrong; `field` names it where there is one.", {}),
    429: ("rate_limited", "Too often; try again later.", _RETRY_AFTER),
    503: ("database_unavailable", "Something this needs is away. Repeating the request is safe.", _RETRY_AFTER),
}
"""Status -> an example of its code, what it means, its headers."""

_TAGS = [
    {"name": "session", "description": "Signing in to the console: a cookie in place of a bearer token."},
    {"name": "accounts", "description": "Businesses and their WhatsApp numbers."},
    {"name": "members", "description": "The people who may act for an account: owners, agents, viewers."},
    {"name": "api keys", "description": "Keys with which programs act for an account, each with a role."},
    {"name": "bot", "description": "What an account's bot knows and how it speaks."},
    {"name": "conversations", "description": "What customers and the account have written; answering by hand."},
    {"name": "contacts", "description": "A customer's data: handed out, or erased."},
    {"name": "events", "description": "Webhooks that tell other systems what happens; signed as in Standard Webhooks."},
    {"name": "live", "description": "What happens in an account, as it happens."},
    {"name": "admin", "description": "For operators: fleet, circuits, cache, queue, dead letters."},
    {"name": "health", "description": "For balancers, orchestrators and dashboards. Unknown parameters are ignored."},
    {"name": "webhook", "description": "For Meta. Unknown parameters are ignored."},
]  # fmt: skip

_SECURITY_SCHEMES = {
    "operatorKey": {"type": "http", "scheme": "bearer", "description": "ADMIN_API_KEY: may do everything."},
    "metricsKey": {"type": "http", "scheme": "bearer", "description": "METRICS_API_KEY: opens `/metrics` only."},
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "`chorus_…`, a key of one account, which may do there what a member with its role may.",
    },
    "supabaseToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The access token of a person who has signed in with Supabase; the membership in the account"
        " decides what they may do.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "chorus_session",
        "description": "From `POST /session`; `__Host-chorus_session` over https. With it a request that changes"
        " something must come from a page of the same origin (`Sec-Fetch-Site` or `Origin`).",
    },
}


class ProblemOut(BaseModel):
    code: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", description="Stable; for programs.")]
    message: Annotated[str, Field(description="A sentence that says what to do; for people.")]
    request_id: Annotated[str | None, Field(description="The log has it under this id; also in `X-Request-ID`.")]
    field: Annotated[str, Field(description="The part of the request that is wrong.")] = ""


class ErrorOut(BaseModel):
    """The shape of every error."""

    error: ProblemOut


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The errors of a route, for FastAPI's `responses=`."""
    return {
        status: {
            "model": ErrorOut,
            "description": description,
            "headers": headers,
            "content": _example(code, description),
        }
        for status, (code, description, headers) in _STATUSES.items()
        if status in statuses
    }


def plain_problem(status: int, description: str = "") -> dict[str, Any]:
    """The same for a route that is described by hand."""
    code, usual, headers = _STATUSES[status]
    text = description or usual
    content = _example(code, text)
    content["application/json"]["schema"] = {"$ref": "#/components/schemas/ErrorOut"}
    return {"description": text, "headers": headers, "content": content}


def document(app: FastAPI, plain: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The whole document, OpenAPI 3.1. `plain`: path -> path item of the routes described by hand."""
    found = get_openapi(
        title="Chorus",
        version=app.version,
        summary="A WhatsApp AI-bot backend whose replicas act as one.",
        description="Errors have one shape, `ErrorOut`. Unknown fields in bodies and unknown query parameters are"
        " refused with 422. `X-Request-ID` (up to 64 letters, digits, `.`, `_`, `-`) is taken over into the logs.",
        license_info={"name": "MIT", "identifier": "MIT"},
        tags=_TAGS,
        routes=app.routes,
    )
    for item in found["paths"].values():
        for operation in item.values():
            people = [] if "admin" in operation["tags"] else [USER, KEY]
            operation.setdefault("security", [OPERATOR, *people, SESSION])
    found["paths"] |= plain
    found["components"]["securitySchemes"] = _SECURITY_SCHEMES
    return found


def _example(code: str, message: str) -> dict[str, Any]:
    example = {"error": {"code": code, "message": message, "request_id": "0b1f6c2a00000001"}}
    return {"application/json": {"example": example}}
