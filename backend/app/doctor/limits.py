"""Limits of ours that contradict each other, or what they are limits of. Warnings: a replica works with all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

from app.adapters.database_trouble import operator_policy
from app.adapters.postgres_store import PostgresStore
from app.capacity import capacity_of
from app.core.errors import Unavailable
from app.core.fleet.registry import Registry
from app.doctor.findings import Finding
from app.domain.models import Json
from app.settings import Env, ReplicaRole, Settings, Signup
from app.wiring import open_door, open_store

MOST_AT_ONCE = 200
"""Answers in the making. One process makes 35 to 45 a second on a core whatever their number (docs/operations.md): more
at once are of use only while the model takes longer than about 5 s for each."""
ANSWERS_AT_MOST = 40
"""For each connection to Postgres. It is in use for about 10 ms of an answer, which takes a second or more."""
LISTENING = 1
"""Connection of a replica that waits for changes made elsewhere."""
REDIS_SECONDS = 2.0
OTHER_CONNECTIONS = 100
"""Of a replica to Redis, at most, besides one for each conversation that is handled (wiring.py, core/cache/)."""


def check_limits(settings: Settings) -> Iterator[Finding]:
    """The settings by themselves."""
    if settings.signup is Signup.OPEN and not settings.daily_tokens_per_account:
        detail = "strangers may open accounts (SIGNUP=open), and one of them may use up the model's quota for all"
        yield Finding("DAILY_TOKENS_PER_ACCOUNT", "warn", detail, "a bound, as 2000000")
    if settings.app_env is Env.PRODUCTION and settings.signs_people_in and not settings.public_url:
        detail = "not set: links in mails lead to the Site URL of Supabase Auth, which may be another site or localhost"
        yield Finding("PUBLIC_URL", "warn", detail, "where people reach the console, as https://chorus.example.com")
    most = settings.worker_concurrency
    if settings.app_role is ReplicaRole.API:
        return
    if settings.interim_seconds >= settings.reply_deadline_seconds:
        detail = f"{settings.interim_seconds:g}: REPLY_DEADLINE_SECONDS={settings.reply_deadline_seconds:g} comes first"
        yield Finding("INTERIM_SECONDS", "warn", detail, "less, or 0 for no interim text")
    if most > MOST_AT_ONCE:
        detail = f"{most}: a process has one core, which is used up long before"
        yield Finding("WORKER_CONCURRENCY", "warn", detail, f"{MOST_AT_ONCE} or less, and more replicas")
    if settings.queue_max_pending < most:
        detail = f"{settings.queue_max_pending}: the queue is full before WORKER_CONCURRENCY={most} has work"
        yield Finding("QUEUE_MAX_PENDING", "warn", detail, "100000, unless Redis has no memory for that")
    connections = settings.database_connections
    if connections is not None and most > ANSWERS_AT_MOST * connections:
        detail = f"{connections}, and WORKER_CONCURRENCY={most}: answers wait for one of so few connections to Postgres"
        yield Finding("DATABASE_CONNECTIONS", "warn", detail, "leave it out, or lower WORKER_CONCURRENCY")


def check_connections(settings: Settings, about: Json, *, alive: int) -> Iterator[Finding]:
    """`about`: what Redis tells of itself (services/redis_health.py); `alive`: replicas that use it."""
    most = about.get("max_clients")
    wanted = max(1, alive) * (settings.worker_concurrency + OTHER_CONNECTIONS)
    if most is not None and most < wanted:
        detail = f"maxclients is {most}, and {max(1, alive)} replica(s) may open {wanted} connections"
        yield Finding("redis connections", "warn", detail, "raise maxclients, or lower WORKER_CONCURRENCY")


async def check_database_connections(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    """What the server allows beside what the living replicas may open. No finding where that is not ours to say: over
    REST, through a pooler, or while one of the two cannot be asked."""
    store = await open_store(settings, policy=operator_policy())
    stack.push_async_callback(store.aclose)
    door = open_door(settings.redis_url or "", stack, answer_seconds=REDIS_SECONDS)
    registry = Registry(door, namespace=settings.redis_namespace, replica_id="doctor")
    try:
        if not isinstance(store, PostgresStore):
            return []
        allowed, alive = await store.connection_limit(), max(1, len(await registry.replicas()))
    except Unavailable:
        return []
    wanted = alive * (capacity_of(settings).database_connections + LISTENING)
    if store.is_pooled or wanted <= allowed:
        return []
    detail = f"the server allows {allowed}, and {alive} replica(s) may open {wanted} (WORKER_CONCURRENCY)"
    mend = "raise max_connections, use a pooler, or set DATABASE_CONNECTIONS"
    return [Finding("database connections", "warn", detail, mend)]
