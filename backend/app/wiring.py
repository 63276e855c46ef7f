"""The only place that picks adapters and connects resources. Each resource stands beside its probe and its closer."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from pydantic import SecretStr

from app import __version__
from app.adapters.gemini import GeminiModel
from app.adapters.graph_inspector import GraphInspector
from app.adapters.migrations import read_migrations
from app.adapters.postgres_media import PostgresMediaStore
from app.adapters.postgres_store import PostgresStore
from app.adapters.receivers import HttpReceiver
from app.adapters.recordings import recording_seconds
from app.adapters.sandbox_switch import SandboxSwitch
from app.adapters.sql_store import OnChanges, ignore_changes
from app.adapters.supabase_auth import SupabaseTokenVerifier
from app.adapters.supabase_sign_in import SupabaseSignIn
from app.adapters.whatsapp import WhatsAppMessenger
from app.api.deps import Services
from app.capacity import capacity_of
from app.core import cache
from app.core.build import build_id
from app.core.circuit_breaker import (
    CIRCUIT_BREAKERS,
    KEYED_CIRCUIT_BREAKERS,
    BreakerFleet,
    gemini_model_breakers,
    whatsapp_account_breakers,
    whatsapp_media_breakers,
)
from app.core.errors import Unavailable
from app.core.feed import Feed
from app.core.fleet.allowance import Allowance
from app.core.fleet.minutes import Minutes
from app.core.fleet.pacing import Pacer
from app.core.fleet.probe_board import ProbeBoard
from app.core.fleet.registry import Registry, new_replica_id
from app.core.http_client import close_http_client, get_http_client, get_http_client_for_media, leave_by, make_room_for
from app.core.lifecycle import Supervisor
from app.core.loop_watch import LoopWatch
from app.core.metrics import tell_build
from app.core.queue import Queue, QueuePolicy
from app.core.redis.door import Door, DoorTimings
from app.core.resilience import ResiliencePolicy
from app.core.secrets import TokenCipher
from app.core.sessions import Sessions
from app.domain.app_secrets import binds, first_app, read_app_secrets
from app.domain.ports import MediaStore, Store, TokenVerifier
from app.domain.usage import DailyLimits
from app.domain.webhook import OF_A_NUMBER, Kind
from app.loops import start_loops
from app.replica import Outside, Replica
from app.services import session_service
from app.services.account_health import AccountChecks
from app.services.account_notices import AccountNotices
from app.services.account_service import AccountService
from app.services.account_watch import AccountWatch
from app.services.app_binding import AppBinding
from app.services.arrivals import Arrivals
from app.services.attachments import Attachments
from app.services.audit_service import AuditService
from app.services.bot_service import BotService
from app.services.breaker_service import BreakerService
from app.services.conversation_service import ConversationService
from app.services.cut_off import CutOff
from app.services.dead_letters import DeadLetterList
from app.services.delivery import PER_PAIR, Delivery, per_number
from app.services.early_record import EARLY_FROM_SECONDS, EarlyRecord
from app.services.endpoint_service import MOST_TESTS, TEST_WINDOW_SECONDS, EndpointService
from app.services.event_worker import EventPolicy, EventWorker
from app.services.health_service import HealthService
from app.services.inbox_fallback import InboxFallback
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import Destination, IngestService
from app.services.interim import Interim
from app.services.invitation_service import InvitationService
from app.services.journal import Journal
from app.services.key_service import KeyService
from app.services.last_hour import LastHour
from app.services.live_events import LiveEvents, tell_changes
from app.services.namespace_gate import Binding, NamespaceGate
from app.services.outbox_relay import EVENTS_QUEUE
from app.services.overflow import Overflow
from app.services.privacy_service import PrivacyService
from app.services.probes import TROUBLE, Dependency, Proof
from app.services.proofs import Proofs
from app.services.queue_view import QueueView
from app.services.receipts import Receipts
from app.services.redis_health import describe, trouble
from app.services.rehearsal import Rehearsal
from app.services.schema_gate import SchemaGate
from app.services.session_service import SessionService
from app.services.signup_service import MAX_ACCOUNTS, MAX_TRIES, WINDOW_SECONDS, SignupService
from app.services.silence_watch import SilenceWatch
from app.services.simulator import MOST_ANSWERS, Simulator
from app.services.simulator import WINDOW_SECONDS as SIMULATOR_SECONDS
from app.services.uptime import Uptime
from app.settings import Env, IngestFallback, MediaStoreKind, RedisDurability, ReplicaRole, Settings, Signup, revealed

logger = logging.getLogger(__name__)

REDIS_TIMEOUT_SECONDS = 1.0
"""The webhook promises 503 within a second, so that Meta delivers again (docs/architecture.md)."""
PUT_SECONDS = 0.9
DIVERT_SECONDS = 0.2
"""With somewhere else to go there is no point in waiting for a Redis that does not answer."""
PROBE_SECONDS = 3.0
PROBE_TIMEOUT_SECONDS = 1.5
"""A replica that cannot reach its stores is out of rotation within two of these intervals, the balancer's included."""
UPSTREAM_PROBE_SECONDS = 30.0
UPSTREAM_TIMEOUT_SECONDS = 3.0
MODEL_TIMEOUT_SECONDS = 5.0
"""Now and then the model is asked for a word, which takes longer than to look something up."""
MAX_SHOWN = 20
"""Circuits of single models that /health lists; `chorus breakers list` has all."""
OVERFLOW_ROWS = 100_000
"""They are recorded within seconds; more of them means that the database does not keep up."""
OVERFLOW_BYTES = 250_000_000
"""Of payload, of all accounts. It is full only while no replica can record what is in it."""
OVERFLOW_SECONDS = 0.7
"""What the queue has no room for is stored by then, or the webhook is refused."""
GATHER_SECONDS = 0.25
"""ADR 17."""
EVENTS_DEDUPE_SECONDS = 3600
"""Longer than a relay may take from putting an event to noting that. An event that is put again later is not told
again: the database knows that it was."""
CLUSTER_SHARDS = 16
"""ADR 4."""


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Replica]:
    """Connect, start the background loops, yield; then stop them and close in reverse order.

    A dependency that is away does not prevent the start: it is reported, and used when it is back.
    """
    settings.check_serve()
    build = build_id(settings.chorus_build)
    tell_build(build)
    async with AsyncExitStack() as stack:
        outside = await open_outside(settings, stack)
        await _join_fleet(settings, outside, stack)
        await outside.breakers.sync()  # before the first call: what the others have learned the hard way
        await _meet(outside.registry)
        supervisor = Supervisor()
        replica = assemble(settings, outside, supervisor, build)
        await asyncio.gather(
            replica.services.health.probe_all(),
            replica.schema.look(timeout_seconds=PROBE_TIMEOUT_SECONDS),
            replica.namespace.look(timeout_seconds=PROBE_TIMEOUT_SECONDS),
        )
        stack.push_async_callback(replica.services.breakers.aclose)
        stack.push_async_callback(supervisor.stop)
        start_loops(replica, outside)
        replica.services.health.started()
        try:
            yield replica
        finally:
            replica.services.health.draining()
            await replica.drain(settings.drain_seconds)


async def open_outside(settings: Settings, stack: AsyncExitStack) -> Outside:
    """Closed with `stack`. The toolbox's own objects stay out of the fleet."""
    leave_by(settings.egress)
    capacity = capacity_of(settings)
    make_room_for(capacity.http_calls_per_host)
    stack.push_async_callback(close_http_client)
    url = settings.redis_url or ""
    redis = open_door(url, stack, max_connections=capacity.redis_connections)
    control = open_door(url, stack, name="chorus-control")
    queue = open_queue(settings, stack, redis)
    registry = Registry(control, namespace=settings.redis_namespace, replica_id=new_replica_id())
    stack.push_async_callback(_leave, registry)
    breakers = open_breakers(settings, stack, registry)
    feed = Feed(redis, namespace=settings.redis_namespace)
    stack.push_async_callback(feed.aclose)
    store = await open_store(settings, on_changes=partial(tell_changes, feed))
    stack.push_async_callback(store.aclose)
    cipher = TokenCipher(_values(settings.encryption_key))
    return Outside(
        redis=redis,
        control=control,
        queue=queue,
        events=open_events_queue(settings, stack, redis),
        registry=registry,
        feed=feed,
        store=store,
        cipher=cipher,
        model=GeminiModel(
            base_url=settings.gemini_base_url,
            api_key=revealed(settings.gemini_api_key),
            default_model=settings.gemini_model,
            max_concurrent=capacity.answers,
            look_again_seconds=UPSTREAM_PROBE_SECONDS,
        ),
        messenger=WhatsAppMessenger(
            base_url=settings.whatsapp_base_url,
            api_version=settings.whatsapp_api_version,
            cipher=cipher,
            max_concurrent=capacity.answers,
        ),
        inspector=open_inspector(settings, cipher),
        files=await open_files(settings, store),
        receiver=HttpReceiver(may_be_private=settings.events_allow_private),
        pacer=Pacer(
            redis,
            namespace=settings.redis_namespace,
            per_number=per_number(settings.whatsapp_messages_per_second),
            per_pair=PER_PAIR,
            replicas=lambda: registry.count,
        ),
        bindings=open_bindings(settings, stack, redis),
        breakers=breakers,
        board=ProbeBoard(control, namespace=settings.redis_namespace, replica_id=registry.replica_id),
        arrivals=Arrivals(control, namespace=settings.redis_namespace),
        receipts=Receipts(redis, namespace=settings.redis_namespace),
        uptime=Uptime(["redis", "database"], gap_seconds=PROBE_SECONDS + PROBE_TIMEOUT_SECONDS),
    )


async def _join_fleet(settings: Settings, outside: Outside, stack: AsyncExitStack) -> None:
    """The toolbox's own circuits and cache, until `stack` is closed."""
    outside.breakers.join(*CIRCUIT_BREAKERS.values(), *KEYED_CIRCUIT_BREAKERS)
    stack.push_async_callback(outside.breakers.leave)
    cache_url = settings.redis_cache_url or settings.redis_url or ""
    await stack.enter_async_context(
        cache.join_fleet(cache.default_cache, cache_url, namespace=settings.redis_namespace)
    )


def assemble(settings: Settings, outside: Outside, supervisor: Supervisor, build: str) -> Replica:
    """The services around `outside`. Nothing runs yet."""
    accounts = _accounts(settings, outside)
    namespace = NamespaceGate(outside.store, outside.bindings, namespace=settings.redis_namespace)
    schema = SchemaGate(outside.store, [migration.id for migration in read_migrations()])
    delivery = delivery_of(settings, outside, accounts)
    account_watch = AccountWatch(outside.store)
    silence = SilenceWatch(outside.arrivals, outside.board)
    inbox = _inbox(settings, outside)
    journal = inbox if isinstance(inbox, Journal) else None
    intake = inbox if isinstance(inbox, InboxFallback) else _with_overflow(journal or outside.queue, outside)
    attachments = _attachments(settings, outside)
    conversations = _conversations(outside, accounts, delivery, namespace.before(journal or outside.queue), attachments)
    cut_off = CutOff(CIRCUIT_BREAKERS, lambda: [other.info for other in outside.registry.others])
    notices = AccountNotices(accounts)
    audit = AuditService(accounts, outside.store, keep_days=settings.audit_retention_days)
    verifier, admin_key = _verifier(settings), _admin_key(settings)
    loop_watch, bot, worker = LoopWatch(), None, None
    if settings.app_role is not ReplicaRole.API:
        bot = _bot(settings, outside, accounts, delivery, attachments)
        worker = InboxWorker(
            outside.queue, bot, conversations, notices, concurrency=capacity_of(settings).answers,
            lag_seconds=lambda: loop_watch.lag_seconds, on_beat=lambda: supervisor.beat("worker"),
            may_claim=lambda: schema.is_open() and namespace.is_open(), is_cut_off=cut_off.leaves_work_to_others,
            **_worker_hooks(inbox),
        )  # fmt: skip
    return Replica(
        services=Services(
            accounts=accounts,
            checks=AccountChecks(accounts, outside.store, outside.inspector),
            signup=_signup(settings, outside, accounts),
            conversations=conversations,
            endpoints=_endpoints(settings, outside, accounts),
            keys=KeyService(accounts, outside.store),
            privacy=_privacy(outside, accounts, inbox),
            invitations=InvitationService(accounts, outside.store),
            audit=audit,
            health=_health(settings, outside, supervisor, schema, namespace, silence, account_watch, cut_off, build),
            queue=outside.queue,
            queue_view=QueueView(accounts, outside.queue),
            rehearsal=Rehearsal(_sandbox_switch(settings)),
            dead_letters=DeadLetterList(outside.queue.dead_letters, outside.events.dead_letters),
            registry=outside.registry,
            breakers=breaker_service(outside.breakers, outside.queue, audit),
            silence=silence,
            simulator=_simulator(settings, outside, accounts),
            last_hour=LastHour(Minutes(outside.control, namespace=settings.redis_namespace)),
            live=LiveEvents(accounts, outside.feed),
            sessions=_sessions(settings, outside, accounts, verifier, admin_key),
            public_url=settings.public_url,
            trusts_host=settings.app_env is not Env.PRODUCTION,
            proxies=settings.trusted_proxies,
            verifier=verifier,
            admin_key=admin_key,
            metrics_key=revealed(settings.metrics_api_key) or None,
            verify_token=revealed(settings.whatsapp_verify_token) or None,
        ),
        ingest=_ingest(settings, outside, accounts, conversations, namespace.before(intake)),
        inbox=inbox,
        app_secrets=_values(settings.meta_app_secret),
        account_watch=account_watch,
        bot=bot,
        worker=worker,
        event_worker=_event_worker(settings, outside, supervisor, schema, namespace, cut_off),
        supervisor=supervisor,
        settings=settings,
        schema=schema,
        namespace=namespace,
        loop_watch=loop_watch,
    )


def _sandbox_switch(settings: Settings) -> SandboxSwitch | None:
    """Faults are rehearsed in development alone, and never on the real WhatsApp."""
    is_real = settings.whatsapp_base_url == Settings.model_fields["whatsapp_base_url"].default
    return None if settings.app_env == "production" or is_real else SandboxSwitch(settings.whatsapp_base_url)


def _accounts(settings: Settings, outside: Outside) -> AccountService:
    return AccountService(
        outside.store,
        outside.cipher,
        limits=_daily_limits(settings),
        least_verify_bytes=settings.least_verify_bytes,
    )


def _conversations(
    outside: Outside, accounts: AccountService, delivery: Delivery, queue: Destination, attachments: Attachments
) -> ConversationService:
    return ConversationService(
        accounts=accounts, store=outside.store, queue=queue, delivery=delivery, files=outside.files,
        attachments=attachments,
    )  # fmt: skip


def _bot(
    settings: Settings, outside: Outside, accounts: AccountService, delivery: Delivery, attachments: Attachments
) -> BotService:
    return BotService(
        accounts=accounts,
        store=outside.store,
        model=outside.model,
        messenger=outside.messenger,
        delivery=delivery,
        interim=Interim(outside.store, outside.messenger, delivery, after_seconds=settings.interim_seconds),
        limits=_daily_limits(settings),
        attachments=attachments,
    )


def _attachments(settings: Settings, outside: Outside) -> Attachments:
    return Attachments(
        outside.store,
        outside.files,
        outside.messenger,
        recording_seconds,
        max_bytes=settings.media_max_bytes,
        places=capacity_of(settings).runs_with_files,
    )


def _ingest(
    settings: Settings,
    outside: Outside,
    accounts: AccountService,
    conversations: ConversationService,
    destination: Destination,
) -> IngestService:
    if settings.debounce_seconds >= EARLY_FROM_SECONDS:
        destination = EarlyRecord(destination, accounts, conversations, outside.feed)
    return IngestService(destination, outside.arrivals.note, binding=_app_binding(settings, accounts))


def _app_binding(settings: Settings, accounts: AccountService) -> AppBinding | None:
    secrets = read_app_secrets(_values(settings.meta_app_secret))
    return AppBinding(accounts, first_app(secrets)) if binds(secrets) else None


def _event_worker(
    settings: Settings,
    outside: Outside,
    supervisor: Supervisor,
    schema: SchemaGate,
    namespace: NamespaceGate,
    cut_off: CutOff,
) -> EventWorker | None:
    if settings.app_role is ReplicaRole.API:
        return None
    return EventWorker(
        outside.events,
        outside.store,
        outside.receiver,
        outside.cipher,
        policy=EventPolicy(retry_cap_seconds=settings.events_retry_cap_seconds),
        may_claim=lambda: schema.is_open() and namespace.is_open() and not cut_off.leaves_work_to_others(),
        on_beat=lambda: supervisor.beat("event_worker"),
    )


def delivery_of(settings: Settings, outside: Outside, accounts: AccountService) -> Delivery:
    return Delivery(
        outside.store,
        accounts,
        outside.messenger,
        outside.pacer,
        Proofs(outside.store, outside.queue, outside.receipts, outside.uptime),
        outside.files,
        reconcile_seconds=settings.send_reconcile_seconds,
        reply_deadline_seconds=settings.reply_deadline_seconds,
    )


def _privacy(outside: Outside, accounts: AccountService, inbox: InboxFallback | Journal | None) -> PrivacyService:
    return PrivacyService(
        accounts,
        outside.store,
        outside.store,
        outside.queue,
        outside.receipts,
        outside.pacer,
        is_journalled=isinstance(inbox, Journal),
    )


def _signup(settings: Settings, outside: Outside, accounts: AccountService) -> SignupService:
    allowance = partial(Allowance, outside.redis, namespace=settings.redis_namespace, window_seconds=WINDOW_SECONDS)
    return SignupService(
        accounts,
        outside.messenger,
        tries=allowance(name="signup_tries", limit=MAX_TRIES),
        created=allowance(name="signup_created", limit=MAX_ACCOUNTS),
        is_open=settings.signup is Signup.OPEN,
    )


def _sessions(
    settings: Settings, outside: Outside, accounts: AccountService, verifier: TokenVerifier | None, admin_key: str
) -> SessionService:
    allowance = partial(Allowance, outside.redis, namespace=settings.redis_namespace)
    tries = partial(allowance, window_seconds=session_service.WINDOW_SECONDS)
    mails = partial(allowance, window_seconds=session_service.MAIL_WINDOW_SECONDS)
    key = revealed(settings.supabase_publishable_key) or revealed(settings.supabase_key)
    return SessionService(
        Sessions(
            outside.redis,
            namespace=settings.redis_namespace,
            idle_seconds=settings.session_idle_hours * 3600,
            longest_seconds=settings.session_max_days * 86_400,
        ),
        accounts,
        outside.cipher,
        session_service.Limits(
            tries_of_address=tries(name="sign_in_address", limit=session_service.TRIES_OF_AN_ADDRESS),
            tries_of_email=tries(name="sign_in_email", limit=session_service.TRIES_OF_AN_EMAIL),
            mails_for_address=mails(name="sign_in_mails_address", limit=session_service.MAILS_FOR_AN_ADDRESS),
            mails_to_email=mails(name="sign_in_mails_email", limit=session_service.MAILS_TO_AN_EMAIL),
        ),
        identity=SupabaseSignIn(settings.supabase_url, key) if settings.supabase_url and key else None,
        verifier=verifier,
        operator_key=admin_key,
        tokens_are_keys=settings.app_env is Env.DEVELOPMENT,
    )


def _endpoints(settings: Settings, outside: Outside, accounts: AccountService) -> EndpointService:
    tests = Allowance(
        outside.redis, namespace=settings.redis_namespace, name="webhook_tests", limit=MOST_TESTS,
        window_seconds=TEST_WINDOW_SECONDS,
    )  # fmt: skip
    return EndpointService(accounts, outside.store, outside.cipher, outside.receiver, tests)


def _simulator(settings: Settings, outside: Outside, accounts: AccountService) -> Simulator:
    answers = Allowance(
        outside.redis, namespace=settings.redis_namespace, name="simulated", limit=MOST_ANSWERS,
        window_seconds=SIMULATOR_SECONDS,
    )  # fmt: skip
    return Simulator(accounts, outside.model, answers, limits=_daily_limits(settings))


def breaker_service(fleet: BreakerFleet, queue: Queue, audit: AuditService | None = None) -> BreakerService:
    return BreakerService(
        fleet,
        CIRCUIT_BREAKERS,
        whatsapp_account_breakers,
        queue,
        others=[gemini_model_breakers, whatsapp_media_breakers],
        audit=audit,
    )


def _daily_limits(settings: Settings) -> DailyLimits:
    return DailyLimits(
        messages_per_conversation=settings.daily_messages_per_conversation,
        tokens_per_conversation=settings.daily_tokens_per_conversation,
        messages_per_account=settings.daily_messages_per_account,
        tokens_per_account=settings.daily_tokens_per_account,
    )


def _inbox(settings: Settings, outside: Outside) -> InboxFallback | Journal | None:
    queue, store = outside.queue, outside.store
    max_rows, max_bytes = settings.queue_max_pending, settings.queue_max_bytes
    if settings.redis_durability is RedisDurability.NONE:
        return Journal(queue, store, max_rows=max_rows, max_bytes=max_bytes, put_timeout_seconds=PUT_SECONDS)
    if settings.ingest_fallback is IngestFallback.DATABASE:
        return InboxFallback(
            queue, _with_overflow(queue, outside), store,
            max_rows=max_rows, max_bytes=max_bytes, put_timeout_seconds=PUT_SECONDS,
        )  # fmt: skip
    return None


def _with_overflow(destination: Queue | Journal, outside: Outside) -> Overflow:
    return Overflow(
        destination, outside.store,
        max_rows=OVERFLOW_ROWS, max_bytes=OVERFLOW_BYTES, put_timeout_seconds=OVERFLOW_SECONDS,
    )  # fmt: skip


def _worker_hooks(inbox: InboxFallback | Journal | None) -> dict[str, Any]:
    match inbox:
        case Journal():
            return {"on_handled": inbox.settle}
        case InboxFallback():
            return {"on_queue_away": inbox.suspect}
        case None:
            return {}


def _health(
    settings: Settings,
    outside: Outside,
    supervisor: Supervisor,
    schema: SchemaGate,
    namespace: NamespaceGate,
    silence: SilenceWatch,
    account_watch: AccountWatch,
    cut_off: CutOff,
    build: str,
) -> HealthService:
    redis = Dependency("redis", partial(_probe_redis, settings, outside), PROBE_SECONDS, PROBE_TIMEOUT_SECONDS)
    database = Dependency(
        "supabase", partial(_probe_store, outside), PROBE_SECONDS, PROBE_TIMEOUT_SECONDS,
        circuit=CIRCUIT_BREAKERS["supabase"], silent_seconds=outside.store.silent_seconds,
    )  # fmt: skip
    return HealthService(
        dependencies={"redis": redis, "supabase": database, **_upstreams(outside)},
        board=outside.board,
        breakers=CIRCUIT_BREAKERS,
        fleet=outside.registry,
        supervisor=supervisor,
        accounts=account_watch,
        internals=partial(_internals, outside, silence),
        build={"version": __version__, "build": build},
        requires=frozenset(settings.readiness_requires),
        cut_off=cut_off,
        unfit=lambda: schema.reason or namespace.reason,
        refusing=lambda: _refusing(settings, redis, database),
        strained=lambda: namespace.contradiction,
    )


async def _probe_store(outside: Outside) -> Mapping[str, object]:
    await outside.store.probe()
    outside.uptime.answered("database")
    wrong = outside.store.trouble()
    return {TROUBLE: wrong} if wrong else {}


async def _probe_redis(settings: Settings, outside: Outside) -> Mapping[str, object]:
    channel = "trusted" if cache.stats().trusted else "lost"
    needs_aof = settings.redis_durability is RedisDurability.AOF
    about = await describe(outside.control, needs_aof=needs_aof)
    outside.uptime.answered("redis")
    try:
        await outside.queue.probe()
    except Unavailable as exc:
        raise Unavailable("redis", f"it answers and refuses writes: {exc}") from exc
    wrong = trouble(about, needs_aof=needs_aof)
    round_trip_ms = round(outside.control.round_trip_seconds * 1000, 1)
    told = {"durability": settings.redis_durability, "channel": channel, "round_trip_ms": round_trip_ms}
    return about | told | ({TROUBLE: wrong} if wrong else {})


async def _internals(outside: Outside, silence: SilenceWatch) -> Mapping[str, object]:
    queue = await outside.queue.stats()
    return {
        "cache": asdict(cache.stats()),
        "silent_numbers": silence.silent,
        "model_circuits": [snapshot._asdict() for snapshot in gemini_model_breakers.snapshots()[:MAX_SHOWN]],
        "queue": {
            "pending": queue.pending,
            "bytes": queue.bytes,
            "oldest_seconds": round(queue.oldest_seconds, 3),
            "dead": queue.dead,
            "refuses": queue.is_full,
        },
    }


def _upstreams(outside: Outside) -> dict[str, Dependency]:
    def upstream(
        name: str, adapter: GeminiModel | WhatsAppMessenger, timeout_seconds: float, proof: Proof
    ) -> Dependency:
        return Dependency(
            name, adapter.probe, UPSTREAM_PROBE_SECONDS, timeout_seconds, is_shared=True,
            circuit=CIRCUIT_BREAKERS[name], proof=proof, silent_seconds=adapter.silent_seconds,
        )  # fmt: skip

    return {
        # Looking WhatsApp up proves no send, and one that fails halfway may have gone out: not tried every time.
        "whatsapp": upstream("whatsapp", outside.messenger, UPSTREAM_TIMEOUT_SECONDS, Proof.AFTER_FAILURE),
        "gemini": upstream("gemini", outside.model, MODEL_TIMEOUT_SECONDS, Proof.ALWAYS),
    }


def _refusing(settings: Settings, redis: Dependency, database: Dependency) -> str | None:
    """Why webhooks are answered with 503: what they are stored in does not take them."""
    if settings.redis_durability is RedisDurability.NONE:
        needed = [database]
    elif settings.ingest_fallback is IngestFallback.DATABASE:
        needed = [redis, database]
    else:
        needed = [redis]
    if any(store.status != "error" for store in needed):
        return None
    return f"webhooks are refused: {needed[0].name}: {needed[0].error}"


def open_door(
    url: str, stack: AsyncExitStack, *, name: str = "chorus", max_connections: int = 20,
    answer_seconds: float = REDIS_TIMEOUT_SECONDS,
) -> Door:  # fmt: skip
    """Closed with `stack`."""
    timings = DoorTimings(answer_seconds=answer_seconds)
    door = Door.to(url, timings=timings, name=name, max_connections=max_connections)
    stack.push_async_callback(door.aclose)
    return door


def open_breakers(settings: Settings, stack: AsyncExitStack, registry: Registry) -> BreakerFleet:
    """With a door of its own: a probe must not wait behind the queue."""
    return BreakerFleet(
        open_door(settings.redis_url or "", stack, name="chorus-breakers"),
        namespace=settings.redis_namespace,
        replica_id=registry.replica_id,
        replicas=lambda: registry.count,
        living=partial(_may_call, registry),
    )


def _may_call(registry: Registry, circuit: str) -> int:
    """How many living replicas, this one included: everything needs the database, only workers the rest."""
    workers = [other for other in registry.others if other.info.get("role") != ReplicaRole.API]
    return 1 + len(registry.others if circuit == CIRCUIT_BREAKERS["supabase"].name else workers)


def open_bindings(settings: Settings, stack: AsyncExitStack, redis: Door) -> dict[str, Binding]:
    """Whose the namespace is, on each Redis in use, by the setting that names it."""
    bindings = {"REDIS_URL": Binding(redis, namespace=settings.redis_namespace)}
    if settings.redis_cache_url:
        cache_redis = open_door(settings.redis_cache_url, stack)
        bindings["REDIS_CACHE_URL"] = Binding(cache_redis, namespace=settings.redis_namespace)
    return bindings


def open_queue(settings: Settings, stack: AsyncExitStack, redis: Door) -> Queue:
    """With doors of its own for waiting, and for what comes in."""
    url = settings.redis_url or ""
    queue = Queue(
        redis,
        open_door(url, stack, name="chorus-wait"),
        policy=QueuePolicy(
            debounce_seconds=settings.debounce_seconds,
            lease_seconds=settings.lease_seconds,
            max_pending=settings.queue_max_pending,
            max_bytes=settings.queue_max_bytes,
            one_share=OF_A_NUMBER,
            gather_seconds=GATHER_SECONDS,
            gathered=[Kind.STATUS],
            put_timeout_seconds=DIVERT_SECONDS if _has_somewhere_else(settings) else PUT_SECONDS,
        ),
        ingest=open_door(url, stack, name="chorus-ingest"),
        namespace=settings.redis_namespace,
        shards=CLUSTER_SHARDS if redis.is_cluster else 1,
    )
    stack.push_async_callback(queue.aclose)
    return queue


def open_events_queue(settings: Settings, stack: AsyncExitStack, redis: Door) -> Queue:
    """Of events for other systems: a queue of its own, so that they take neither room nor a turn from messages, and a
    replica of a version that does not know them finds none."""
    url = settings.redis_url or ""
    queue = Queue(
        redis,
        open_door(url, stack, name="chorus-events-wait"),
        policy=QueuePolicy(
            debounce_seconds=0.0,
            lease_seconds=settings.lease_seconds,
            max_pending=settings.queue_max_pending,
            max_bytes=settings.queue_max_bytes // 10,  # ids only
            dedupe_seconds=EVENTS_DEDUPE_SECONDS,
        ),
        namespace=f"{settings.redis_namespace}:events",
        shards=CLUSTER_SHARDS if redis.is_cluster else 1,
        metrics=EVENTS_QUEUE,
    )
    stack.push_async_callback(queue.aclose)
    return queue


def _has_somewhere_else(settings: Settings) -> bool:
    return settings.ingest_fallback is IngestFallback.DATABASE and settings.redis_durability is not RedisDurability.NONE


def open_inspector(settings: Settings, cipher: TokenCipher) -> GraphInspector:
    return GraphInspector(
        base_url=settings.whatsapp_base_url,
        api_version=settings.whatsapp_api_version,
        cipher=cipher,
        app_secrets=read_app_secrets(_values(settings.meta_app_secret)),
    )


async def open_store(
    settings: Settings, *, policy: ResiliencePolicy | None = None, on_changes: OnChanges = ignore_changes
) -> Store:
    """Postgres by DATABASE_URL, or Supabase over REST. `policy`: other than a replica's. `on_changes` hears what each
    call has changed."""
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        most = capacity_of(settings).database_connections
        return PostgresStore(
            url, pooling=settings.database_pooling, max_connections=most, policy=policy, on_changes=on_changes
        )
    from app.adapters.supabase_store import SupabaseStore  # noqa: PLC0415  slow to import, seldom used

    url, key = settings.supabase_url or "", revealed(settings.supabase_key)
    most = capacity_of(settings).rest_calls
    client = await get_http_client()
    return SupabaseStore(url, key, client, max_concurrent=most, policy=policy, on_changes=on_changes)


async def open_files(settings: Settings, store: Store) -> MediaStore:
    """Where the bytes of files are, by MEDIA_STORE."""
    if settings.media_store is MediaStoreKind.POSTGRES:
        return PostgresMediaStore(store)
    from app.adapters.supabase_media import SupabaseMediaStore  # noqa: PLC0415  as in `open_store`

    url, key = settings.supabase_url or "", revealed(settings.supabase_key)
    return SupabaseMediaStore(url, key, await get_http_client_for_media())


def _verifier(settings: Settings) -> SupabaseTokenVerifier | None:
    if not settings.supabase_url:
        return None
    return SupabaseTokenVerifier(settings.supabase_url, jwt_secret=revealed(settings.supabase_jwt_secret) or None)


def _admin_key(settings: Settings) -> str:
    """Production has one (`check_serve`); development gets one made up and printed."""
    if settings.admin_api_key:
        return settings.admin_api_key.get_secret_value()
    assert settings.app_env is not Env.PRODUCTION  # noqa: S101  refused by check_serve
    key = secrets.token_urlsafe(24)
    logger.warning("ADMIN_API_KEY is not set; for this run the operator's key is %s", key)
    return key


async def _meet(registry: Registry) -> None:
    """Before the first call: a newcomer alone in trouble must know that it is not alone."""
    with suppress(Unavailable):
        await registry.replicas()


async def _leave(registry: Registry) -> None:
    with suppress(Unavailable):  # the others notice the silence
        await registry.leave()


def _values(items: tuple[SecretStr, ...]) -> tuple[str, ...]:
    return tuple(item.get_secret_value() for item in items)
