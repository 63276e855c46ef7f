"""`chorus migrate`: the database's schema."""

from __future__ import annotations

import asyncio

import click

from app.cli.settings import read_settings
from app.core.config import SettingsError


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date (DATABASE_URL). Safe to run on several machines at once."""
    from app.adapters.migrations import apply_migrations

    settings = read_settings()
    if not settings.database_url:
        raise SettingsError({"DATABASE_URL": "is missing; migrations need a direct connection to Postgres"})
    settings.check_database()
    applied = asyncio.run(apply_migrations(settings.database_url.get_secret_value()))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do: the schema is up to date")
