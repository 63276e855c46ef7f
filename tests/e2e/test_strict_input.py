"""What broken and hostile clients send to the JSON API: refused in words, never an answer of 5xx, never half done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from app.api.middleware import MAX_BODY_BYTES
from tests.support.replica import Replica, one_replica, token_of
from tests.support.serving import OPERATOR_KEY
from tests.support.source import openapi_document

MISSING = "00000000-0000-4000-8000-000000000000"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: none of them breaks anything."""
    async with one_replica(*module_stores) as api:
        yield api


async def exchange(api: Replica, head: str, body: bytes = b"") -> bytes:
    """The answer to bytes that no client library sends."""
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    request = f"{head}\r\nHost: x\r\nAuthorization: Bearer {OPERATOR_KEY}\r\nConnection: close\r\n\r\n"
    writer.write(request.replace("\n\n", "\r\n").encode("latin-1") + body)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def send(api: Replica, method: str, path: str, raw: bytes, **headers: str) -> Any:
    response = await api.raw(method, path, content=raw, headers={"Content-Type": "application/json"} | headers)
    assert response.status_code < 500, response.text
    return response


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["name", "slug", "access_token", "verify_token", "is_active", "bot_auto_on"])
async def test_null_for_what_an_account_must_have_is_refused_by_name(api: Replica, field: str) -> None:
    account = await api.new_account()
    error = await api.refused("PATCH", f"/accounts/{account['id']}", status=422, json={field: None})
    assert error["field"] == field
    assert account in await api("GET", "/accounts")


async def test_what_may_be_null_may_be_null_and_an_empty_change_changes_nothing(api: Replica) -> None:
    account = await api.new_account(phone_number="+33123456789")
    path = f"/accounts/{account['id']}"
    assert (await api("PATCH", path, json={"phone_number": None}))["phone_number"] is None
    assert (await api("PATCH", path, json={}))["slug"] == account["slug"]
    profile = f"/bot/profile?account_id={account['id']}"
    fields = [name for name in await api("GET", profile) if name not in ("account_id", "updated_at")]
    before = await api("GET", profile)
    after = await api("PUT", profile, json=dict.fromkeys(fields))
    assert {name: after[name] for name in fields} == {name: before[name] for name in fields}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff", b'{"hours": "\xc3"}', b'{"hours": NaN}', b'{"custom_fields": {"a": Infinity}}',
        b'{"custom_fields": {"a": "\\ud800"}}', b'{"custom_fields": {"\\udc00": 1}}', b'{"\\ud800": 1}',
        b'{"custom_fields": {"a": 1e999}}', b"[" * 100_000, b'{"custom_fields":' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
    ],
)  # fmt: skip
async def test_what_is_not_json_is_refused(api: Replica, raw: bytes) -> None:
    account = await api.new_account()
    response = await send(api, "PUT", f"/bot/profile?account_id={account['id']}", raw)
    assert response.status_code in ({422} if raw == b"" else {400}), response.text
    assert response.json()["error"]["code"] == ("invalid_input" if raw == b"" else "invalid_json")


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"x"', b"true", b'[{"hours": "x"}]'])
async def test_another_shape_than_an_object_is_refused(api: Replica, raw: bytes) -> None:
    account = await api.new_account()
    for method, path in (
        ("PUT", f"/bot/profile?account_id={account['id']}"), ("POST", "/accounts"),
        ("PATCH", f"/accounts/{account['id']}"), ("POST", "/admin/cache/invalidate"),
        ("POST", f"/conversations/{MISSING}/messages"), ("PUT", f"/accounts/{account['id']}/members/ada"),
    ):  # fmt: skip
        assert (await send(api, method, path, raw)).status_code == 422


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data", "é"]
)
async def test_another_content_type_than_json_is_told_so(api: Replica, content_type: str) -> None:
    account = await api.new_account()
    path = f"/bot/profile?account_id={account['id']}"
    response = await api.raw(
        "PUT", path, content=b'{"hours": "x"}', headers={"Content-Type": content_type.encode("latin-1")}
    )
    assert response.status_code == 422
    assert "application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("depth", [65, 200, 251, 300, 900])
async def test_nesting_is_bounded(api: Replica, depth: int) -> None:
    account = await api.new_account()
    path = f"/bot/profile?account_id={account['id']}"
    for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
        value = b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"
        response = await send(api, "PUT", path, b'{"custom_fields":' + value + b"}")
        assert response.status_code == 422, depth
        assert response.json()["error"]["field"] == "custom_fields"
    shallow: Any = 1
    for _ in range(60):
        shallow = {"a": [shallow]} if isinstance(shallow, int) else {"a": shallow}
    assert (await api("PUT", path, json={"custom_fields": shallow}))["custom_fields"] == shallow
    assert (await api("GET", path))["custom_fields"] == shallow


async def test_custom_fields_may_be_a_list_of_labelled_ones(api: Replica) -> None:
    account = await api.new_account()
    path = f"/bot/profile?account_id={account['id']}"
    fields = [
        {"id": "1", "label": "Parking", "value": "in front"}, {"label": " Payment ", "value": ["cash"]},
        {"id": 3, "label": "Parking", "value": {"evening": "none"}},
    ]  # fmt: skip
    kept = {"Parking": ["in front", {"evening": "none"}], "Payment": ["cash"]}
    assert (await api("PUT", path, json={"custom_fields": fields}))["custom_fields"] == kept
    assert (await api("GET", path))["custom_fields"] == kept
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    for wrong in (
        [1], [{"label": "a"}], [{"label": " ", "value": 1}], [{"label": "a", "value": 1, "more": 2}],
        [{"id": False, "label": "a", "value": 1}], [{"id": 1.5, "label": "a", "value": 1}],
        [{"id": 2**63, "label": "a", "value": 1}],
        [{"label": "a", "value": deep}], [{"label": "a", "value": 1}] * 201, "text",
    ):  # fmt: skip
        response = await api.raw("PUT", path, json={"custom_fields": wrong})
        assert response.status_code == 422, wrong
        assert response.json()["error"]["field"] == "custom_fields"


async def test_free_form_numbers_of_any_size_are_kept_as_json_knows_them(api: Replica) -> None:
    path = f"/bot/profile?account_id={(await api.new_account())['id']}"
    numbers = b'"b": -9223372036854775808, "c": 18446744073709551615, "d": 1e-300, "e": 1.7976931348623157e308'
    raw = b'{"custom_fields": {"a": 123456789012345678901234567890, ' + numbers + b"}}"
    assert (await send(api, "PUT", path, raw)).status_code == 200
    kept = (await api("GET", path))["custom_fields"]
    assert kept == {"a": 1.2345678901234568e29, "b": -(2**63), "c": 2**64 - 1, "d": 1e-300, "e": 1.7976931348623157e308}


@pytest.mark.parametrize("number", ["9" * 30, "-1", "1.5", "9" * 5000, "true", '"5"'])
async def test_numbers_that_a_field_cannot_take_are_refused(api: Replica, number: str) -> None:
    path = f"/bot/profile?account_id={(await api.new_account())['id']}"
    for field in ("max_output_tokens", "auto_reply_limit", "auto_reply_minutes", "handover_pause_minutes",
                  "media_max_bytes", "media_max_seconds", "media_max_pages"):  # fmt: skip
        response = await send(api, "PUT", path, f'{{"{field}": {number}}}'.encode())
        assert response.status_code in (400, 422), field
    assert (await api("PUT", path, json={"max_output_tokens": 5.0}))["max_output_tokens"] == 5


async def test_nul_is_refused_where_text_is_meant_and_replaced_in_free_form(api: Replica) -> None:
    account = await api.new_account()
    path = f"/bot/profile?account_id={account['id']}"
    texts = ("business_name", "description", "address", "hours", "knowledge_base", "fallback_text", "non_text_reply",
             "model", "greeting_text", "interim_text", "outside_hours_text", "handover_notify_number")  # fmt: skip
    for field in texts:
        assert (await api.refused("PUT", path, status=422, json={field: "a\x00b"}))["field"] == field
    for field in ("name", "slug", "access_token", "verify_token", "phone_number"):
        error = await api.refused("PATCH", f"/accounts/{account['id']}", status=422, json={field: "long enough\x00"})
        assert error["field"] == field
    changed = await api("PUT", path, json={"custom_fields": {"k\x00": "v\x00"}, "template_config": {"a": ["\x00"]}})
    assert changed["custom_fields"] == {"k\ufffd": "v\ufffd"}
    await api.refused("POST", "/admin/breakers/gemini", status=422, json={"action": "auto", "why": "\x00"})
    await api("POST", "/admin/cache/invalidate", json={"pattern": "\x00*"})
    for action in ("replay", "drop"):
        answer = await api("POST", f"/admin/dead-letters/{action}", json={"ids": ["\x00", "0-1-1\x00", "é", "0-0-0"]})
        assert set(answer.values()) == {0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("handover_keywords", ["!?"]), ("handover_keywords", ["x" * 61]), ("handover_keywords", ["a"] * 51),
        ("on_handover", "sometimes"), ("handover_pause_minutes", 0), ("handover_notify_number", "Claire"),
        ("business_hours.time_zone", {"time_zone": "Mars/Olympus", "weekly": {}}),
        ("business_hours.weekly.monday.0.1", {"time_zone": "UTC", "weekly": {"monday": [["09:00", "25:00"]]}}),
        ("business_hours.weekly.someday", {"time_zone": "UTC", "weekly": {"someday": []}}),
        ("media_kinds", ["hologram"]), ("media_kinds", ["audio"] * 6), ("media_max_bytes", 14_000_001),
        ("media_max_seconds", 3601), ("media_max_pages", 1001),
        ("stop_words", ["?!"]), ("stop_words", ["x" * 61]), ("stop_words", ["a"] * 51),
        ("business_hours.exceptions", {"time_zone": "UTC", "weekly": {}, "exceptions": {"2026-02-30": []}}),
    ],
)  # fmt: skip
async def test_what_a_field_of_the_profile_cannot_use_is_refused_by_name(
    api: Replica, field: str, value: object
) -> None:
    path = f"/bot/profile?account_id={(await api.new_account())['id']}"
    error = await api.refused("PUT", path, status=422, json={field.partition(".")[0]: value})
    assert error["field"].startswith(field)


async def test_the_fields_of_the_handover_are_kept_as_they_were_given(api: Replica) -> None:
    path = f"/bot/profile?account_id={(await api.new_account())['id']}"
    hours = {"time_zone": "Europe/Paris", "weekly": {"monday": [["09:00", "24:00"]]}, "exceptions": {"2026-12-25": []}}
    given = {"handover_keywords": ["agent"], "on_handover": "continue", "business_hours": hours}
    kept = await api("PUT", path, json=given | {"handover_notify_number": "+33 6 98 00 00 01"})
    assert {name: kept[name] for name in given} == given
    assert kept["handover_notify_number"] == "33698000001", "as webhooks write it"
    back = await api("PUT", path, json=dict.fromkeys(given) | {"handover_pause_minutes": None})
    assert (back["handover_keywords"], back["on_handover"], back["handover_pause_minutes"]) == ([], "pause", 60)


async def test_an_unknown_field_is_refused_whatever_its_name_is(api: Replica) -> None:
    path = f"/bot/profile?account_id={(await api.new_account())['id']}"
    for name in ("hourz", "\x00", "é" * 300_000, "a.b"):
        error = await api.refused("PUT", path, status=422, json={name: 1})
        assert error["field"][:10] == name[:10]
        assert len(json.dumps(error)) < 10_000


# -- lengths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 19, "-1", "x", "1_0", "+5", str(5 * MAX_BODY_BYTES), "5 5"])
@pytest.mark.parametrize("path", ["/accounts", "/webhook/whatsapp"])
async def test_a_content_length_that_is_none_is_refused(api: Replica, path: str, length: str) -> None:
    answer = await exchange(api, f"POST {path} HTTP/1.1\r\nContent-Length: {length}")
    assert answer.split()[1] in (b"400", b"413", b"401"), answer


async def test_a_body_that_grows_beyond_the_limit_is_413(api: Replica) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 65536

    response = await api.raw("POST", "/accounts", content=chunks(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


# -- paths and queries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["acount_id", "limits", "Limit", "%00", "%FF", "é", "a[]", ""])
async def test_an_unknown_query_parameter_is_refused_by_name(api: Replica, name: str) -> None:
    account = await api.new_account(owner="ada")
    known = {
        "account_id": account["id"],
        "contact_id": MISSING,
        "conversation_id": MISSING,
        "message_id": MISSING,
        "webhook_id": MISSING,
        "api_key_id": MISSING,
        "invitation_id": MISSING,
        "user_id": "ada",
        "name": "gemini",
    }
    tried = 0
    for path, item in openapi_document()["paths"].items():
        for method, operation in item.items():
            if not {"health", "webhook"} & set(operation["tags"]):
                needed = "account_id" in [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
                query = f"account_id={account['id']}&{name}=1" if needed else f"{name}=1"
                more = {"json": {}} if "requestBody" in operation else {}
                error = await api.refused(method.upper(), f"{path.format_map(known)}?{query}", status=422, **more)
                assert error["message"].startswith('Unknown query parameter "'), (method, path)
                tried += 1
    assert tried > 20
    for path in ("/health", "/health/ready", "/health/live", "/metrics", "/webhook/whatsapp"):
        answer = await api.raw("GET", f"{path}?{name}=1")
        assert answer.status_code in (200, 403, 503), (path, answer.text)  # of a busy machine too: never a 422


async def test_an_unknown_query_parameter_tells_nothing_to_who_may_not_ask(api: Replica) -> None:
    for path in ("/accounts", "/admin/queue"):
        response = await api.http.get(f"{api.url}{path}?nonsense=1")
        assert response.status_code == 401
    response = await api.http.get(
        f"{api.url}/admin/queue?nonsense=1", headers={"Authorization": f"Bearer {token_of('ada')}"}
    )
    assert response.status_code == 403


@pytest.mark.parametrize("value", ["0", "-1", "201", "9" * 30, "9" * 5000, "", "x", "1.5", "%00", "1e3", "null"])
async def test_a_limit_that_is_none_is_refused(api: Replica, value: str) -> None:
    account = await api.new_account()
    for path in (
        f"/conversations?account_id={account['id']}&",
        f"/conversations/{MISSING}/messages?",
        "/admin/dead-letters?",
    ):
        error = await api.refused("GET", f"{path}limit={value}", status=422)
        assert error["field"] == "limit"


CURSORS = ["", "x", "%00", "%FF", "-1", "9" * 30, "9" * 5000, "MTIzfHg=", "1.2", f"{'9' * 18}.{MISSING}",
           f"-1.{MISSING}",
           "OTk5OS0xMi0zMVQyMzo1OTo1OS0yMzo1OXww", "0-0", "0--1-0"]  # fmt: skip


@pytest.mark.parametrize("cursor", CURSORS)
async def test_a_cursor_that_is_none_is_refused(api: Replica, cursor: str) -> None:
    account = await api.new_account()
    paths = [f"/conversations?account_id={account['id']}&", "/admin/dead-letters?"]
    if cursor != "9" * 18:
        paths.append(f"/conversations/{MISSING}/messages?")
    for path in paths:
        assert (await api.refused("GET", f"{path}cursor={cursor}", status=422))["field"] == "cursor"


async def test_a_dead_letter_cursor_behind_the_last_letter_gives_an_empty_page(api: Replica) -> None:
    for cursor in (f"0-{'9' * 19}-{'9' * 19}", "9999-1-1", f"9999-{'9' * 19}-0"):
        assert await api("GET", f"/admin/dead-letters?cursor={cursor}") == {"items": [], "next_cursor": None}


async def test_a_refused_method_is_told_every_method_of_the_path(api: Replica) -> None:
    for path, methods in (
        ("/accounts", {"GET", "POST"}), (f"/accounts/{MISSING}", {"PATCH"}),
        (f"/accounts/{MISSING}/members/ada", {"GET", "PUT", "DELETE"}), ("/bot/profile", {"GET", "PUT"}),
        ("/webhook/whatsapp", {"GET", "HEAD", "POST"}), ("/health", {"GET", "HEAD"}),
    ):  # fmt: skip
        for method in ("OPTIONS", "TRACE", "PROPFIND"):
            response = await api.raw(method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
            assert set(response.headers["allow"].split(", ")) == methods, path


@pytest.mark.parametrize(
    "odd", ["%00", "a%00b", "%FF", "%ED%A0%80", "%F0%9F%A5%90", "x" * 5000, MISSING + "%00", "..%2f", "'"]
)
async def test_an_id_that_is_none_is_not_found(api: Replica, odd: str) -> None:
    for method, path, more in (
        ("PATCH", f"/accounts/{odd}", {"json": {"name": "x"}}), ("GET", f"/accounts/{odd}/members", {}),
        ("GET", f"/bot/profile?account_id={odd}", {}), ("PUT", f"/bot/profile?account_id={odd}", {"json": {}}),
        ("GET", f"/conversations?account_id={odd}", {}), ("GET", f"/conversations/{odd}/messages", {}),
        ("POST", f"/conversations/{odd}/messages", {"json": {"text": "x"}}),
        ("POST", f"/conversations/{odd}/bot", {"json": {"enabled": True}}), ("POST", f"/conversations/{odd}/read", {}),
        ("POST", f"/admin/breakers/whatsapp{odd}", {"json": {"action": "auto"}}),
    ):  # fmt: skip
        for user in (None, "ada"):
            response = await api.raw(method, path, user=user, **more)
            assert response.status_code in ((404, 422) if user is None else (403, 404)), (path, response.text)
            assert response.json()["error"]["code"]


@pytest.mark.parametrize("token", ["", "x" * 9000, "a.b.c", "....", "é", "\x01", "eyJhbGciOiJub25lIn0.e30.", "null"])
async def test_credentials_that_are_none_are_401(api: Replica, token: str) -> None:
    answer = await exchange_with_token(api, token)
    assert answer.split()[1] in (b"401", b"400"), answer


@pytest.mark.parametrize("user", ["\ud800", "ada\x00", "", "x" * 5000])
async def test_a_signed_token_of_a_user_that_cannot_exist_is_401(api: Replica, user: str) -> None:
    for method, path, more in (
        ("GET", "/accounts", {}), ("GET", f"/bot/profile?account_id={MISSING}", {}),
        ("GET", f"/accounts/{MISSING}/members", {}), ("POST", "/accounts", {"json": {}}),
    ):  # fmt: skip
        assert (await api.refused(method, path, user=user, status=401, **more))["code"] == "unauthenticated"


async def exchange_with_token(api: Replica, token: str) -> bytes:
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"GET /accounts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode("latin-1"))
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


# -- request ids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A-z.0_9", "x" * 64])
async def test_a_sane_request_id_is_taken_over(api: Replica, given: str) -> None:
    response = await api.raw("GET", "/accounts?x=1", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["error"]["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "a/b", "{}", "é"])
async def test_another_request_id_is_replaced(api: Replica, given: str) -> None:
    response = await api.raw("GET", "/accounts?x=1", headers={"X-Request-ID": given.encode("latin-1")})
    made = response.headers["x-request-id"]
    assert made != given
    assert made == response.json()["error"]["request_id"]
    assert len(made) <= 64


# -- ids ---------------------------------------------------------------------------------------------------------------


async def test_an_id_in_capitals_is_the_same_row(api: Replica) -> None:
    """Also to caches, which know it by its name: a copy under another one would outlive an edit."""
    account = await api.new_account(owner="ada")
    written, in_capitals = account["id"], account["id"].upper()
    profile = "/bot/profile?account_id="
    for hours in ("9-17", "8-12"):
        for name in (written, in_capitals):
            await api("GET", profile + name, user="ada")
        await api("PUT", profile + written, user="ada", json={"hours": hours})
        assert [(await api("GET", profile + name, user="ada"))["hours"] for name in (written, in_capitals)] == [
            hours
        ] * 2
    key = await api(
        "POST", f"/accounts/{in_capitals}/api-keys", user="ada", status=201, json={"name": "k", "role": "agent"}
    )
    headers = {"Authorization": f"Bearer {key['key']}"}
    assert await api("GET", f"/conversations?account_id={in_capitals}", headers=headers)
    await api("DELETE", f"/accounts/{written}/api-keys/{key['id'].upper()}", user="ada", status=204)
