"""`chorus doctor`: every setting and dependency, ok or what is wrong and how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from app.adapters.gemini import GeminiModel
from app.adapters.migrations import pending_migrations, read_migrations
from app.adapters.whatsapp import WhatsAppMessenger
from app.core.config import Durability, Env, RedisDurability, Settings, SettingsError
from app.core.errors import Unavailable
from app.core.http_client import close_http_client
from app.core.redis import configured as redis_configured
from app.core.redis import connect, describe
from app.core.secrets import TokenCipher
from app.domain.errors import ConfigurationError
from app.domain.ports import Store
from app.wiring import open_store

CHECK_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `mend` says what to do; empty when all is well. A warning does not fail the check-up."""

    subject: str
    state: str
    detail: str = ""
    mend: str = ""

    @property
    def is_bad(self) -> bool:
        return self.state == "bad"


async def examine(settings: Settings) -> list[Finding]:
    """Settings first; a dependency whose setting is missing is not asked."""
    findings = _settings(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        checks: list[Callable[[], Awaitable[list[Finding]]]] = []
        if settings.redis_url:
            checks.append(lambda: _redis(settings, stack))
        if settings.database_url or (settings.supabase_url and settings.supabase_key):
            checks.append(lambda: _database(settings, stack))
        checks += [lambda: _gemini(settings), lambda: _whatsapp(settings)]
        for result in await asyncio.gather(*(_bounded(check) for check in checks)):
            findings += result
    return findings


async def _bounded(check: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
        return await check()


def _settings(settings: Settings) -> list[Finding]:
    try:
        settings.check_serve()
    except SettingsError as exc:
        return [Finding(name, "bad", "", problem) for name, problem in exc.problems.items()]
    findings = [Finding("settings", "ok", f"APP_ENV={settings.app_env} APP_ROLE={settings.app_role}")]
    if not settings.admin_api_key:
        findings.append(Finding("ADMIN_API_KEY", "warn", "not set; each start prints a new one", "set one to keep it"))
    return findings


async def refuse_unsafe_redis(settings: Settings) -> None:
    """In production a Redis that forgets or evicts is refused before the first message is accepted. One that is away is
    not: the replica starts and answers 503 until it is back. Raises `ConfigurationError`."""
    async with AsyncExitStack() as stack:
        findings = await _redis(settings, stack)
    if any(finding.subject == "redis" and finding.is_bad for finding in findings):
        return
    for finding in findings:
        if finding.is_bad:
            raise ConfigurationError("REDIS_URL", f"{finding.detail}; set {finding.mend}")


async def _redis(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    client = connect(settings.redis_url or "", timeout_seconds=2)
    stack.push_async_callback(client.aclose)
    try:
        about = await describe(client)
        fsync = await redis_configured(client, "appendfsync")
    except Unavailable as exc:
        return [Finding("redis", "bad", str(exc), "start it, or correct REDIS_URL")]
    return [Finding("redis", "ok", f"{about['version']}, {about['role']}"), *_unsafe(settings, about, fsync)]


def _unsafe(settings: Settings, about: Mapping[str, Any], fsync: str | None) -> Iterator[Finding]:
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


async def _database(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    store = await open_store(settings)
    stack.push_async_callback(store.aclose)
    try:
        await store.ping()
    except Unavailable as exc:
        return [
            Finding("database", "bad", str(exc), "start it, or correct DATABASE_URL / SUPABASE_URL and SUPABASE_KEY")
        ]
    return [Finding("database", "ok"), *await _migrations(settings, store)]


async def _migrations(settings: Settings, store: Store) -> list[Finding]:
    known = [migration.id for migration in read_migrations()]
    applied = await store.applied_migrations()
    missing = [name for name in known if name not in applied]
    if settings.database_url:  # which also finds a file that was changed after it was applied
        missing = await pending_migrations(settings.database_url.get_secret_value())
    newer = [name for name in applied if name not in known]
    findings = []
    if missing:
        findings.append(Finding("migrations", "bad", f"not applied: {', '.join(missing)}", "chorus migrate"))
    if newer:
        detail = f"the schema is newer than this version, which works with it: {', '.join(newer)}"
        findings.append(Finding("migrations", "warn", detail, "nothing, after a rollback"))
    return findings


async def _gemini(settings: Settings) -> list[Finding]:
    model = GeminiModel(
        base_url=settings.gemini_base_url,
        api_key=settings.gemini_api_key.get_secret_value() if settings.gemini_api_key else "",
        default_model=settings.gemini_model,
    )
    return [
        await _probe("gemini", settings.gemini_base_url, model.probe, "GEMINI_API_KEY, GEMINI_MODEL, GEMINI_BASE_URL")
    ]


async def _whatsapp(settings: Settings) -> list[Finding]:
    cipher = TokenCipher([TokenCipher.generate_key()])
    messenger = WhatsAppMessenger(
        base_url=settings.whatsapp_base_url, api_version=settings.whatsapp_api_version, cipher=cipher
    )
    return [await _probe("whatsapp", settings.whatsapp_base_url, messenger.probe, "WHATSAPP_BASE_URL, the firewall")]


async def _probe(
    name: str, url: str, probe: Callable[[], Awaitable[Mapping[str, Any]]], settings_to_check: str
) -> Finding:
    try:
        await probe()
    except Unavailable as exc:
        return Finding(name, "bad", f"{url}: {exc}", f"check {settings_to_check}")
    return Finding(name, "ok", url)
