"""Simulated customers talk to replicas and find their replies; `chorus sandbox` runs and stops as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

import app
from app.core.errors import SettingsError
from app.core.http_client import close_http_client, request
from app.sandbox.app import RunningSandbox, running_sandbox, serve_sandbox
from app.sandbox.client import SandboxClient, SandboxRefused
from app.sandbox.config import SandboxConfig
from app.sandbox.customers import Customer
from app.sandbox.delivery import Undelivered, WebhookSender
from app.sandbox.serving import listen
from app.sandbox.webhooks import SIGNATURE_HEADER, Business, sign

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOP = Business("106")


class EchoReplica:
    """Answers every text through the sandbox, as the simplest possible bot."""

    def __init__(self, sandbox_url: str) -> None:
        self._sandbox_url = sandbox_url
        self.webhooks: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message["body"], message.get("more_body", False)
        assert dict(scope["headers"])[SIGNATURE_HEADER.lower().encode()].decode() == sign("s3cret", raw)
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.webhooks.append((scope["path"], json.loads(raw)))
            await self._reply(json.loads(raw)["entry"][0]["changes"][0]["value"])
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def _reply(self, value: dict[str, Any]) -> None:
        for message in value["messages"]:
            body = message.get("text", {}).get("body", f"[{message['type']}]")
            payload = {"messaging_product": "whatsapp", "to": "+" + message["from"], "text": {"body": f"you: {body}"}}
            url = f"{self._sandbox_url}/v26.0/106/messages"
            await request("POST", url, headers={"Authorization": "Bearer t"}, payload=payload, timeout_seconds=5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(SandboxConfig(app_secret="s3cret")) as sandbox:
        yield sandbox
        await close_http_client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(server: RunningSandbox) -> AsyncIterator[tuple[str, EchoReplica]]:
    echo = EchoReplica(server.url)
    listener = listen("127.0.0.1", 0)
    replica = uvicorn.Server(uvicorn.Config(echo, log_config=None, lifespan="off"))
    serving = asyncio.create_task(replica.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", echo
    replica.should_exit = True
    await serving


@pytest_asyncio.fixture(loop_scope="module")
async def echo(server: RunningSandbox, replica: tuple[str, EchoReplica]) -> EchoReplica:
    await SandboxClient(server.url).reset()
    replica[1].webhooks.clear()
    replica[1].answers.clear()
    return replica[1]


@pytest.fixture
def sender(replica: tuple[str, EchoReplica], echo: EchoReplica) -> WebhookSender:
    urls = [f"{replica[0]}/{name}" for name in "abc"]
    return WebhookSender(urls, app_secret="s3cret", redelivery_seconds=(0, 0.01))


@pytest.fixture
def customer(sender: WebhookSender, server: RunningSandbox) -> Customer:
    return Customer(sender, "33612345678", "Amina", business=SHOP, sandbox=SandboxClient(server.url))


async def test_a_customer_gets_the_reply_to_what_they_said(customer: Customer) -> None:
    await customer.say("Bonjour é/è")
    (reply,) = await customer.wait_for_reply()
    assert reply.text == "you: Bonjour é/è"
    assert 0 < reply.after_seconds < 5


async def test_a_person_at_the_terminal_writes_as_a_customer(
    replica: tuple[str, EchoReplica], echo: EchoReplica, server: RunningSandbox
) -> None:
    sandbox = SandboxClient(server.url)
    with pytest.raises(SandboxRefused, match="no callback url"):
        await sandbox.say("Hello?")
    await sandbox.set_callbacks([replica[0]], app_secret="s3cret")
    with pytest.raises(SandboxRefused, match="no account"):
        await sandbox.say("Hello?")
    await sandbox.add_account("106", "t")
    said = await sandbox.say("Vegan pastries?", sender="33611111111")
    (sent,) = await sandbox.wait(1, kind="send", to=said["to"], after=said["after"])
    assert sent["text"] == "you: Vegan pastries?"
    with pytest.raises(SandboxRefused, match="sender"):
        await sandbox.say("Hello?", sender="not a number")


async def test_replies_are_returned_once(customer: Customer) -> None:
    await customer.say("one")
    await customer.wait_for_reply()
    await customer.say("two")
    assert [reply.text for reply in await customer.wait_for_reply()] == ["you: two"]
    with pytest.raises(TimeoutError, match="0 of 1 entries"):
        await customer.wait_for_reply(timeout_seconds=0.05)


async def test_webhooks_are_spread_over_the_replicas(customer: Customer, echo: EchoReplica) -> None:
    for n in range(6):
        await customer.say(str(n))
    assert sorted(path for path, _ in echo.webhooks) == ["/a", "/a", "/b", "/b", "/c", "/c"]


async def test_a_seed_spreads_at_random_and_repeatably(replica: tuple[str, EchoReplica]) -> None:
    async def paths() -> list[str]:
        urls = [f"{replica[0]}/{name}" for name in "abc"]
        sender = WebhookSender(urls, app_secret="s3cret", seed=3)
        payload = {"entry": [{"changes": [{"value": {"messages": []}}]}]}
        return [(await sender.deliver(payload))[-1].url[-1] for _ in range(12)]

    first = await paths()
    assert first == await paths()
    assert first != list("bca" * 4)
    assert set(first) == set("abc")


async def test_the_other_ways_to_write(customer: Customer, echo: EchoReplica) -> None:
    await customer.burst("a", "b", "c")
    await customer.batch("d", "e")
    await customer.send_image("look")
    await customer.press_button("yes", "Yes")
    await customer.react("wamid.1", "👍")
    replies = [reply.text for reply in await customer.wait_for_reply(8)]
    assert sorted(replies[:3]) == ["you: a", "you: b", "you: c"]
    assert replies[3:] == ["you: d", "you: e", "you: [image]", "you: [interactive]", "you: [reaction]"]
    assert len(echo.webhooks) == 7


async def test_a_duplicate_delivery_carries_the_same_message(customer: Customer, echo: EchoReplica) -> None:
    message_id = await customer.say_twice("once")
    ids = [payload["entry"][0]["changes"][0]["value"]["messages"][0]["id"] for _, payload in echo.webhooks]
    assert ids == [message_id, message_id]


async def test_a_replica_that_says_no_gets_another_turn(customer: Customer, echo: EchoReplica) -> None:
    echo.answers = [503, 500]
    await customer.say("again")
    assert [reply.text for reply in await customer.wait_for_reply()] == ["you: again"]
    echo.answers = [503] * 3
    with pytest.raises(Undelivered, match="no 200 in 3 attempts, the last answer was 503"):
        await customer.say("never")


async def test_a_taken_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="cannot be used"):
        serve_sandbox(host="127.0.0.1", port=taken.getsockname()[1], app_secret="s", callbacks=())


async def test_the_process_ends_cleanly_on_sigterm() -> None:
    arguments = "host='127.0.0.1', port=0, app_secret='s', callbacks=()"
    code = f"from app.sandbox.app import serve_sandbox; serve_sandbox({arguments})"
    env = os.environ | {"PYTHONPATH": str(Path(app.__file__).parent.parent)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=env, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().split()[1]
            assert (await SandboxClient(url).summary())["held"] == 0
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
