"""Gemini and WhatsApp share a process's connections: one that hangs takes none from the other."""

from __future__ import annotations

import asyncio

import pytest

from app.adapters.gemini import GeminiModel
from app.adapters.whatsapp import WhatsAppMessenger
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, KeyedCircuitBreakers
from app.core.deadline import Deadline
from app.core.http_client import MAX_CONNECTIONS, MAX_PER_HOST, close_http_client
from app.domain.models import Prompt, Recipient, Turn
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import Behaviour, SandboxConfig
from tests.support.fakes import peer

from .test_messenger import KEYS, new_account

SENDS = 2 * MAX_PER_HOST
LIMIT_SECONDS = 10.0
"""A tenth of it is enough on any machine; one attempt at the model that hangs takes longer."""


@pytest.mark.parametrize("bulkhead", [MAX_PER_HOST, 2 * MAX_CONNECTIONS], ids=["as shipped", "none to speak of"])
async def test_messages_go_out_while_the_model_hangs(bulkhead: int) -> None:
    held = 0

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal held
        held += 1
        await reader.read()

    config = SandboxConfig(behaviour=Behaviour(statuses=False, messages_per_second=0))
    async with peer(hang) as silent, running_sandbox(config) as running:
        model = GeminiModel(
            base_url=silent, api_key="k", default_model="gemini-3.5-flash-lite", max_concurrent=bulkhead,
            breaker=CircuitBreaker("gemini_api", BreakerPolicy(1000, 60.0)),
        )  # fmt: skip
        messenger = WhatsAppMessenger(
            base_url=running.url, api_version="v26.0", cipher=KEYS,
            breaker=CircuitBreaker("whatsapp_api", BreakerPolicy(3, 30.0)),
            account_breakers=KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0)),
        )  # fmt: skip
        prompt = Prompt("You answer for a bakery.", (Turn("user", "When do you open?"),))
        stuck = [
            asyncio.create_task(model.generate(prompt, deadline=Deadline.after(60)))
            for _ in range(MAX_CONNECTIONS + MAX_PER_HOST)
        ]
        places = asyncio.Semaphore(MAX_PER_HOST)  # as many as there are: on a slow machine none waits for one too long

        async def send(number: int) -> None:
            to = Recipient(f"1650555{number:04d}", None)
            async with places:
                await messenger.send_text(new_account(), to, "Hello", outbound_key=f"{number}")

        async with asyncio.timeout(LIMIT_SECONDS):
            while held < MAX_PER_HOST:
                await asyncio.sleep(0.005)
            await asyncio.gather(*(send(number) for number in range(SENDS)))
        assert held == MAX_PER_HOST
        assert len(await SandboxClient(running.url).record(kind="send")) == SENDS
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
        await close_http_client()
