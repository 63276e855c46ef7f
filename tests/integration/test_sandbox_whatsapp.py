"""The Cloud API stand-in over a real socket: sends, errors, limits, media, status webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from app.core.http_client import Response, close_http_client, get_http_client, request
from app.sandbox.app import RunningSandbox, running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import Behaviour, SandboxAccount, SandboxConfig
from app.sandbox.serving import listen
from app.sandbox.webhooks import SIGNATURE_HEADER, sign
from app.sandbox.whatsapp_errors import known_codes, whatsapp_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBER = "106540352242922"
CONFIG = SandboxConfig(
    app_secret="s3cret",
    accounts=(SandboxAccount("555", "right-token", display_phone_number="15550783881"),),
    behaviour=Behaviour(
        pair_interval_seconds=0, messages_per_second=0, delivered_after_seconds=0, read_after_seconds=0
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(CONFIG) as sandbox:
        yield sandbox
        await close_http_client()


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(server: RunningSandbox) -> SandboxClient:
    client = SandboxClient(server.url)
    await client.reset()
    return client


def send_body(to: str = "+16505551234", text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": text}, **more}


async def post(sandbox: SandboxClient, payload: Any, *, number: str = NUMBER, token: str | None = "any",
               version: str = "v26.0") -> Response:  # fmt: skip
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    url = f"{sandbox.url}/{version}/{number}/messages"
    return await request("POST", url, headers=headers, payload=payload, timeout_seconds=5)


async def code_of(response: Response) -> int:
    return int(response.json()["error"]["code"])


# --- sends ------------------------------------------------------------------------------------------------------


async def test_a_send_is_accepted_and_recorded(sandbox: SandboxClient) -> None:
    response = await post(sandbox, send_body(text="Bonjour é", biz_opaque_callback_data="out-1"))
    assert response.status == 200
    answer = response.json()
    assert answer["contacts"] == [{"input": "+16505551234", "wa_id": "16505551234"}]
    wamid = answer["messages"][0]["id"]
    assert wamid.startswith("wamid.")
    assert b"16505551234" in base64.b64decode(wamid.removeprefix("wamid."))
    (entry,) = await sandbox.record(kind="send")
    expected = {"phone_number_id": NUMBER, "to": "16505551234", "text": "Bonjour é", "wamid": wamid,
                "callback_data": "out-1", "processed": True, "state": "answered", "status": 200}  # fmt: skip
    assert expected.items() <= entry.items()
    assert entry["body"]["text"] == {"body": "Bonjour é"}
    assert abs(entry["at"] - time.time()) < 5


async def test_a_business_scoped_user_id_is_a_recipient(sandbox: SandboxClient) -> None:
    payload = send_body() | {"recipient": "US.134"}
    del payload["to"]
    assert (await post(sandbox, payload)).json()["contacts"] == [{"input": "US.134", "user_id": "US.134"}]
    assert [e["to"] for e in await sandbox.record(kind="send")] == ["US.134"]


async def test_read_receipts_are_recorded_apart_from_sends(sandbox: SandboxClient) -> None:
    receipt = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.in-1"}
    response = await post(sandbox, receipt | {"typing_indicator": {"type": "text"}})
    assert response.json() == {"success": True}
    (entry,) = await sandbox.record(kind="read")
    assert (entry["wamid"], entry["processed"]) == ("wamid.in-1", True)
    assert entry["body"]["typing_indicator"] == {"type": "text"}


async def test_an_invalid_send_is_refused_with_details_and_recorded_as_unprocessed(sandbox: SandboxClient) -> None:
    response = await post(sandbox, send_body(text="x" * 4097))
    assert response.status == 400
    error = response.json()["error"]
    assert error["code"] == 100
    assert error["message"] == "(#100) Invalid parameter"
    assert error["type"] == "OAuthException"
    assert error["error_data"]["messaging_product"] == "whatsapp"
    assert "4096" in error["error_data"]["details"]
    assert error["fbtrace_id"]
    (entry,) = await sandbox.record(kind="send")
    assert (entry["processed"], entry["status"], entry["code"]) == (False, 400, "100")


async def test_a_body_that_is_not_json_is_refused(sandbox: SandboxClient) -> None:
    client = await get_http_client()
    url = f"{sandbox.url}/v26.0/{NUMBER}/messages"
    response = await client.post(url, content=b"{oops", headers={"Authorization": "Bearer t"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, 100)
    assert [e["body"] for e in await sandbox.record()] == ["{oops"]


async def test_a_body_beyond_the_limit_is_refused(sandbox: SandboxClient) -> None:
    response = await post(sandbox, send_body(text="x" * 1_100_000))
    assert (response.status, await code_of(response)) == (400, 100)


@pytest.mark.parametrize(
    ("number", "token", "code"),
    [
        ("555", "right-token", None),
        ("555", "wrong", 190),
        ("555", None, 190),
        ("999", "whatever", None),
        ("999", None, 190),
    ],
)
async def test_only_a_registered_accounts_own_token_opens_it(
    sandbox: SandboxClient, number: str, token: str | None, code: int | None
) -> None:
    response = await post(sandbox, send_body(), number=number, token=token)
    assert (response.status, response.json().get("error", {}).get("code")) == (401 if code else 200, code)


async def test_accounts_can_be_registered_while_it_runs(sandbox: SandboxClient) -> None:
    await sandbox.add_account("777", "token-7")
    assert (await post(sandbox, send_body(), number="777", token="token-8")).status == 401
    assert (await post(sandbox, send_body(), number="777", token="token-7")).status == 200


async def test_a_number_nobody_registered_is_gone_in_strict_mode() -> None:
    async with running_sandbox(replace(CONFIG, accept_unknown_accounts=False)) as strict:
        response = await post(SandboxClient(strict.url), send_body(), number="999")
        assert (response.status, await code_of(response)) == (404, 33)


async def test_other_mistakes_of_a_caller(sandbox: SandboxClient) -> None:
    assert await code_of(await post(sandbox, send_body(), version="latest")) == 100
    assert await code_of(await post(sandbox, send_body(to="+15550783881"), number="555", token="right-token")) == 131021
    assert await code_of(await post(sandbox, send_body() | {"type": "template"})) == 131051


# --- errors and limits ------------------------------------------------------------------------------------------


async def test_every_error_of_the_table_can_be_produced(sandbox: SandboxClient) -> None:
    for code in [*known_codes(), 200, 299, 132015]:
        await sandbox.clear_faults()
        await sandbox.add_fault("whatsapp", error=str(code))
        response = await post(sandbox, send_body())
        error = response.json()["error"]
        assert (response.status, error["code"]) == (whatsapp_error(code).http_status, code)
        assert error["message"].startswith(f"(#{code}) ")
        assert {"type", "error_data", "fbtrace_id"} <= error.keys()
    assert all(entry["fault"] and not entry["processed"] for entry in await sandbox.record(kind="send"))


async def test_limits_are_enforced_and_can_be_changed_while_it_runs(sandbox: SandboxClient) -> None:
    await sandbox.change_behaviour(pair_interval_seconds=6, pair_burst=2)
    responses = [await post(sandbox, send_body()) for _ in range(3)]
    assert [r.status for r in responses] == [200, 200, 429]
    assert await code_of(responses[-1]) == 131056
    await sandbox.change_behaviour(pair_interval_seconds=0, messages_per_second=1)
    burst = await asyncio.gather(*(post(sandbox, send_body(to=f"+1650555{n:04}")) for n in range(5)))
    assert 130429 in [await code_of(r) for r in burst if r.status == 429]


async def test_a_closed_window_refuses_free_text(sandbox: SandboxClient) -> None:
    await sandbox.customer_wrote(NUMBER, "+16505551234", at=time.time() - 25 * 3600)
    assert await code_of(await post(sandbox, send_body())) == 131047
    await sandbox.customer_wrote(NUMBER, "16505551234")
    assert (await post(sandbox, send_body())).status == 200


# --- numbers ----------------------------------------------------------------------------------------------------


async def test_a_number_is_described_to_a_token_that_opens_it(sandbox: SandboxClient) -> None:
    async def ask(number: str, token: str, query: str = "?fields=id") -> Response:
        headers = {"Authorization": f"Bearer {token}"}
        return await request("GET", f"{sandbox.url}/v26.0/{number}{query}", headers=headers, timeout_seconds=5)

    for query in ("?fields=id,display_phone_number", ""):
        described = (await ask("555", "right-token", query)).json()
        assert (described["id"], described["display_phone_number"]) == ("555", "15550783881")
    assert await code_of(await ask("555", "wrong-token")) == 190
    assert (await ask("777", "any-token")).json()["id"] == "777"  # unregistered: as for sends, any token
    await sandbox.add_fault("whatsapp", match={"operation": "number"}, error="131000")
    assert await code_of(await ask("555", "right-token")) == 131000
    assert len(await sandbox.record(kind="number")) == 5


# --- media ------------------------------------------------------------------------------------------------------


async def test_media_are_described_and_downloaded_with_the_bearer(sandbox: SandboxClient) -> None:
    content = b"\x00jpeg\xff" * 1000
    media_id = await sandbox.upload(content, "image/jpeg")
    client = await get_http_client()
    bearer = {"Authorization": "Bearer any"}
    for path in (f"/v26.0/{media_id}", f"/{media_id}"):
        described = (await client.get(sandbox.url + path, headers=bearer)).json()
        assert described["id"] == media_id
        assert described["mime_type"] == "image/jpeg"
        assert described["file_size"] == len(content)
        assert described["sha256"] == hashlib.sha256(content).hexdigest()
    download = await client.get(described["url"], headers=bearer)
    assert (download.content, download.headers["content-type"]) == (content, "image/jpeg")
    assert (await client.get(described["url"])).status_code == 401
    assert (await client.get(sandbox.url + f"/v26.0/{media_id}")).status_code == 401
    assert (await client.get(sandbox.url + "/media/expired", headers=bearer)).status_code == 404
    unknown = (await client.get(sandbox.url + "/v26.0/42", headers=bearer)).json()["error"]
    assert (unknown["code"], unknown["error_subcode"]) == (100, 33)
    assert len(await sandbox.record(kind="media", processed="true")) == 2
    assert [entry["text"] for entry in await sandbox.record(kind="download", processed="true")] == [media_id]


# --- status webhooks --------------------------------------------------------------------------------------------


class Callback:
    """A replica's webhook route: checks the signature, answers as told, keeps what it took."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.raw: list[bytes] = []
        self.posts = 0
        self.changed = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message["body"], message.get("more_body", False)
        headers = dict(scope["headers"])
        status = self.answers.pop(0) if self.answers else 200
        if headers[SIGNATURE_HEADER.lower().encode()].decode() != sign("s3cret", raw):
            status = 401
        self.posts += 1
        if status == 200:
            self.raw.append(raw)
            for entry in json.loads(raw)["entry"]:
                for change in entry["changes"]:
                    self.taken += [(scope["path"], taken) for taken in change["value"]["statuses"]]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        self.changed.set()

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                self.changed.clear()
                await self.changed.wait()
        return [status for _, status in self.taken]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(server: RunningSandbox) -> AsyncIterator[tuple[str, list[Callback]]]:
    """One server for the module; the callback behind it is new for every test."""
    current = [Callback()]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await current[0](scope, receive, send)

    listener = listen("127.0.0.1", 0)
    replica = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(replica.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", current
    replica.should_exit = True
    await serving


@pytest_asyncio.fixture(loop_scope="module")
async def callback(sandbox: SandboxClient, replica: tuple[str, list[Callback]]) -> Callback:
    url, current = replica
    current[0] = Callback()
    await sandbox.set_callbacks([f"{url}/a", f"{url}/b"])
    return current[0]


async def test_sent_delivered_and_read_follow_a_send(sandbox: SandboxClient, callback: Callback) -> None:
    response = await post(sandbox, send_body(biz_opaque_callback_data="out-é/1"))
    statuses = await callback.until(3)
    assert sorted(s["status"] for s in statuses) == ["delivered", "read", "sent"]
    assert {s["id"] for s in statuses} == {response.json()["messages"][0]["id"]}
    assert {s["biz_opaque_callback_data"] for s in statuses} == {"out-é/1"}
    assert {s["recipient_id"] for s in statuses} == {"16505551234"}
    assert rb"out-\u00e9\/1" in callback.raw[0]


async def test_statuses_go_to_the_replicas_in_turn(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.change_behaviour(batch_max=1)
    await post(sandbox, send_body())
    await callback.until(3)
    assert {path for path, _ in callback.taken} == {"/a", "/b"}


async def test_statuses_are_batched(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.change_behaviour(batch_window_seconds=0.3)
    await asyncio.gather(*(post(sandbox, send_body(), number=str(n % 2)) for n in range(10)))
    await callback.until(30)
    assert callback.posts <= 10


async def test_anything_but_200_is_redelivered(sandbox: SandboxClient, callback: Callback) -> None:
    callback.answers = [503, 204, 500]
    await sandbox.change_behaviour(redelivery_seconds=[0, 0.01, 0.01], delivered_after_seconds=None,
                                   read_after_seconds=None)  # fmt: skip
    await post(sandbox, send_body())
    await callback.until(1)
    assert callback.posts == 4
    async with asyncio.timeout(10):  # a delivery is recorded when it begins, its end a moment after the callback's
        while not (entries := await sandbox.wait(4, kind="webhook"))[-1]["processed"]:
            await asyncio.sleep(0.01)
    assert [entry["status"] for entry in entries] == [503, 204, 500, 200]
    assert [entry["processed"] for entry in entries] == [False, False, False, True]


async def test_a_status_nobody_takes_is_given_up(server: RunningSandbox, sandbox: SandboxClient) -> None:
    with listen("127.0.0.1", 0) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    await sandbox.set_callbacks([url])
    await sandbox.change_behaviour(redelivery_seconds=[0, 0], delivered_after_seconds=None, read_after_seconds=None)
    await post(sandbox, send_body())
    entries = await sandbox.wait(3, kind="webhook", state="closed")
    assert {entry["status"] for entry in entries} == {None}
    overview = (await request("GET", f"{server.url}/sandbox", timeout_seconds=5)).json()
    assert overview["statuses"] == {"outstanding": 0, "failed_attempts": 3, "given_up": 1}


async def test_duplicates_and_shuffling(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.change_behaviour(duplicate_rate=1, shuffle=True, batch_max=1, read_after_seconds=0.02)
    await asyncio.gather(*(post(sandbox, send_body(to=f"+1650555{n:04}")) for n in range(20)))
    statuses = await callback.until(120)
    by_message: dict[str, list[str]] = {}
    for status in statuses:
        by_message.setdefault(status["id"], []).append(status["status"])
    assert all(sorted(names) == sorted(["sent", "delivered", "read"] * 2) for names in by_message.values())
    assert any(names.index("sent") > names.index("read") for names in by_message.values())


async def test_a_send_can_fail_after_it_was_accepted(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.add_fault("whatsapp", failed_status="131026")
    assert (await post(sandbox, send_body())).status == 200
    failed = next(status for status in await callback.until(2) if status["status"] == "failed")
    assert failed["errors"][0]["code"] == 131026
    assert failed["errors"][0]["error_data"]["details"]


async def test_statuses_can_be_off(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.change_behaviour(statuses=False)
    await post(sandbox, send_body())
    await sandbox.change_behaviour(statuses=True, delivered_after_seconds=None, read_after_seconds=None)
    last = await post(sandbox, send_body())
    assert [s["id"] for s in await callback.until(1)] == [last.json()["messages"][0]["id"]]


async def test_webhook_faults_lose_delay_and_repeat(sandbox: SandboxClient, callback: Callback) -> None:
    await sandbox.change_behaviour(redelivery_seconds=[0], delivered_after_seconds=None, read_after_seconds=None)
    lost = await sandbox.add_fault("webhook", action="drop_before", count=1)
    repeated = await sandbox.add_fault("webhook", action="drop_after", match={"recipient": "16505550001"}, count=1)
    delayed = await sandbox.add_fault("webhook", latency_ms=20, match={"recipient": "16505550002"})
    await post(sandbox, send_body(to="+16505550000"))
    await callback.until(1)
    await post(sandbox, send_body(to="+16505550001"))
    await callback.until(3)
    await post(sandbox, send_body(to="+16505550002"))
    assert [s["recipient_id"][-1] for s in await callback.until(4)] == ["0", "1", "1", "2"]
    assert [(await sandbox.get_fault(fault))["fired"] for fault in (lost, repeated, delayed)] == [1, 1, 1]
