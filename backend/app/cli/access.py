"""`chorus account key`, `invite` and `audit`: who may act for an account, and who changed what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from app.cli.account import find_account, opened_accounts
from app.cli.output import json_option, print_json

if TYPE_CHECKING:
    from app.domain.api_keys import ApiKey
    from app.domain.audit import AuditEntry
    from app.domain.invitations import Invitation
    from app.services.key_service import KeyService

T = TypeVar("T")

ROLES = click.Choice(["owner", "agent", "viewer"])


@click.group()
def key() -> None:
    """API keys: programs act for an account with the role of their key."""


@key.command("create")
@click.argument("account")
@click.option("--name", required=True, help="What uses it; shown in lists.")
@click.option("--role", type=ROLES, required=True, help="Viewers read, agents also write, owners also change settings.")
@json_option
def create_key(account: str, name: str, role: str, *, as_json: bool) -> None:
    """Make a key and print it: it is not shown again."""
    from app.api.deps import OPERATOR
    from app.domain.models import Role

    async def act(keys: KeyService, account_id: str) -> tuple[ApiKey, str]:
        return await keys.create(OPERATOR, account_id, name=name, role=Role(role))

    made, secret = asyncio.run(_with_keys(account, act))
    if as_json:
        print_json(_shown(made) | {"key": secret})
    else:
        click.echo(secret)


@key.command("list")
@click.argument("account")
@json_option
def list_keys(account: str, *, as_json: bool) -> None:
    """The oldest first, without the keys themselves."""
    from app.api.deps import OPERATOR

    found = asyncio.run(_with_keys(account, lambda keys, account_id: keys.list_for(OPERATOR, account_id)))
    if as_json:
        print_json([_shown(each) for each in found])
        return
    for each in found:
        used = f"{each.last_used_at:%Y-%m-%d %H:%M}" if each.last_used_at else "never"
        click.echo(f"{each.id}  {each.role:<6}  …{each.hint}  used {used:<16}  {each.name}")
    if not found:
        click.echo("no API keys")


@key.command("revoke")
@click.argument("account")
@click.argument("key_id", metavar="KEY")
def revoke_key(account: str, key_id: str) -> None:
    """The key with this id opens nothing any more, at any replica. Exit code 1 if there is none."""
    from app.api.deps import OPERATOR

    asyncio.run(_with_keys(account, lambda keys, account_id: keys.revoke(OPERATOR, account_id, key_id)))
    click.echo(f"{key_id}: revoked")


@click.command()
@click.argument("account")
@click.argument("role", type=ROLES)
@json_option
def invite(account: str, role: str, *, as_json: bool) -> None:
    """Print the token of an invitation: the person who accepts it, signed in, becomes a member.

    Good once, for 7 days. The link is the console's address with #invitation=TOKEN behind it.
    """
    from app.api.deps import OPERATOR
    from app.domain.models import Role
    from app.services.invitation_service import InvitationService

    async def act() -> tuple[Invitation, str]:
        async with opened_accounts() as (accounts, store, _settings):
            found = await find_account(accounts, account)
            return await InvitationService(accounts, store).create(OPERATOR, found.id, role=Role(role))

    made, token = asyncio.run(act())
    if as_json:
        print_json(_shown(made) | {"token": token})
    else:
        click.echo(token)


@click.command()
@click.argument("account", required=False)
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="The newest so many.")
@json_option
def audit(account: str | None, limit: int, *, as_json: bool) -> None:
    """Who changed what, the newest first: of an account, or of the whole installation."""
    from app.api.deps import OPERATOR
    from app.services.audit_service import AuditService

    async def act() -> Sequence[AuditEntry]:
        async with opened_accounts() as (accounts, store, settings):
            service = AuditService(accounts, store, keep_days=settings.audit_retention_days)
            if account is None:
                return (await service.list_all(limit=limit, cursor=None)).items
            found = await find_account(accounts, account)
            return (await service.list_for(OPERATOR, found.id, limit=limit, cursor=None)).items

    entries = asyncio.run(act())
    if as_json:
        print_json([asdict(each) for each in entries])
        return
    for each in entries:
        where = f" from {each.address}" if each.address else ""
        who = f"{each.at:%Y-%m-%d %H:%M:%S}  {each.actor_kind} {each.actor_id}{where}"
        click.echo(f"{who}: {each.action} {each.subject}: {', '.join(sorted(each.changes))}")
    if not entries:
        click.echo("no changes on record")


async def _with_keys(name: str, act: Callable[[KeyService, str], Awaitable[T]]) -> T:
    """On the account of that name (`find_account`)."""
    from app.services.key_service import KeyService

    async with opened_accounts() as (accounts, store, _settings):
        return await act(KeyService(accounts, store), (await find_account(accounts, name)).id)


def _shown(found: ApiKey | Invitation) -> dict[str, object]:
    return {name: value for name, value in asdict(found).items() if name != "digest"}
