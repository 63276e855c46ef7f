"""One replica's worker in this process, on real servers, with the sandbox outside: faults and clocks within reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import pytest

from app.adapters.gemini import GeminiModel
from app.adapters.postgres_store import PostgresStore
from app.adapters.whatsapp import WhatsAppMessenger
from app.core.cache import invalidate_cache_pattern
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.http_client import close_http_client
from app.core.pacing import Pacer
from app.core.queue import Queue
from app.core.receipts import Receipts
from app.core.redis.client import connect
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.core.uptime import Uptime
from app.domain.models import Account
from app.domain.usage import DailyLimits
from app.sandbox import webhooks as wa
from app.sandbox.app import RunningSandbox, running_sandbox
from app.sandbox.bakery import BAKERY
from app.sandbox.client import SandboxClient
from app.sandbox.config import Behaviour, SandboxConfig
from app.services.account_notices import AccountNotices
from app.services.account_service import NO_LIMITS, AccountService
from app.services.bot_service import BotService
from app.services.conversation_service import ConversationService
from app.services.delivery import PER_PAIR, Delivery, per_number
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import IngestService
from app.services.proofs import Proofs
from serving import Outside, outside_world

_numbers = count(1)


@dataclass
class Office:
    """Everything between the webhook and WhatsApp."""

    store: PostgresStore
    store_url: str
    accounts: AccountService
    queue: Queue
    sandbox: RunningSandbox
    control: SandboxClient
    ingest: IngestService
    conversations: ConversationService
    delivery: Delivery
    proofs: Proofs
    uptime: Uptime
    worker: InboxWorker
    start_worker: Callable[[], InboxWorker]
    """Another one, beside those that run."""
    account: Account
    breaker: CircuitBreaker

    @property
    def business(self) -> wa.Business:
        return wa.Business(self.account.phone_number_id)

    def person(self, name: str = "Amina") -> wa.Person:
        return wa.Person(f"3362{next(_numbers):07d}", name)

    async def receive(self, person: wa.Person, *messages: dict[str, Any]) -> None:
        await self.ingest.accept(wa.envelope(wa.messages_change(self.business, messages, [person])))

    async def sends(self, person: wa.Person) -> list[dict[str, Any]]:
        return await self.control.record(kind="send", to=person.wa_id)

    async def until(self, happened: Callable[[], Awaitable[bool]], *, timeout_seconds: float = 10) -> None:
        async with asyncio.timeout(timeout_seconds):
            while not await happened():
                await asyncio.sleep(0.01)

    async def move_usage_to_yesterday(self) -> None:
        connection = await asyncpg.connect(self.store_url)
        try:
            await connection.execute("update account_usage set day = day - 1")
            await connection.execute("update replies set spent_at = spent_at - interval '1 day'")
        finally:
            await connection.close()

    async def until_idle(self, *, timeout_seconds: float = 10) -> None:
        async def idle() -> bool:
            return (await self.queue.stats()).pending == 0

        await self.until(idle, timeout_seconds=timeout_seconds)


MakeOffice = Callable[..., Awaitable[Office]]


@pytest.fixture
async def make_office(valkey_url: str, store_url: str) -> AsyncIterator[MakeOffice]:
    """`await make_office(reply_deadline_seconds=…, …)`: a running worker; stopped and closed after the test."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        stack.push_async_callback(invalidate_cache_pattern, "*")

        async def make(
            *,
            reply_deadline_seconds: float = 600,
            reconcile_seconds: float = 0.3,
            debounce_seconds: float = 0.0,
            lease_seconds: float = 15,
            max_attempts: int = 3,
            concurrency: int = 10,
            statuses: bool = False,
            profile: dict[str, Any] | None = None,
            limits: DailyLimits = NO_LIMITS,
            database_url: str | None = None,
            uptime_gap_seconds: float | None = None,
        ) -> Office:
            config = SandboxConfig(behaviour=Behaviour(statuses=statuses, messages_per_second=0))
            sandbox = await stack.enter_async_context(running_sandbox(config))
            redis = connect(valkey_url, timeout_seconds=1)
            blocking = connect(valkey_url, timeout_seconds=3)
            stack.push_async_callback(redis.aclose)
            stack.push_async_callback(blocking.aclose)
            store = PostgresStore(database_url or store_url)
            stack.push_async_callback(store.aclose)
            queue = Queue(
                Door(redis), Door(blocking), namespace="test", debounce_seconds=debounce_seconds, max_pending=1000,
                lease_seconds=lease_seconds, max_attempts=max_attempts,
            )  # fmt: skip
            stack.push_async_callback(queue.aclose)
            cipher = TokenCipher([TokenCipher.generate_key()])
            breaker = CircuitBreaker("gemini_test", BreakerPolicy(5, 0.3), dependency="gemini")
            model = GeminiModel(
                base_url=sandbox.url, api_key="k", default_model="gemini-3.5-flash-lite", breaker=breaker
            )
            messenger = WhatsAppMessenger(base_url=sandbox.url, api_version="v26.0", cipher=cipher)
            accounts = AccountService(store, cipher, limits=limits)
            pacer = Pacer(Door(redis), namespace="test", per_number=per_number(1000), per_pair=PER_PAIR)
            uptime = Uptime([] if uptime_gap_seconds is None else ["database"], gap_seconds=uptime_gap_seconds or 0)
            proofs = Proofs(store, queue, Receipts(Door(redis), namespace="test"), uptime)
            delivery = Delivery(
                store, accounts, messenger, pacer, proofs,
                reconcile_seconds=reconcile_seconds, reply_deadline_seconds=reply_deadline_seconds,
            )  # fmt: skip
            conversations = ConversationService(accounts=accounts, store=store, queue=queue, delivery=delivery)
            bot = BotService(
                accounts=accounts, store=store, model=model, messenger=messenger, delivery=delivery, limits=limits,
            )  # fmt: skip
            account = await store.create_account(
                name="Shop", slug=f"shop-{next(_numbers)}", phone_number_id=f"8000{next(_numbers):06d}",
                access_token=cipher.encrypt("token"), verify_token="verify-me",
            )  # fmt: skip
            await store.update_profile(account.id, BAKERY | (profile or {}))

            def start_worker() -> InboxWorker:
                worker = InboxWorker(queue, bot, conversations, AccountNotices(accounts), concurrency=concurrency)
                loops = [asyncio.create_task(worker.run()), asyncio.create_task(worker.renew())]

                async def stop() -> None:
                    await worker.drain(1)
                    for loop in loops:
                        loop.cancel()
                        with suppress(asyncio.CancelledError):
                            await loop

                stack.push_async_callback(stop)
                return worker

            control = SandboxClient(sandbox.url)
            ingest = IngestService(queue)
            return Office(
                store, store_url, accounts, queue, sandbox, control, ingest, conversations, delivery, proofs, uptime,
                start_worker(), start_worker, account, breaker,
            )  # fmt: skip

        yield make


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    async with outside_world() as world:
        yield world
