"""The command group: expected problems of every command end in one line and an exit code, never in a traceback."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import click

from app import __version__
from app.cli.access import audit, invite, key
from app.cli.account import account
from app.cli.breakers import breakers
from app.cli.cache import cache
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.exit_codes import AWAY, FAILED, USAGE
from app.cli.fleet import fleet
from app.cli.migrate import migrate
from app.cli.openapi import openapi
from app.cli.queue import queue
from app.cli.sandbox import sandbox
from app.cli.serve import serve
from app.cli.settings import REDIS_IN_USE
from app.core.errors import SettingsError
from app.core.logging import tell_by_place

if TYPE_CHECKING:
    from app.core.errors import Unavailable


GC_ALLOCATIONS = 20_000
"""What a command imports stays: looking for garbage in it after every 700 allocations is a tenth of a start."""


class Cli(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Python hands on bytes that are not UTF-8 as lone surrogates, which Redis, Postgres and HTTP cannot take. The
        argument is not repeated: the terminal could not show it."""
        for position, argument in enumerate(args, start=1):
            try:
                argument.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"argument {position} is not UTF-8 text", ctx) from None
        return super().parse_args(ctx, args)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The process's own entry. Tests call `main`, and keep their hooks."""
        gc.set_threshold(GC_ALLOCATIONS)
        tell_by_place()
        return super().__call__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        from app.core.errors import Unavailable
        from app.core.secrets import SecretError
        from app.domain.errors import ChorusError, ConfigurationError, InvalidInput

        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            for name, problem in exc.problems.items():
                click.echo(f"chorus: {name} {problem}", err=True)
            _name_misspelt()
            ctx.exit(USAGE)
        except Unavailable as exc:
            click.echo(f"chorus: {_words(exc, ctx)}", err=True)
            ctx.exit(AWAY)
        except (ChorusError, SecretError) as exc:
            click.echo(f"chorus: {exc}", err=True)
            ctx.exit(USAGE if isinstance(exc, ConfigurationError | InvalidInput) else FAILED)


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 not found, refused, or a check failed · 2 usage or settings · 3 a dependency is away"
    " (docs/operations.md).",
)
@click.version_option(__version__, prog_name="chorus")
def main() -> None:
    """A WhatsApp AI-bot backend whose replicas act as one. Settings come from the environment or .env."""
    # What a command has to say, it says itself; `serve` sets up logs of its own.
    logging.getLogger().addHandler(logging.NullHandler())


for _command in (serve, migrate, doctor, openapi, fleet, breakers, cache, queue, account, demo, sandbox):
    main.add_command(_command)
for _command in (key, invite, audit):
    account.add_command(_command)


def _words(exc: Unavailable, ctx: click.Context) -> str:
    """The cause and what to do, in one line."""
    from app.doctor.causes import of_database, of_http, of_redis
    from app.settings import load_settings_leniently

    settings, _ = load_settings_leniently()
    dependency = exc.dependency
    if dependency in {"redis", "queue"}:
        name, url = ctx.meta.get(REDIS_IN_USE, ("REDIS_URL", settings.redis_url or ""))
        cause = of_redis(exc, url, name)
    elif dependency in {"database", "supabase"}:
        cause = of_database(exc, settings, as_owner=ctx.invoked_subcommand == "migrate")
    else:
        cause = of_http(exc, "WHATSAPP_BASE_URL")
    return " ".join(f"{dependency}: {cause.said}; {cause.mend}".split())


def _name_misspelt() -> None:
    from app.settings import file_problems, misspelt_settings

    for place, problem in file_problems().items():
        click.echo(f"chorus: {place} {problem}", err=True)
    for name, meant in misspelt_settings().items():
        click.echo(f"chorus: {name} is no setting; did you mean {meant}?", err=True)
