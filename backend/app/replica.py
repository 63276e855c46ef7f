"""One replica and what it talks to, as `wiring` puts them together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from app.adapters.gemini import GeminiModel
from app.adapters.graph_inspector import GraphInspector
from app.adapters.receivers import HttpReceiver
from app.adapters.whatsapp import WhatsAppMessenger
from app.api.deps import Services
from app.core.circuit_breaker import BreakerFleet
from app.core.feed import Feed
from app.core.fleet.pacing import Pacer
from app.core.fleet.probe_board import ProbeBoard
from app.core.fleet.registry import Registry
from app.core.lifecycle import Supervisor
from app.core.loop_watch import LoopWatch
from app.core.queue import Queue
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.ports import MediaStore, Store
from app.services.account_watch import AccountWatch
from app.services.arrivals import Arrivals
from app.services.bot_service import BotService
from app.services.event_worker import EventWorker
from app.services.inbox_fallback import InboxFallback
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import IngestService
from app.services.journal import Journal
from app.services.namespace_gate import Binding, NamespaceGate
from app.services.receipts import Receipts
from app.services.schema_gate import SchemaGate
from app.services.uptime import Uptime
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Replica:
    """One running replica: what the routes call, what the server drains."""

    services: Services
    ingest: IngestService
    inbox: InboxFallback | Journal | None
    """What takes events in the queue's place, now and then or always."""
    app_secrets: tuple[str, ...]
    account_watch: AccountWatch
    bot: BotService | None
    worker: InboxWorker | None
    event_worker: EventWorker | None
    supervisor: Supervisor
    settings: Settings
    schema: SchemaGate
    namespace: NamespaceGate
    loop_watch: LoopWatch

    def when_fit(self, loop: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`loop`, started only once this replica may work."""
        return self.schema.guarded(self.namespace.guarded(loop))

    async def drain(self, grace_seconds: float) -> None:
        """Finish or give back what is held. Idempotent."""
        drains = [self.worker.loop.drain] if self.worker else []
        drains += [self.event_worker.loop.drain] if self.event_worker else []
        await asyncio.gather(*(drain(grace_seconds) for drain in drains))
        if self.bot is not None:
            await self.bot.aclose()


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything this replica talks to. Nothing is connected before its first use."""

    redis: Door
    control: Door
    """For what tells whether Redis, and this replica, are well: it must not wait behind what they do."""
    queue: Queue
    events: Queue
    """For other systems."""
    registry: Registry
    feed: Feed
    store: Store
    cipher: TokenCipher
    model: GeminiModel
    messenger: WhatsAppMessenger
    inspector: GraphInspector
    files: MediaStore
    receiver: HttpReceiver
    pacer: Pacer
    bindings: Mapping[str, Binding]
    breakers: BreakerFleet
    board: ProbeBoard
    arrivals: Arrivals
    receipts: Receipts
    uptime: Uptime
