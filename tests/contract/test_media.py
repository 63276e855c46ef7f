"""Media on a real socket: the bytes, their bound, and whose refusal it is."""

from __future__ import annotations

import pytest

from app.adapters.whatsapp import Media, WhatsAppMessenger
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, KeyedCircuitBreakers
from app.core.http_client import close_http_client
from app.domain.errors import AccountRejected, SendRejected
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxAccount, SandboxConfig

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
