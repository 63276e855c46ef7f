"""The background loops of a replica. The supervisor restarts one that dies and tells /health/live."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from functools import partial

from app.core import cache
from app.core.errors import Unavailable
from app.core.fleet.lease import Lease
from app.core.fleet.registry import HEARTBEAT_SECONDS
from app.core.redis.door import Door
from app.replica import Outside, Replica
from app.services.account_health import BEAT_WITHIN_SECONDS, LEASE_SECONDS, AccountHealthRounds
from app.services.account_notices import AccountNotices
from app.services.account_service import AccountService
from app.services.cache_relay import CacheRelay
from app.services.caretaker import Caretaker
from app.services.database_watch import DatabaseWatch
from app.services.dead_letter_watch import DeadLetterWatch
from app.services.handover_notices import HandoverNotices
from app.services.journal import Journal
from app.services.media_retention import MediaRetention
from app.services.outbox_relay import OutboxRelay
from app.services.outbox_watch import OutboxWatch
from app.services.overflow import OverflowDrain
from app.services.retention import Retention
from app.services.search_index import SearchIndex
from app.services.unanswered import UnansweredSearch
from app.settings import Settings, revealed

logger = logging.getLogger(__name__)

AUDIT_SECONDS = 60.0
STUCK_SECONDS = 15.0
"""The worker beats about once a second."""
RELAY_LEASE_SECONDS = 6.0
"""Three rounds of the relay, which renews it in every one."""
CARETAKER_LEASE_SECONDS = 15.0
"""More than a page of its longest duty may take."""


def start_loops(replica: Replica, outside: Outside) -> None:
    """Every background loop of a replica; the supervisor restarts one that dies and tells /health/live."""
    outside.breakers.on_recovery = replica.services.breakers.recovered
    start = replica.supervisor.start
    beating = {
        "event_loop": replica.loop_watch.run,
        "schema": replica.schema.run,
        "namespace": replica.namespace.run,
        "feed": outside.feed.run,
        "last_hour": replica.services.last_hour.run,
        **replica.services.health.loops(),
    }
    for name, loop in beating.items():
        start(name, partial(loop, partial(replica.supervisor.beat, name)))
    start("heartbeat", partial(_heartbeat, replica, outside, time.time()))
    start("silence_watch", replica.services.silence.run)
    if replica.inbox is not None:
        start("inbox_mover", replica.when_fit(replica.inbox.run))
    start("circuit_breakers", outside.breakers.run)
    start("cache_relay", replica.when_fit(_cache_relay(replica, outside).run))
    once_fit = {
        "account_watch": replica.account_watch.run,
        "outbox_watch": OutboxWatch(outside.store).run,
        "api_key_uses": replica.services.keys.run,
    }
    for name, loop in once_fit.items():
        start(name, replica.when_fit(partial(loop, partial(replica.supervisor.beat, name))))
    rounds = partial(_health_rounds(replica, outside).run, partial(replica.supervisor.beat, "account_health"))
    start("account_health", replica.when_fit(rounds), beat_within_seconds=BEAT_WITHIN_SECONDS)
    if replica.settings.whatsapp_phone_id:
        bootstrap = partial(_bootstrap, replica.settings, replica.services.accounts)
        start("bootstrap_account", replica.when_fit(bootstrap))
    if replica.worker is not None:
        start("worker", replica.worker.loop.run, beat_within_seconds=STUCK_SECONDS)
        start("lease_renewal", replica.worker.loop.renew)
        start("caretaker", _caretaker(replica, outside).run)
        start("audit", partial(_audit, replica, outside), beat_within_seconds=3 * AUDIT_SECONDS)
    if replica.event_worker is not None:
        start("event_worker", replica.event_worker.loop.run, beat_within_seconds=STUCK_SECONDS)
        start("event_lease_renewal", replica.event_worker.loop.renew)
        start("outbox_relay", replica.when_fit(_outbox_relay(replica, outside).run))


async def _heartbeat(replica: Replica, outside: Outside, started_at: float) -> None:
    """`started_at`: Unix seconds; of the process, also when this loop begins anew."""
    while True:
        replica.supervisor.beat("heartbeat")
        info = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": started_at,
            "role": replica.settings.app_role,
            "active": replica.worker.loop.active if replica.worker else 0,
            "concurrency": replica.settings.worker_concurrency,
            "lag_ms": round(replica.loop_watch.lag_seconds * 1000, 1),
            **replica.services.health.load(),
        }
        try:
            await outside.registry.beat(info)
        except Unavailable as exc:
            logger.warning("heartbeat failed", extra={"reason": str(exc)})
        cache.cleanup()  # what has expired need not wait until its room is wanted
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def _audit(replica: Replica, outside: Outside) -> None:
    while True:
        replica.supervisor.beat("audit")
        await asyncio.sleep(AUDIT_SECONDS)
        try:
            await outside.queue.audit()
            await outside.events.audit()
        except Unavailable as exc:
            logger.warning("audit failed", extra={"reason": str(exc)})


def _caretaker(replica: Replica, outside: Outside) -> Caretaker:
    """A dead letter calls a person before the search finds its message unanswered and would, for a lesser reason.
    With a journal the search has nothing to find: what is not handled goes into a new queue by itself."""
    namespace, queue, store = replica.settings.redis_namespace, outside.queue, outside.store
    conversations, notices = replica.services.conversations, AccountNotices(replica.services.accounts)
    journal = replica.inbox if isinstance(replica.inbox, Journal) else None
    dead_letters = DeadLetterWatch(queue, conversations, journal, events=outside.events)
    duties = {
        "database": DatabaseWatch(store, cache.invalidate_everywhere, outside.redis, namespace=namespace).look,
        "overflow": OverflowDrain(queue, store, conversations, notices).drain,
        "dead_letters": dead_letters.tell,
        "old_dead_letters": dead_letters.forget,
        "old_files": MediaRetention(store, outside.files, days=replica.settings.media_retention_days).tidy,
        "old_audit": replica.services.audit.forget,
        "search": SearchIndex(store).update,
        "retention": Retention(store, days=replica.settings.message_retention_days).forget,
        "handover_notices": HandoverNotices(store, replica.services.accounts, outside.messenger, outside.pacer).send,
    }
    if journal is None:
        duties["unanswered"] = UnansweredSearch(queue, store).look
    lease = _lease(replica, outside.redis, "caretaker", CARETAKER_LEASE_SECONDS)
    return Caretaker(duties, lease, without_lease=["overflow"])


def _lease(replica: Replica, door: Door, name: str, seconds: float) -> Lease:
    """For work that one replica at a time does."""
    key = f"{replica.settings.redis_namespace}:{{fleet}}:{name}"
    return Lease(door, key=key, holder=replica.services.registry.replica_id, seconds=seconds)


def _outbox_relay(replica: Replica, outside: Outside) -> OutboxRelay:
    """Moves events for other systems into their queue; one replica at a time."""
    lease = _lease(replica, outside.control, "outbox_relay", RELAY_LEASE_SECONDS)
    return OutboxRelay(outside.store, outside.events, lease)


def _cache_relay(replica: Replica, outside: Outside) -> CacheRelay:
    """Drops from the caches what committed changes have made old; one replica at a time."""
    lease = _lease(replica, outside.control, "cache_relay", RELAY_LEASE_SECONDS)
    account_changed = replica.services.breakers.account_changed
    return CacheRelay(outside.store, cache.invalidate_everywhere, lease, account_changed=account_changed)


def _health_rounds(replica: Replica, outside: Outside) -> AccountHealthRounds:
    """On the lease's own door, as the relay: a round lasts as long as Meta's answers."""
    lease = _lease(replica, outside.control, "account_health", LEASE_SECONDS)
    return AccountHealthRounds(outside.store, replica.services.checks, lease)


async def _bootstrap(settings: Settings, accounts: AccountService) -> None:
    """WHATSAPP_TOKEN and WHATSAPP_PHONE_ID give a first account without any API call."""
    await accounts.bootstrap(
        phone_number_id=settings.whatsapp_phone_id or "",
        access_token=revealed(settings.whatsapp_token),
        verify_token=revealed(settings.whatsapp_verify_token) or secrets.token_urlsafe(24),
    )
