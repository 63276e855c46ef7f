"""The check-up: settings first, then every dependency whose setting is there, side by side; and what Redis must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

from app.core.errors import Unavailable
from app.core.fleet.registry import Registry
from app.core.http_client import close_http_client, leave_by
from app.core.redis.door import Door
from app.doctor.account_checks import check_accounts
from app.doctor.answers_check import check_answers
from app.doctor.causes import of_redis
from app.doctor.database_checks import check_database
from app.doctor.findings import Check, Finding, bounded
from app.doctor.limits import check_connections, check_database_connections, check_limits
from app.doctor.namespace_check import SUBJECT, check_namespace
from app.doctor.upstream_checks import check_gemini, check_whatsapp
from app.domain.errors import ConfigurationError
from app.domain.models import Json
from app.services.redis_health import describe
from app.settings import Durability, Env, RedisDurability, Settings, file_problems, misspelt_settings
from app.wiring import open_door

REDIS_TIMEOUT_SECONDS = 5.0
SLOW_REDIS_SECONDS = 0.05
PINGS = 3
"""A webhook promises its answer within a second and makes one round trip, an answer makes about ten."""


async def examine(settings: Settings, broken: Mapping[str, str]) -> list[Finding]:
    """The whole report, whatever fails. `broken`: settings whose value is none, with what is wrong with it; `settings`
    has their defaults. A dependency whose setting is missing or broken is not asked."""
    problems = {**settings.problems(), **broken}
    findings = _settings(settings, problems)
    async with AsyncExitStack() as stack:
        if settings.http_trust_env and not settings.egress.problems():
            leave_by(settings.egress)
        stack.push_async_callback(close_http_client)
        checks: dict[str, Check] = {}
        if settings.redis_url and "REDIS_URL" not in problems:
            checks["redis"] = lambda: _redis(settings, stack)
            checks["answers"] = lambda: check_answers(settings, stack)
        if settings.redis_cache_url and "REDIS_CACHE_URL" not in problems:
            checks["redis cache"] = lambda: _redis_cache(settings.redis_cache_url or "", stack)
        over_rest = settings.supabase_url and settings.supabase_key
        if over_rest or (settings.database_url and "DATABASE_URL" not in problems):
            checks["database"] = lambda: check_database(settings, stack)
            checks["accounts"] = lambda: check_accounts(settings, stack)
        if checks.keys() >= {"redis", "database"}:
            checks[SUBJECT] = lambda: check_namespace(settings, stack)
            checks["database connections"] = lambda: check_database_connections(settings, stack)
        checks |= {"gemini": lambda: check_gemini(settings), "whatsapp": lambda: check_whatsapp(settings)}
        for result in await asyncio.gather(*(_told(subject, check) for subject, check in checks.items())):
            findings += [finding for finding in result if finding not in findings]
    return findings


async def _told(subject: str, check: Check) -> list[Finding]:
    """A setting that only its dependency finds wrong is told as the others are, once for all checks that use it."""
    try:
        return await bounded(subject, check)
    except ConfigurationError as exc:
        return [Finding(exc.variable, "bad", "", exc.problem)]


def _settings(settings: Settings, problems: Mapping[str, str]) -> list[Finding]:
    findings = [Finding(name, "bad", "", problem) for name, problem in problems.items()]
    if not problems:
        findings.append(Finding("settings", "ok", f"APP_ENV={settings.app_env} APP_ROLE={settings.app_role}"))
    if not settings.admin_api_key and "ADMIN_API_KEY" not in problems:
        findings.append(Finding("ADMIN_API_KEY", "warn", "not set; each start prints a new one", "set one to keep it"))
    findings += [Finding(place, "warn", problem) for place, problem in file_problems().items()]
    findings += [
        Finding(name, "warn", "is no setting, so it changes nothing", f"did you mean {meant}?")
        for name, meant in misspelt_settings().items()
    ]
    return [*findings, *check_limits(settings)]


async def refuse_unsafe_redis(settings: Settings) -> None:
    """In production a Redis that forgets or evicts is refused before the first message is accepted. One that is away is
    not: the replica starts and answers 503 until it is back. Raises `ConfigurationError`."""
    async with AsyncExitStack() as stack:
        findings = await bounded("redis", lambda: _redis(settings, stack))
    if any(finding.subject == "redis" and finding.is_bad for finding in findings):
        return
    for finding in findings:
        if finding.is_bad and finding.subject != "redis rights":
            raise ConfigurationError("REDIS_URL", f"{finding.detail}; set {finding.mend}")


async def _redis(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    url = settings.redis_url or ""
    door = open_door(url, stack, answer_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        about = await describe(door)
        fsync = await _fsync(door)
        findings = [await _round_trip("redis", door, about)]
    except Unavailable as exc:
        cause = of_redis(exc, url)
        return [Finding("redis", "bad", cause.said, cause.mend)]
    try:  # a script on our own keys: what an access list forbids is noticed here and not by the first customer
        alive = await Registry(door, namespace=settings.redis_namespace, replica_id="doctor").replicas()
    except Unavailable as exc:
        cause = of_redis(exc, url)
        findings.append(Finding("redis rights", "bad", cause.said, cause.mend))
    else:
        findings.append(Finding("replicas", "ok", f"{len(alive)} alive (chorus fleet)"))
        findings += check_connections(settings, about, alive=len(alive))
    return [*findings, *_unsafe(settings, about, fsync)]


async def _fsync(door: Door) -> str | None:
    """`None` where CONFIG is not allowed (managed providers)."""
    try:
        values = await door.ask("CONFIG GET", "appendfsync", urgent=True)
    except Unavailable:
        return None
    found = values.get("appendfsync")
    return None if found is None else str(found)


async def _redis_cache(url: str, stack: AsyncExitStack) -> list[Finding]:
    """It may forget and evict as it likes."""
    door = open_door(url, stack, answer_seconds=REDIS_TIMEOUT_SECONDS)
    try:
        return [await _round_trip("redis cache", door, await describe(door))]
    except Unavailable as exc:
        cause = of_redis(exc, url, "REDIS_CACHE_URL")
        return [Finding("redis cache", "bad", cause.said, cause.mend)]


async def _round_trip(subject: str, door: Door, about: Mapping[str, object]) -> Finding:
    for _ in range(PINGS):
        await door.ask("PING", urgent=True)
    seconds = door.round_trip_seconds
    detail = f"{about['version']}, {about['role']}, round trip {seconds * 1000:.1f} ms"
    if seconds > SLOW_REDIS_SECONDS:
        return Finding(subject, "warn", detail, "bring it closer: webhooks and answers wait for it")
    return Finding(subject, "ok", detail)


def _unsafe(settings: Settings, about: Json, fsync: str | None) -> Iterator[Finding]:
    severity = "bad" if settings.app_env is Env.PRODUCTION else "warn"
    rests_on_aof = settings.redis_durability is RedisDurability.AOF
    if not rests_on_aof:
        yield Finding("redis durability", "ok", _DURABILITY[settings.redis_durability])
    elif about["persistence"] != "aof":
        detail = "appendonly is off: a restart loses accepted messages"
        yield Finding("redis persistence", severity, detail, "appendonly yes, or REDIS_DURABILITY (docs/operations.md)")
    elif about["aof_last_write"] != "ok":
        detail = "the last write of the append-only file failed: a restart loses accepted messages"
        yield Finding("redis disk", severity, detail, "room on its disk; do not restart it before that")
    if about["eviction"] != "noeviction":
        yield _evicts(about["eviction"], severity, spared=severity if rests_on_aof else "warn")
    if not about["memory"]["max_bytes"]:
        detail = "maxmemory is not set: a full server is ended by the kernel instead of refusing"
        yield Finding("redis memory", "warn", detail, "maxmemory, below what the machine has")
    elif 2 * settings.queue_max_bytes > about["memory"]["max_bytes"]:
        detail = "QUEUE_MAX_BYTES is more than half of maxmemory: the server is full before the queue is"
        yield Finding("redis memory", "warn", detail, "a lower QUEUE_MAX_BYTES, or a higher maxmemory")
    if settings.durability is Durability.FSYNC and fsync != "always" and rests_on_aof:
        yield Finding("redis fsync", "bad", f"DURABILITY=fsync, but appendfsync is {fsync}", "appendfsync always")


_DURABILITY = {
    RedisDurability.MANAGED: "REDIS_DURABILITY=managed: the provider's word; Postgres takes over while it is away",
    RedisDurability.NONE: "REDIS_DURABILITY=none: Postgres keeps every event until it is handled",
}


def _evicts(policy: str | None, severity: str, *, spared: str) -> Finding:
    """`spared`: how bad it is that keys with a time limit go. The queue's have none, what it has seen does."""
    mend = "maxmemory-policy noeviction; the cache can have a server of its own with REDIS_CACHE_URL"
    if policy is None:
        return Finding("redis eviction", spared, "the server does not tell its maxmemory-policy", mend)
    if policy.startswith("volatile"):
        detail = f"maxmemory-policy is {policy}: a full server forgets which messages it has seen"
        return Finding("redis eviction", spared, detail, mend)
    return Finding("redis eviction", severity, f"maxmemory-policy is {policy}: a full server drops messages", mend)
