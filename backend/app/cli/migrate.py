"""`chorus migrate`: the database's schema."""

from __future__ import annotations

import asyncio

import click

from app.cli.settings import read_settings


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run on several machines at once.

    With MIGRATE_DATABASE_URL, the owner's, the user of DATABASE_URL is made too, as which replicas connect: a member of
    service_role without any right of its own. Without it, DATABASE_URL names the owner.
    """
    from app.adapters.migrations import apply_migrations, newer_migrations
    from app.adapters.replica_role import ensure_replica_role
    from app.domain.errors import ConfigurationError

    settings = read_settings()
    url = settings.check_migrate()
    try:
        applied = asyncio.run(apply_migrations(url))
    except ConfigurationError as exc:
        if settings.migrate_database_url and exc.variable == "DATABASE_URL":
            raise exc.of("MIGRATE_DATABASE_URL") from exc
        raise
    for name in applied:
        click.echo(f"applied {name}")
    if settings.migrate_database_url and settings.database_url:
        name = asyncio.run(ensure_replica_role(url, settings.database_url.get_secret_value()))
        click.echo(f"replicas connect as {name}, a member of service_role")
    if newer := asyncio.run(newer_migrations(url)):
        click.echo(
            f"the schema is newer than this version of Chorus, which works with it: {', '.join(newer)}", err=True
        )
    elif not applied:
        click.echo("nothing to do: the schema is up to date")
