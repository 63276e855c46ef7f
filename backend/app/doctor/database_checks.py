"""The database: reachable, its schema ours, its rows guarded, its tokens readable."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from app.adapters.database_trouble import TAKES_NO_WRITES, operator_policy
from app.adapters.migrations import pending_migrations, read_migrations
from app.adapters.postgres_store import PostgresStore
from app.adapters.row_security import expected_policies, holes
from app.core.errors import Unavailable
from app.core.secrets import SecretError, TokenCipher
from app.doctor.causes import database_place, of_database
from app.doctor.findings import Finding
from app.domain.errors import ConfigurationError
from app.domain.ports import Store
from app.services.endpoint_service import stale_secrets
from app.settings import Settings
from app.wiring import open_store

SLOW_SECONDS = 0.2
SHOWN = 5
MAX_FAILING = 100


async def check_database(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    """The parts are asked one by one; one that cannot be asked is a finding and hides none of the others."""
    store = await open_store(settings, policy=operator_policy())
    stack.push_async_callback(store.aclose)
    try:
        await store.ping()
        started = time.perf_counter()
        takes_writes = await store.ping()
        seconds = time.perf_counter() - started
    except Unavailable as exc:
        cause = of_database(exc, settings)
        return [Finding("database", "bad", cause.said, cause.mend)]
    state = "warn" if seconds > SLOW_SECONDS else "ok"
    mend = "bring it closer: every answer needs several round trips" if state == "warn" else ""
    findings = [Finding("database", state, f"{database_place(settings)}, {seconds * 1000:.1f} ms", mend)]
    if not takes_writes:
        findings = [Finding("database", "bad", TAKES_NO_WRITES.said, TAKES_NO_WRITES.mend)]
    if isinstance(store, PostgresStore):
        findings.append(_pooling(settings, store))
    parts: dict[str, Callable[[Settings, Store], Awaitable[Finding]]] = {
        "schema": _schema,
        "row-level security": _row_security,
        "database user": _user,
        "ENCRYPTION_KEY": _tokens,
        "webhooks": _webhooks,
    }
    for subject, part in parts.items():
        try:
            findings.append(await part(settings, store))
        except Unavailable as exc:
            cause = of_database(exc, settings)
            findings.append(Finding(subject, "bad", cause.said, cause.mend))
        except ConfigurationError as exc:
            findings.append(Finding(subject, "bad", "", str(exc)))
    return findings


def _pooling(settings: Settings, store: PostgresStore) -> Finding:
    said = f"DATABASE_POOLING={settings.database_pooling}"
    if store.is_pooled:
        detail = "through a pooler in transaction mode: no prepared statements, edits by SQL are seen within seconds"
        return Finding("database pooling", "ok", f"{detail} ({said})")
    return Finding("database pooling", "ok", f"each connection is a session of its own ({said})")


async def _schema(settings: Settings, store: Store) -> Finding:
    known = [migration.id for migration in read_migrations()]
    applied = await store.applied_migrations()
    missing = [name for name in known if name not in applied]
    owner = settings.migrate_database_url or settings.database_url
    if owner:  # which also finds a file that was changed after it was applied
        try:
            missing = await pending_migrations(owner.get_secret_value())
        except ConfigurationError as exc:
            if exc.variable != "DATABASE_URL":
                raise
            if settings.migrate_database_url:
                raise exc.of("MIGRATE_DATABASE_URL") from exc
            # A replica's user may not read that; the list above is what the schema says of itself.
        except Unavailable as exc:
            cause = of_database(exc, settings, as_owner=True)
            return Finding("schema", "bad", cause.said, cause.mend)
    if missing:
        return Finding("schema", "bad", f"not applied: {', '.join(missing)}", "chorus migrate")
    if newer := [name for name in applied if name not in known]:
        detail = f"it is newer than this program, which works with it: {', '.join(newer)}"
        return Finding("schema", "warn", detail, "nothing, after a rollback")
    return Finding("schema", "ok", applied[-1])


async def _row_security(_settings: Settings, store: Store) -> Finding:
    found = holes(expected_policies(), await store.row_security())
    if not found:
        return Finding("row-level security", "ok", f"{len(expected_policies())} tables")
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    mend = "restore the schema with its policies and roles: docs/operations.md, Backup"
    return Finding("row-level security", "bad", "; ".join(found[:SHOWN]) + more, mend)


async def _user(settings: Settings, store: Store) -> Finding:
    """Over REST the key decides, and PostgREST's roles are Supabase's."""
    rights = await store.caller_rights()
    if not settings.database_url or not rights.excess:
        return Finding("database user", "ok", f"{rights.name}, with no more rights than a replica needs")
    mend = "name the owner in MIGRATE_DATABASE_URL, another user in DATABASE_URL, and run: chorus migrate"
    return Finding("database user", "warn", f"{rights.name} {', '.join(rights.excess)}", mend)


async def _webhooks(_settings: Settings, store: Store) -> Finding:
    failing = await store.failing_endpoints(limit=MAX_FAILING)
    if not failing:
        return Finding("webhooks", "ok", "none fails")
    shown = [
        f"{each.id} of account {each.account_id}"
        f" ({'failing' if each.enabled else f'switched off, {each.disabled_reason}'}"
        f"{f' since {each.failing_since:%Y-%m-%d %H:%M} UTC' if each.failing_since else ''},"
        f" {each.waiting} events wait)"
        for each in failing[:SHOWN]
    ]
    more = f" and {len(failing) - SHOWN} more" if len(failing) > SHOWN else ""
    mend = "the receivers' owners; what they answer is in GET /accounts/{id}/webhooks/{id}/deliveries (docs/events.md)"
    return Finding("webhooks", "warn", "; ".join(shown) + more, mend)


async def _tokens(settings: Settings, store: Store) -> Finding:
    try:
        cipher = TokenCipher(key.get_secret_value() for key in settings.encryption_key)
    except SecretError as exc:
        return Finding("ENCRYPTION_KEY", "bad", str(exc), "make one with: chorus doctor --new-key")
    accounts = await store.list_accounts(user_id=None)
    closed, old = [], 0
    for account in accounts:
        try:
            cipher.decrypt(account.access_token)
        except SecretError:
            closed.append(account.slug)
        else:
            old += not cipher.is_current(account.access_token)
    if closed:
        shown = ", ".join(closed[:SHOWN]) + (" …" if len(closed) > SHOWN else "")
        detail = f"opens {len(accounts) - len(closed)} of {len(accounts)} stored tokens, not those of: {shown}"
        mend = "append the key that encrypted them behind a comma, or give new tokens: chorus account rotate-token"
        return Finding("ENCRYPTION_KEY", "bad", detail, mend)
    secrets = [opened async for _, _, opened in stale_secrets(store, cipher)]
    if lost := secrets.count(None):
        mend = "append the key that encrypted them behind a comma, or PATCH the webhooks with rotate_secret"
        return Finding("ENCRYPTION_KEY", "bad", f"does not open {lost} secrets of webhooks", mend)
    if old or secrets:
        detail = f"opens all {len(accounts)} stored tokens, {old} of them with an older key"
        if secrets:
            detail += f", and {len(secrets)} secrets of webhooks with one"
        return Finding("ENCRYPTION_KEY", "warn", detail, "chorus account rotate-keys, before you remove that key")
    return Finding("ENCRYPTION_KEY", "ok", f"opens all {len(accounts)} stored tokens")
