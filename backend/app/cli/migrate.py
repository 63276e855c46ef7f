"""`chorus migrate`: the database's schema."""

from __future__ import annotations

import asyncio

import click

from app.cli.settings import read_settings
from app.core.config import SettingsError


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date (DATABASE_URL). Safe to run on several machines at once."""
    from app.adapters.migrations import apply_migrations, newer_migrations

    settings = read_settings()
    if not settings.database_url:
        raise SettingsError({"DATABASE_URL": "is missing; migrations need a direct connection to Postgres"})
    settings.check_database()
    url = settings.database_url.get_secret_value()
    applied = asyncio.run(apply_migrations(url))
    for name in applied:
        click.echo(f"applied {name}")
    if newer := asyncio.run(newer_migrations(url)):
        click.echo(
            f"the schema is newer than this version of Chorus, which works with it: {', '.join(newer)}", err=True
        )
    elif not applied:
        click.echo("nothing to do: the schema is up to date")
