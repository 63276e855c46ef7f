"""`chorus breakers`: the fleet's circuits, and the operator's word on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import click

from app.cli.acting import as_operator, operator_here
from app.cli.output import json_option, print_json
from app.cli.settings import settings_with_redis

if TYPE_CHECKING:
    from app.services.audit_service import AuditService
    from app.services.breaker_service import BreakerService
    from app.settings import Settings

T = TypeVar("T")


@click.group()
def breakers() -> None:
    """The fleet's circuit breakers: gemini, whatsapp, supabase, and one for each account or model in trouble."""


@breakers.command("list")
@json_option
def breakers_list(*, as_json: bool) -> None:
    """What every replica goes by, now."""
    from app.services.breaker_service import words_of

    rows = asyncio.run(_on_breakers(lambda service: service.overview()))
    if as_json:
        print_json(rows)
        return
    click.echo(f"{'breaker':<32} {'state':<14} {'failures':>8} {'retry in':>9} {'epoch':>6}  why")
    for name, row in rows.items():
        state = f"{row['state']}, forced" if row["forced"] else row["state"]
        wait = f"{row['retry_after']:.0f} s" if row["retry_after"] else "-"
        epoch = row.get("epoch", "-")
        click.echo(f"{name:<32} {state:<14} {row['failure_count']:>8} {wait:>9} {epoch:>6}  {words_of(row)}".rstrip())


def _breaker_command(name: str, what: str) -> None:
    @breakers.command(name, help=what)
    @click.argument("breaker")
    @click.option("--why", default="by hand", show_default=True, help="Kept, and logged by every replica.")
    @json_option
    def command(breaker: str, why: str, *, as_json: bool) -> None:
        from app.services.breaker_service import BreakerAction

        action, who = BreakerAction(name), operator_here()
        row = asyncio.run(_on_breakers(lambda service: service.force(breaker, action, who=who, why=why)))
        if as_json:
            print_json(row)
        else:
            click.echo(f"{row['name']}: {row['state']}{', forced' if row['forced'] else ''}, epoch {row['epoch']}")


_breaker_command("open", "Refuse every call, on every replica, until `auto`.")
_breaker_command("close", "Let every call through, whatever fails, until `auto`. What waits for it is tried now.")
_breaker_command("auto", "Closed, nothing counted, deciding by itself again. What waits for it is tried now.")


async def _on_breakers(action: Callable[[BreakerService], Awaitable[T]]) -> T:
    """Raises `Unavailable` with Redis' own words: the service would answer for this process, which has no calls."""
    from app.core.circuit_breaker import CIRCUIT_BREAKERS
    from app.core.fleet.registry import Registry
    from app.wiring import breaker_service, open_breakers, open_door, open_queue

    settings = settings_with_redis()
    async with AsyncExitStack() as stack:
        redis = open_door(settings.redis_url or "", stack)
        registry = Registry(redis, namespace=settings.redis_namespace, replica_id="cli")
        fleet = open_breakers(settings, stack, registry)
        await fleet.list(breaker.name for breaker in CIRCUIT_BREAKERS.values())
        queue = open_queue(settings, stack, redis)
        service = breaker_service(fleet, queue, await _audit(settings, stack))
        stack.push_async_callback(service.aclose)
        with as_operator():
            return await action(service)


async def _audit(settings: Settings, stack: AsyncExitStack) -> AuditService | None:
    """`None` without a database: circuits are forced where only Redis is reached, too."""
    from app.adapters.database_trouble import operator_policy
    from app.core.errors import SettingsError
    from app.core.secrets import TokenCipher
    from app.services.account_service import AccountService
    from app.services.audit_service import AuditService
    from app.wiring import open_store

    try:
        settings.check_database()
    except SettingsError:
        return None
    store = await open_store(settings, policy=operator_policy())
    stack.push_async_callback(store.aclose)
    accounts = AccountService(store, TokenCipher([TokenCipher.generate_key()]))
    return AuditService(accounts, store, keep_days=settings.audit_retention_days)
