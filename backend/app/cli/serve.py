"""`chorus serve`: one replica."""

from __future__ import annotations

import asyncio
import logging

import click

from app.cli.settings import read_settings

logger = logging.getLogger(__name__)


@click.command()
@click.option("--host", help="Address to listen on (HOST).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (PORT).")
def serve(host: str | None, port: int | None) -> None:
    """Run one replica until SIGTERM or Ctrl-C."""
    settings = read_settings(host=host, port=port)
    settings.check_serve()

    # What serves takes a second to load: too long to wait for the name of a setting that is missing.
    from app.core.logging import configure_logging, tell_by_place
    from app.doctor import refuse_foreign_namespace, refuse_unsafe_redis
    from app.server import refuse_foreign_host
    from app.server import serve as run
    from app.settings import Env, LogFormat, file_problems, misspelt_settings

    refuse_foreign_host(settings.host)
    if settings.app_env is Env.PRODUCTION:
        asyncio.run(refuse_unsafe_redis(settings))
    asyncio.run(refuse_foreign_namespace(settings))
    configure_logging(settings.log_level, pretty=settings.log_format is LogFormat.PRETTY)
    tell_by_place(in_the_log=True)
    for place, problem in file_problems().items():
        logger.warning("%s %s", place, problem)
    for name, meant in misspelt_settings().items():
        logger.warning("%s is no setting; did you mean %s?", name, meant)
    run(settings)
