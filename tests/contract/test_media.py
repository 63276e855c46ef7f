"""Media on a real socket: the bytes, their bound, and whose refusal it is."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.adapters.whatsapp import Media, WhatsAppMessenger
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, KeyedCircuitBreakers
from app.core.http_client import close_http_client
from app.domain.errors import AccountRejected, SendRejected, Unavailable
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxAccount, SandboxConfig
from tests.support.fakes import FakeClock, peer, read_request, response

from .test_messenger import KEYS, new_account


async def test_media_comes_with_its_type_bounded_and_only_with_the_accounts_token() -> None:
    config = SandboxConfig(accounts=(SandboxAccount("106540352242922", "t0ken"),), accept_unknown_accounts=False)
    async with running_sandbox(config) as running:
        breaker = CircuitBreaker("whatsapp_api", BreakerPolicy(3, 30.0))
        accounts = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0))
        messenger = WhatsAppMessenger(
            base_url=running.url, api_version="v26.0", cipher=KEYS, breaker=breaker, account_breakers=accounts
        )
        picture = b"\x89PNG" * 100
        media_id = await SandboxClient(running.url).upload(picture, "image/png")
        assert await messenger.fetch_media(new_account(), media_id, max_bytes=400) == Media(
            "image/png", b"\x89PNG" * 100
        )
        with pytest.raises(SendRejected, match="more than 399 bytes"):
            await messenger.fetch_media(new_account(), media_id, max_bytes=399)
        with pytest.raises(AccountRejected):
            await messenger.fetch_media(new_account(token="wrong"), media_id, max_bytes=400)
        assert (breaker.tally.failed, accounts.get("106540352242922").snapshot().failure_count) == (0, 1)
        await close_http_client()


def messenger_at(url: str) -> WhatsAppMessenger:
    breaker = CircuitBreaker("whatsapp_api", BreakerPolicy(1000, 30.0))
    accounts = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0))
    return WhatsAppMessenger(
        base_url=url, api_version="v26.0", cipher=KEYS, breaker=breaker, account_breakers=accounts, clock=FakeClock()
    )


@pytest.mark.parametrize("how", ["named", "redirected"])
async def test_another_host_never_sees_the_token_be_it_named_or_redirected_to(how: str) -> None:
    strangers = 0

    async def stranger(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal strangers
        strangers += 1

    async with peer(stranger) as elsewhere:

        async def graph(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                line, headers, _ = await read_request(reader)
                assert headers["authorization"] == "Bearer t0ken"
                if line.startswith("GET /file"):
                    writer.write(response(b"", status="302 Found", headers=f"location: {elsewhere}/\r\n"))
                else:
                    where = elsewhere if how == "named" else f"http://{headers['host']}/file"
                    writer.write(response(json.dumps({"url": where, "mime_type": "image/png"}).encode()))
                await writer.drain()

        async with peer(graph) as url:
            with pytest.raises(SendRejected if how == "named" else Unavailable):
                await messenger_at(url).fetch_media(new_account(), "media-1", max_bytes=400)
        await close_http_client()
    assert strangers == 0
