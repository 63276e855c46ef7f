"""One replica's worker in this process, on real servers, with the sandbox outside: faults and clocks within reach.

`wiring` builds it. What differs from a replica: a circuit of its own in front of the model, which closes soon; a queue
with the test's limits; no loops but the worker's; and the toolbox's own objects are not in a fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import asyncpg

from app import wiring
from app.adapters.gemini import GeminiModel
from app.core.cache import invalidate_cache_pattern
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.lifecycle import Supervisor
from app.core.queue import Queue, QueuePolicy
from app.demo.bakery import BAKERY
from app.domain.models import Account
from app.domain.ports import Store
from app.domain.usage import DailyLimits
from app.domain.webhook import OF_A_NUMBER, Kind
from app.replica import Outside, Replica
from app.sandbox import webhooks as wa
from app.sandbox.app import RunningSandbox, running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import Behaviour, SandboxConfig
from app.services.account_service import NO_LIMITS, AccountService
from app.services.conversation_service import ConversationService
from app.services.delivery import Delivery
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import IngestService
from app.services.uptime import Uptime
from app.settings import Settings
from tests.support.serving import settings_of

_numbers = count(1)


@dataclass
class Office:
    """Everything between the webhook and WhatsApp."""

    settings: Settings
    outside: Outside
    replica: Replica
    sandbox: RunningSandbox
    control: SandboxClient
    delivery: Delivery
    account: Account
    breaker: CircuitBreaker
    """In front of the model."""
    start_worker: Callable[[], Awaitable[Replica]]
    """Of another replica, beside those that run."""

    @property
    def worker(self) -> InboxWorker:
        assert self.replica.worker is not None
        return self.replica.worker

    @property
    def store(self) -> Store:
        return self.outside.store

    @property
    def queue(self) -> Queue:
        return self.outside.queue

    @property
    def accounts(self) -> AccountService:
        return self.replica.services.accounts

    @property
    def conversations(self) -> ConversationService:
        return self.replica.services.conversations

    @property
    def ingest(self) -> IngestService:
        return self.replica.ingest

    @property
    def business(self) -> wa.Business:
        return wa.Business(self.account.phone_number_id)

    def person(self, name: str = "Amina") -> wa.Person:
        return wa.Person(f"3362{next(_numbers):07d}", name)

    async def receive(self, person: wa.Person, *messages: dict[str, Any]) -> None:
        await self.ingest.accept(wa.envelope(wa.messages_change(self.business, messages, [person])))

    async def sends(self, person: wa.Person) -> list[dict[str, Any]]:
        return await self.control.record(kind="send", to=person.wa_id)

    async def until(self, happened: Callable[[], Awaitable[bool]], *, timeout_seconds: float = 30) -> None:
        async with asyncio.timeout(timeout_seconds):
            while not await happened():
                await asyncio.sleep(0.01)

    async def move_usage_to_yesterday(self) -> None:
        assert self.settings.database_url is not None
        connection = await asyncpg.connect(self.settings.database_url.get_secret_value())
        try:
            await connection.execute("update account_usage set day = day - 1")
            await connection.execute("update replies set spent_at = spent_at - interval '1 day'")
        finally:
            await connection.close()

    async def until_idle(self, *, timeout_seconds: float = 30) -> None:
        async def idle() -> bool:
            return (await self.queue.stats()).pending == 0

        await self.until(idle, timeout_seconds=timeout_seconds)


MakeOffice = Callable[..., Awaitable[Office]]


async def open_office(
    stack: AsyncExitStack,
    redis_url: str,
    database_url: str,
    *,
    max_attempts: int = 3,
    statuses: bool = False,
    profile: Mapping[str, object] | None = None,
    limits: DailyLimits = NO_LIMITS,
    uptime_gap_seconds: float | None = None,
    **settings: Any,
) -> Office:
    """A running worker, stopped and closed with `stack`. `settings` as in `Settings`, quicker than in production."""
    stack.push_async_callback(invalidate_cache_pattern, "*")
    config = SandboxConfig(behaviour=Behaviour(statuses=statuses, messages_per_second=0))
    sandbox = await stack.enter_async_context(running_sandbox(config))
    quick = {
        "redis_namespace": "test", "debounce_seconds": 0, "send_reconcile_seconds": 0.3, "worker_concurrency": 10,
        "queue_max_pending": 1000, "whatsapp_messages_per_second": 1000,
        "daily_messages_per_conversation": limits.messages_per_conversation,
        "daily_tokens_per_conversation": limits.tokens_per_conversation,
        "daily_messages_per_account": limits.messages_per_account,
        "daily_tokens_per_account": limits.tokens_per_account,
    }  # fmt: skip
    given = settings_of(sandbox.url, redis_url, database_url, **quick | settings)
    breaker = CircuitBreaker("gemini_test", BreakerPolicy(5, 0.3), dependency="gemini")
    outside = await wiring.open_outside(given, stack)
    queue = Queue(
        outside.redis,
        wiring.open_door(redis_url, stack, name="chorus-wait"),
        policy=QueuePolicy(
            debounce_seconds=given.debounce_seconds,
            lease_seconds=given.lease_seconds,
            max_attempts=max_attempts,
            max_pending=given.queue_max_pending,
            one_share=OF_A_NUMBER,
            gather_seconds=wiring.GATHER_SECONDS,
            gathered=[Kind.STATUS],
        ),
        namespace=given.redis_namespace,
    )
    stack.push_async_callback(queue.aclose)
    outside = replace(
        outside,
        queue=queue,
        model=GeminiModel(base_url=sandbox.url, api_key="k", default_model=given.gemini_model, breaker=breaker),
        uptime=Uptime([] if uptime_gap_seconds is None else ["database"], gap_seconds=uptime_gap_seconds or 0),
    )
    account = await outside.store.create_account(
        name="Shop", slug=f"shop-{next(_numbers)}", phone_number_id=f"8000{next(_numbers):06d}",
        access_token=outside.cipher.encrypt("token"), verify_token="verify-me",
    )  # fmt: skip
    await outside.store.update_profile(account.id, BAKERY | dict(profile or {}))
    replica = await _start_worker(given, outside, stack)
    delivery = wiring.delivery_of(given, outside, replica.services.accounts)
    return Office(
        given, outside, replica, sandbox, SandboxClient(sandbox.url), delivery, account, breaker,
        partial(_start_worker, given, outside, stack),
    )  # fmt: skip


async def _start_worker(settings: Settings, outside: Outside, stack: AsyncExitStack) -> Replica:
    """A replica of which only the worker runs."""
    supervisor = Supervisor()
    replica = await fit_replica(settings, outside, supervisor)
    assert replica.worker is not None
    stack.push_async_callback(supervisor.stop)
    stack.push_async_callback(replica.drain, 1)
    supervisor.start("worker", replica.worker.loop.run)
    supervisor.start("lease_renewal", replica.worker.loop.renew)
    return replica


async def fit_replica(settings: Settings, outside: Outside, supervisor: Supervisor) -> Replica:
    """One that has looked at the schema and at the namespace, and may work. Nothing of it runs."""
    replica = wiring.assemble(settings, outside, supervisor, "test")
    await replica.schema.look()
    await replica.namespace.look()
    return replica
