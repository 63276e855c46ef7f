"""The OpenAPI document: valid, in step with the code, and complete enough to write a client from it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import schemathesis

from app.api.errors import STATUS_OF, response_for
from app.core.errors import Unavailable
from app.domain import errors
from app.main import create_app
from app.settings import Settings
from tests.support.source import openapi_document

DOCUMENT = openapi_document()
OPERATIONS = [
    (method.upper(), path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]
JSON_API = [each for each in OPERATIONS if not {"health", "webhook"} & set(each[2]["tags"])]


OPEN = {("POST", "/session"), ("POST", "/session/magic-link"), ("DELETE", "/session")}
"""For people who are not signed in, or no more."""


def is_open(operation: dict[str, Any]) -> bool:
    return operation["security"] in ([], [{}, {"session": []}])


def names(operations: list[tuple[str, str, Any]]) -> list[str]:
    return [f"{method} {path}" for method, path, _ in operations]


def resolved(schema: Any) -> Any:
    """With `$ref` replaced, so that it stands alone."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return resolved(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in schema.items()}
    return [resolved(item) for item in schema] if isinstance(schema, list) else schema


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("settings", [{}, {"app_env": "production", "signup": "open", "redis_namespace": "x"}])
def test_the_exported_document_is_in_step_with_the_code_whatever_the_settings_are(settings: dict[str, Any]) -> None:
    made = create_app(Settings.model_construct(**settings)).openapi()
    assert json.loads(json.dumps(made)) == DOCUMENT, "run: make openapi"


def test_operation_ids_are_unique_words() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert all(name.isidentifier() and "__" not in name for name in ids)


def test_health_metrics_and_webhook_are_in_it() -> None:
    assert {
        "GET /health", "GET /health/live", "GET /health/ready", "GET /metrics", "GET /webhook/whatsapp",
        "POST /webhook/whatsapp",
    } <= set(names(OPERATIONS))  # fmt: skip


def test_every_tag_is_described_and_used() -> None:
    described = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert set(described) == {tag for _, _, operation in OPERATIONS for tag in operation["tags"]}
    assert all(text.endswith(".") for text in described.values())


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=names(OPERATIONS))
def test_every_operation_says_what_it_does(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation.get("description") or operation["summary"]
    assert operation["summary"]


@pytest.mark.parametrize(("method", "path", "operation"), JSON_API, ids=names(JSON_API))
def test_every_operation_of_the_json_api_says_who_may_and_what_can_go_wrong(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    only_operators = path.startswith("/admin/")
    people = [] if only_operators else [{"supabaseToken": []}, {"apiKey": []}]
    statuses = set(operation["responses"])
    if is_open(operation):
        assert (method, path) in OPEN
    else:
        assert operation["security"] == [{"operatorKey": []}, *people, {"session": []}]
        assert "401" in statuses
    assert {"422", "503"} <= statuses
    assert ("requestBody" in operation) == ({"400", "413"} <= statuses)
    if only_operators or method not in ("GET", "POST"):
        assert "403" in statuses
    if (
        "account_id" in path
        or "conversation_id" in path
        or any(parameter["name"] == "account_id" for parameter in operation.get("parameters", ()))
    ):
        assert "404" in statuses
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorOut"}
            example = response["content"]["application/json"]["example"]
            jsonschema.validate(example, resolved({"$ref": "#/x/ErrorOut"}))


def test_the_real_errors_have_the_documented_shape_and_status() -> None:
    schema = resolved({"$ref": "#/x/ErrorOut"})
    for exc in (
        errors.InvalidInput("x", field="a.b"), errors.IdempotencyKeyReused("x"), errors.Unauthenticated("x"),
        errors.Forbidden("x"), errors.NotFound("account"), errors.Conflict("slug_taken", "x"),
        errors.RateLimited("x", retry_after=1.5), Unavailable("database", "x"),
    ):  # fmt: skip
        response = response_for(exc)
        jsonschema.validate(json.loads(response.body), schema)
        documented = next(
            operation["responses"][str(response.status_code)]
            for _, _, operation in JSON_API
            if str(response.status_code) in operation["responses"]
        )
        for header in documented.get("headers", {}):
            assert header in response.headers, (exc, header)
    assert {status for _, status in STATUS_OF} - {500, 502} <= {
        int(status) for _, _, operation in JSON_API for status in operation["responses"]
    }


@pytest.mark.parametrize(
    ("schema", "field", "values"),
    [
        ("MemberOut", "role", {"owner", "agent", "viewer"}), ("MemberIn", "role", {"owner", "agent", "viewer"}),
        ("MessageOut", "direction", {"inbound", "outbound"}), ("MessageOut", "author", {"customer", "bot", "human"}),
        ("MessageOut", "status", {"received", "pending", "sending", "sent", "delivered", "read", "played", "failed"}),
        ("ReplyOut", "state", {"pending", "sending", "sent", "failed", "silenced"}),
        ("BreakerOut", "state", {"closed", "open", "half_open"}), ("BreakerIn", "action", {"open", "close", "auto"}),
    ],
)  # fmt: skip
def test_states_and_roles_are_enumerated(schema: str, field: str, values: set[str]) -> None:
    assert set(resolved(DOCUMENT["components"]["schemas"][schema]["properties"][field])["enum"]) == values


def test_every_body_has_an_example_that_fits_it() -> None:
    for _method, path, operation in JSON_API:
        if "requestBody" in operation:
            schema = resolved(operation["requestBody"]["content"]["application/json"]["schema"])
            assert schema["examples"], path
            for example in schema["examples"]:
                jsonschema.validate(example, schema)


def test_what_must_not_be_null_is_not_nullable() -> None:
    fields = DOCUMENT["components"]["schemas"]["AccountChanges"]["properties"]
    nullable = {name for name, field in fields.items() if {"type": "null"} in field.get("anyOf", ())}
    assert nullable == {"app_id", "daily_token_budget", "phone_number"}
    assert not any("default" in field for name, field in fields.items() if name not in nullable)
    for _, path, operation in OPERATIONS:
        for parameter in operation.get("parameters", ()):
            assert parameter["schema"]["type"] in ("string", "integer", "boolean"), path
