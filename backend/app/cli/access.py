"""`chorus account key`: programs that act for an account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from app.cli.account import find_account, opened_accounts
from app.cli.output import json_option, print_json

if TYPE_CHECKING:
    from app.domain.api_keys import ApiKey
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


async def _with_keys(name: str, act: Callable[[KeyService, str], Awaitable[T]]) -> T:
    """On the account of that name (`find_account`)."""
    from app.services.key_service import KeyService

    async with opened_accounts() as (accounts, store, _settings):
        return await act(KeyService(accounts, store), (await find_account(accounts, name)).id)


def _shown(found: ApiKey) -> dict[str, object]:
    return {name: value for name, value in asdict(found).items() if name != "digest"}
