"""The only place that picks adapters and connects resources. Each resource stands beside its probe and its closer."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr

from app import __version__
from app.adapters.gemini import GeminiModel
from app.adapters.postgres_store import PostgresStore
from app.adapters.supabase_auth import SupabaseTokenVerifier
from app.adapters.supabase_store import SupabaseStore
from app.adapters.whatsapp import WhatsAppMessenger
from app.api.deps import Services
from app.core import cache
from app.core.circuit_breaker import gemini_circuit_breaker, supabase_circuit_breaker, whatsapp_circuit_breaker
from app.core.config import Env, ReplicaRole, Settings
from app.core.errors import Unavailable
from app.core.http_client import close_http_client, get_http_client
from app.core.leader import Lease
from app.core.lifecycle import Supervisor
from app.core.queue import Queue
from app.core.redis import connect as connect_redis
from app.core.redis import describe
from app.core.registry import HEARTBEAT_SECONDS, Registry
from app.core.secrets import TokenCipher
from app.domain.errors import Conflict
from app.domain.ports import Store
from app.services.account_service import AccountService
from app.services.bot_service import BotService
from app.services.cache_relay import CacheRelay
from app.services.conversation_service import ConversationService
from app.services.delivery import Delivery
from app.services.health_service import Dependency, HealthService
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import IngestService

logger = logging.getLogger(__name__)

REDIS_TIMEOUT_SECONDS = 1.0
"""The webhook promises 503 within a second (DESIGN §3)."""
BLOCKING_TIMEOUT_SECONDS = 3.0
"""Above the longest block, which is one second."""
PROBE_SECONDS = 5.0
UPSTREAM_PROBE_SECONDS = 30.0
AUDIT_SECONDS = 60.0
STUCK_SECONDS = 15.0
"""The worker beats about once a second."""
RELAY_LEASE_SECONDS = 6.0
"""Three rounds of the relay, which renews it in every one."""
BOOTSTRAP_SLUG = "default"


@dataclass(frozen=True, slots=True)
class Replica:
    """One running replica: what the routes call, what the server drains."""

    services: Services
    ingest: IngestService
    app_secrets: tuple[str, ...]
    worker: InboxWorker | None
    supervisor: Supervisor
    settings: Settings

    async def drain(self, grace_seconds: float) -> None:
        """Finish or give back what is held. Idempotent."""
        if self.worker is not None:
            await self.worker.drain(grace_seconds)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Replica]:
    """Connect, start the background loops, yield; then stop them and close in reverse order.

    A dependency that is away does not prevent the start: it is reported, and used when it is back.
    """
    settings.check_serve()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        redis = connect_redis(settings.redis_url or "", timeout_seconds=REDIS_TIMEOUT_SECONDS)
        stack.push_async_callback(redis.aclose)
        blocking = connect_redis(settings.redis_url or "", timeout_seconds=BLOCKING_TIMEOUT_SECONDS, name="chorus-wait")
        stack.push_async_callback(blocking.aclose)
        store = await open_store(settings)
        stack.push_async_callback(store.aclose)
        cache_url = settings.redis_cache_url or settings.redis_url or ""
        await stack.enter_async_context(
            cache.join_fleet(cache.default_cache, cache_url, namespace=settings.redis_namespace)
        )

        queue = Queue(
            redis,
            blocking,
            namespace=settings.redis_namespace,
            debounce_seconds=settings.debounce_seconds,
            max_pending=settings.queue_max_pending,
        )
        stack.push_async_callback(queue.aclose)
        relay = CacheRelay(
            store,
            cache.invalidate_everywhere,
            Lease(
                redis,
                key=f"{settings.redis_namespace}:{{fleet}}:cache_relay",
                holder=_replica_id(),
                seconds=RELAY_LEASE_SECONDS,
            ),
        )
        registry = Registry(redis, namespace=settings.redis_namespace, replica_id=_replica_id())
        cipher = TokenCipher(_values(settings.encryption_key))
        model = GeminiModel(
            base_url=settings.gemini_base_url,
            api_key=_value(settings.gemini_api_key),
            default_model=settings.gemini_model,
        )
        messenger = WhatsAppMessenger(
            base_url=settings.whatsapp_base_url, api_version=settings.whatsapp_api_version, cipher=cipher
        )
        accounts = AccountService(store, cipher)
        delivery = Delivery(store, messenger, reconcile_seconds=settings.send_reconcile_seconds)
        conversations = ConversationService(accounts=accounts, store=store, queue=queue, delivery=delivery)
        supervisor = Supervisor()

        async def internals() -> Mapping[str, Any]:
            numbers = await queue.stats()
            return {
                "cache": asdict(cache.stats()),
                "queue": {
                    "pending": numbers.pending,
                    "oldest_seconds": round(numbers.oldest_seconds, 3),
                    "dead": numbers.dead,
                },
            }

        async def probe_redis() -> Mapping[str, Any]:
            return {**await describe(redis), "channel": "trusted" if cache.stats().trusted else "not trusted"}

        async def probe_store() -> Mapping[str, Any]:
            await store.ping()
            return {}

        breakers = {
            "gemini": gemini_circuit_breaker,
            "whatsapp": whatsapp_circuit_breaker,
            "supabase": supabase_circuit_breaker,
        }
        health = HealthService(
            dependencies={
                "redis": Dependency("redis", probe_redis, PROBE_SECONDS),
                "supabase": Dependency("supabase", probe_store, PROBE_SECONDS),
                "whatsapp": Dependency("whatsapp", messenger.probe, UPSTREAM_PROBE_SECONDS),
                "gemini": Dependency("gemini", model.probe, UPSTREAM_PROBE_SECONDS),
            },
            breakers=breakers,
            fleet=registry,
            supervisor=supervisor,
            internals=internals,
            requires=frozenset(settings.readiness_requires),
        )
        worker = None
        if settings.app_role is not ReplicaRole.API:
            bot = BotService(
                accounts=accounts,
                store=store,
                model=model,
                messenger=messenger,
                delivery=delivery,
                reply_deadline_seconds=settings.reply_deadline_seconds,
            )
            worker = InboxWorker(
                queue,
                bot,
                conversations,
                concurrency=settings.worker_concurrency,
                on_beat=lambda: supervisor.beat("worker"),
            )
        replica = Replica(
            services=Services(
                accounts=accounts,
                conversations=conversations,
                health=health,
                queue=queue,
                registry=registry,
                breakers=breakers,
                verifier=_verifier(settings),
                admin_key=_admin_key(settings),
                verify_token=_value(settings.whatsapp_verify_token) or None,
            ),
            ingest=IngestService(queue),
            app_secrets=_values(settings.meta_app_secret),
            worker=worker,
            supervisor=supervisor,
            settings=settings,
        )
        stack.push_async_callback(_leave, registry)
        await health.probe_all()
        await _bootstrap_account(settings, store, cipher)
        stack.push_async_callback(supervisor.stop)
        supervisor.start("cache_relay", relay.run)
        _start_loops(replica, registry)
        health.started()
        try:
            yield replica
        finally:
            health.draining()
            await replica.drain(settings.drain_seconds)


def _start_loops(replica: Replica, registry: Registry) -> None:
    """Every background loop of a replica; the supervisor restarts one that dies and tells /health/live."""
    start = replica.supervisor.start
    for name, loop in replica.services.health.loops().items():
        start(name, loop)
    started_at = time.time()

    async def heartbeat() -> None:
        while True:
            info = {
                "version": __version__,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_at": started_at,
                "role": replica.settings.app_role,
                "phase": replica.services.health.phase,
                "active": replica.worker.active if replica.worker else 0,
            }
            try:
                await registry.beat(info)
            except Unavailable as exc:
                logger.warning("heartbeat failed", extra={"reason": str(exc)})
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def audit() -> None:
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            try:
                repaired = await replica.services.queue.audit()
            except Unavailable as exc:
                logger.warning("audit failed", extra={"reason": str(exc)})
                continue
            if repaired:
                logger.error("mailboxes were in no set and are due again", extra={"count": repaired})

    start("heartbeat", heartbeat)
    if replica.worker is not None:
        start("worker", replica.worker.run, beat_within_seconds=STUCK_SECONDS)
        start("lease_renewal", replica.worker.renew)
        start("audit", audit)


async def open_store(settings: Settings) -> Store:
    """Postgres by DATABASE_URL, or Supabase over REST."""
    if settings.database_url:
        return PostgresStore(settings.database_url.get_secret_value())
    return SupabaseStore(settings.supabase_url or "", _value(settings.supabase_key), await get_http_client())


async def _bootstrap_account(settings: Settings, store: Store, cipher: TokenCipher) -> None:
    """WHATSAPP_TOKEN and WHATSAPP_PHONE_ID give a first account without any API call; it is never overwritten."""
    if not settings.whatsapp_token or not settings.whatsapp_phone_id:
        return
    # Another replica may be creating it this very moment, or it exists: both are what we want.
    with suppress(Conflict):
        if await store.get_account_by_phone_number_id(settings.whatsapp_phone_id) is None:
            await store.create_account(
                name=BOOTSTRAP_SLUG,
                slug=BOOTSTRAP_SLUG,
                phone_number_id=settings.whatsapp_phone_id,
                access_token=cipher.encrypt(_value(settings.whatsapp_token)),
                verify_token=_value(settings.whatsapp_verify_token) or secrets.token_urlsafe(24),
            )


def _verifier(settings: Settings) -> SupabaseTokenVerifier | None:
    if not settings.supabase_url:
        return None
    return SupabaseTokenVerifier(settings.supabase_url, jwt_secret=_value(settings.supabase_jwt_secret) or None)


def _admin_key(settings: Settings) -> str:
    """Production has one (`check_serve`); development gets one made up and printed."""
    if settings.admin_api_key:
        return settings.admin_api_key.get_secret_value()
    assert settings.app_env is not Env.PRODUCTION  # noqa: S101  refused by check_serve
    key = secrets.token_urlsafe(24)
    logger.warning("ADMIN_API_KEY is not set; for this run the operator's key is %s", key)
    return key


async def _leave(registry: Registry) -> None:
    with suppress(Unavailable):  # the others notice the silence
        await registry.leave()


def _replica_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def _value(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _values(items: tuple[SecretStr, ...]) -> tuple[str, ...]:
    return tuple(item.get_secret_value() for item in items)
