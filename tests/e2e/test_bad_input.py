"""What strangers, broken clients and unknown numbers send: refused or kept, never a 500, never stored by mistake."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from app.core.logging import trace_of
from app.localhost.fleet import LocalFleet
from app.localhost.servers import EmbeddedServers
from app.sandbox import webhooks as wa
from app.sandbox.webhooks import encode_like_meta, sign
from tests.support.world import World


async def _pending_and_dead(world: World) -> tuple[int, int]:
    queue = await world.api("GET", "/admin/queue")
    return queue["pending"], queue["dead"]


@pytest.mark.parametrize("signature", ["", "sha256=", "sha256=00", "nonsense", "sha1=aa"])
async def test_unsigned_or_wrongly_signed_is_401_and_nothing_is_stored(world: World, signature: str) -> None:
    await world.until_idle()
    before = await _pending_and_dead(world)
    customer = world.customer()
    payload = wa.envelope(wa.messages_change(world.business, [wa.text(customer.person, "x")], [customer.person]))
    response = await world.post(payload, **{wa.SIGNATURE_HEADER: signature})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_signature"
    assert await _pending_and_dead(world) == before


async def test_the_signature_is_over_the_raw_bytes(world: World) -> None:
    customer = world.customer()
    payload = wa.envelope(wa.messages_change(world.business, [wa.text(customer.person, "Où êtes/vous ?")]))
    raw = encode_like_meta(payload)
    assert b"\\u00f9" in raw
    assert b"\\/" in raw
    assert (await world.post(raw)).status_code == 200
    unescaped = raw.replace(b"\\/", b"/")
    wrong = await world.post(unescaped, **{wa.SIGNATURE_HEADER: sign(world.fleet.keys.app_secret, raw)})
    assert wrong.status_code == 401


@pytest.mark.parametrize("raw", [b"", b"{", b"not json", b"\xff"])
async def test_not_json_is_400(world: World, raw: bytes) -> None:
    response = await world.post(raw)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'{"entry":[{"changes":[{"field":"flows"}]}]}'])
async def test_odd_json_is_kept_as_a_dead_letter(world: World, raw: bytes) -> None:
    assert (await world.post(raw)).status_code == 200
    await world.until_idle()
    letters = (await world.api("GET", "/admin/dead-letters?limit=200"))["items"]
    assert any(letter["event"].startswith("unknown:") for letter in letters)
    await world.api("POST", "/admin/dead-letters/drop", json={"ids": [letter["id"] for letter in letters]})
    assert (await world.api("GET", "/admin/queue"))["dead"] == 0


WELL_FORMED = (wa.SIGNATURE_HEADER, "sha256=" + "0" * 64)


def test_over_4_mb_is_413_without_reading_it_all(world_url: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*world_url, timeout=10)
    connection.putrequest("POST", "/webhook/whatsapp")
    connection.putheader(*WELL_FORMED)
    connection.putheader("Content-Length", str(5 * 1024 * 1024))
    connection.endheaders()
    # Not one byte of the body is sent: an answer now is proof that nobody waits for it.
    assert connection.getresponse().status == 413
    connection.close()


def test_over_4_mb_in_chunks_is_413_before_the_end(world_url: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*world_url, timeout=10)
    connection.putrequest("POST", "/webhook/whatsapp")
    connection.putheader(*WELL_FORMED)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"x" * 65536
    try:
        for _ in range(70):
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    except OSError:
        pass  # it closed the connection on us, which is its right
    assert connection.getresponse().status == 413
    connection.close()


@pytest.fixture
def world_url(servers_and_fleet: tuple[EmbeddedServers, LocalFleet]) -> tuple[str, int]:
    return "127.0.0.1", servers_and_fleet[1].replicas[0].port


async def test_an_unknown_number_is_kept_and_replayed_once_the_account_exists(world: World) -> None:
    customer = world.customer()
    stranger = wa.Business("777000777")
    message = wa.text(customer.person, "Where are you?")
    response = await world.post(wa.envelope(wa.messages_change(stranger, [message], [customer.person])))
    assert response.status_code == 200
    await world.until_idle()
    letters = (await world.api("GET", "/admin/dead-letters?limit=200"))["items"]
    (letter,) = [each for each in letters if trace_of(message["id"]) in each["event"]]
    assert letter["reason"] == "unknown phone_number_id 777000777"
    assert (letter["kind"], letter["field"], letter["phone_number_id"]) == ("message", "messages", "777000777")
    assert message["id"] not in str(letter), "it contains the customer's number"
    assert customer.person.wa_id not in str(letter)
    await world.new_account(phone_number_id="777000777")
    assert (await world.api("POST", "/admin/dead-letters/replay", json={"ids": [letter["id"]]})) == {"replayed": 1}
    (send,) = await world.sandbox.wait(1, kind="send", to=customer.person.wa_id)
    assert send["phone_number_id"] == "777000777"


async def test_a_message_chorus_does_not_understand_leaves_the_rest_of_the_batch_unharmed(world: World) -> None:
    customer = world.customer()
    odd: Any = [{"no": "id"}, 17, None, {"id": "odd", "type": 3, "from": {"a": 1}, "timestamp": []}]
    messages = [*odd, wa.text(customer.person, "Where are you?")]
    response = await world.post(wa.envelope(wa.messages_change(world.business, messages, [customer.person])))
    assert response.status_code == 200
    (reply,) = await customer.wait_for_reply()
    assert "Tables Claudiennes" in reply.text


async def test_the_verification_handshake(world: World) -> None:
    url = world.fleet.webhook_urls[1]

    async def ask(token: str, mode: str = "subscribe") -> tuple[int, str]:
        query = {"hub.mode": mode, "hub.challenge": "1158201444", "hub.verify_token": token}
        response = await world.http.get(url, params=query)
        return response.status_code, response.text

    assert await ask(world.fleet.keys.verify_token) == (200, "1158201444")
    number = world.account["slug"].removeprefix("shop-")
    assert await ask(f"verify-token-{number}") == (200, "1158201444")
    for token, mode in (("wrong", "subscribe"), ("", "subscribe"), (world.fleet.keys.verify_token, "unsubscribe")):
        status, body = await ask(token, mode)
        assert status == 403
        assert "1158201444" not in body


async def test_the_dashboards_test_payload_is_accepted(world: World) -> None:
    assert (await world.post(wa.dashboard_test())).status_code == 200


async def test_api_errors_have_one_shape_and_a_request_id(world: World) -> None:
    account = world.account["id"]
    missing = "00000000-0000-4000-8000-000000000000"
    cases: list[tuple[str, str, Any, int, str]] = [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("DELETE", "/accounts", None, 405, "method_not_allowed"),
        ("GET", f"/bot/profile?account_id={missing}", None, 404, "account_not_found"),
        ("GET", "/bot/profile?account_id=not-a-uuid", None, 404, "account_not_found"),
        ("GET", "/bot/profile", None, 422, "invalid_input"),
        ("GET", f"/conversations/{missing}/messages", None, 404, "conversation_not_found"),
        ("GET", f"/conversations?account_id={account}&cursor=rubbish", None, 422, "invalid_input"),
        ("GET", f"/conversations?account_id={account}&limit=0", None, 422, "invalid_input"),
        ("PUT", f"/bot/profile?account_id={account}", {"hourz": "x"}, 422, "invalid_input"),
        ("POST", "/accounts", {"name": "x"}, 422, "invalid_input"),
        ("POST", "/admin/breakers/toaster", {"action": "open"}, 404, "breaker_not_found"),
        ("POST", "/admin/breakers/whatsapp_api:abc", {"action": "open"}, 404, "breaker_not_found"),
        ("POST", "/admin/breakers/whatsapp_api:123456789", {"action": "auto"}, 404, "breaker_not_found"),
        ("POST", "/admin/breakers/whatsapp_api:123456789", {"action": "close"}, 404, "breaker_not_found"),
    ]
    for method, path, body, status, code in cases:
        answer = await world.api(method, path, json=body, status=status)
        assert answer["error"]["code"] == code, path
        assert answer["error"]["request_id"]


async def test_an_invalid_profile_names_the_field(world: World) -> None:
    path = f"/bot/profile?account_id={world.account['id']}"
    answer = await world.api("PUT", path, json={"hours": 7}, status=422)
    assert answer["error"]["field"] == "hours"
    broken = await world.api("PUT", path, content=b"{", headers={"Content-Type": "application/json"}, status=400)
    assert broken["error"]["code"] == "invalid_json"


async def test_a_taken_slug_or_number_is_a_conflict(world: World) -> None:
    taken = {"name": "x", "access_token": "long-enough", "verify_token": "long-enough"}
    for changes, code in (
        ({"slug": world.account["slug"], "phone_number_id": "5550001"}, "slug_taken"),
        ({"slug": "quite-new", "phone_number_id": world.account["phone_number_id"]}, "phone_number_id_taken"),
    ):
        answer = await world.api("POST", "/accounts", json=taken | changes, status=409)
        assert answer["error"]["code"] == code


async def test_nothing_without_credentials_and_no_secrets_with_them(world: World) -> None:
    for path in ("/accounts", "/admin/queue", f"/bot/profile?account_id={world.account['id']}"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            response = await world.http.get(world.fleet.replicas[0].url + path, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthenticated"
    accounts = await world.api("GET", "/accounts")
    assert not {"access_token", "verify_token"} & set(accounts[0])
    stored = await world.value("select access_token from whatsapp_accounts where id = $1", world.account["id"])
    assert "a-token-of-the-sandbox" not in stored


@pytest.mark.parametrize("field", ["access_token", "verify_token"])
@pytest.mark.parametrize(
    "given", ["a token of words", "# a-token", "a-token\nof-lines", '"a-quoted-token"', "a\u200btoken-xx"]
)
async def test_a_token_that_cannot_be_one_is_refused_by_name(world: World, field: str, given: str) -> None:
    changed = await world.api("PATCH", f"/accounts/{world.account['id']}", json={field: given}, status=422)
    assert field in str(changed["error"])
    assert given not in str(changed["error"])


async def test_a_token_pasted_with_white_space_works(world: World) -> None:
    await world.sandbox.add_account(world.account["phone_number_id"], "the-only-token")
    changes = {"access_token": " the-only-token\n", "verify_token": "\tverify-the-shop \r\n"}
    await world.api("PATCH", f"/accounts/{world.account['id']}", json=changes)
    customer = world.customer()
    await customer.send_image()
    await customer.wait_for_reply()
    query = {"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "verify-the-shop"}
    answer = await world.http.get(world.fleet.webhook_urls[0], params=query)
    assert (answer.status_code, answer.text) == (200, "42")
