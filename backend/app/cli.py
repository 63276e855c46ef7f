"""`chorus`: serve · demo · sandbox · migrate · doctor · fleet · queue · breakers · cache · account."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app import __version__
from app.cli_fleet import COMMANDS
from app.core.config import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from app.services.breaker_service import BreakerService

T = TypeVar("T")

USAGE_ERROR = 2


class Cli(click.Group):
    """Expected problems end in one clear message and exit code 2, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from app.core.errors import Unavailable
        from app.core.secrets import SecretError
        from app.domain.errors import ChorusError, ConfigurationError, InvalidInput

        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            for name, problem in exc.problems.items():
                click.echo(f"chorus: {name} {problem}", err=True)
            ctx.exit(USAGE_ERROR)
        except (ChorusError, SecretError, Unavailable) as exc:
            click.echo(f"chorus: {exc}", err=True)
            ctx.exit(USAGE_ERROR if isinstance(exc, ConfigurationError | InvalidInput) else 1)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chorus")
def main() -> None:
    """A WhatsApp AI-bot backend whose replicas act as one. Settings come from the environment or .env."""


@main.command()
@click.option("--host", help="Address to listen on (HOST).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (PORT).")
def serve(host: str | None, port: int | None) -> None:
    """Run one replica until SIGTERM or Ctrl-C."""
    from app.core.config import Env
    from app.core.logging import configure_logging
    from app.doctor import refuse_unsafe_redis
    from app.server import serve as run

    settings = _settings(host=host, port=port)
    settings.check_serve()
    if settings.app_env is Env.PRODUCTION:
        asyncio.run(refuse_unsafe_redis(settings))
    configure_logging(settings.log_level, settings.log_format)
    run(settings)


@contextmanager
def _left_out_of_the_image() -> Iterator[None]:
    """The production image has no `app/sandbox`: say so instead of showing where an import failed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if not (exc.name or "").startswith("app.sandbox"):
            raise
        raise click.ClickException("the sandbox is not part of this installation; run it from the repository") from None


@main.command()
@click.option("--once", is_flag=True, help="End after the conversation; exit code 0 only if every reply was right.")
def demo(*, once: bool) -> None:
    """Servers, sandbox, three replicas and simulated customers, all on this machine."""
    with _left_out_of_the_image():
        from app.sandbox.demo import run_demo

    sys.exit(run_demo(once=once))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--app-secret", default="sandbox-app-secret", show_default=True, help="Signs the webhooks it sends.")
@click.option("--callback", multiple=True, help="Webhook URL of a replica; may be repeated.")
def sandbox(host: str, port: int, app_secret: str, callback: tuple[str, ...]) -> None:
    """Stand-ins for the WhatsApp Cloud API and Gemini, with fault injection."""
    with _left_out_of_the_image():
        from app.sandbox.app import serve_sandbox

    serve_sandbox(host=host, port=port, app_secret=app_secret, callbacks=callback)


@main.command()
def migrate() -> None:
    """Bring the database's schema up to date (DATABASE_URL). Safe to run on several machines at once."""
    from app.adapters.migrations import apply_migrations, newer_migrations

    settings = _settings()
    if not settings.database_url:
        raise SettingsError({"DATABASE_URL": "is missing; migrations need a direct connection to Postgres"})
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


@main.command()
@click.option("--new-key", is_flag=True, help="Print a new ENCRYPTION_KEY and do nothing else.")
def doctor(*, new_key: bool) -> None:
    """Check each setting and dependency: ok, or what is wrong and how to mend it."""
    from app.core.secrets import TokenCipher
    from app.doctor import examine

    if new_key:
        click.echo(TokenCipher.generate_key())
        return
    findings = asyncio.run(examine(_settings()))
    for finding in findings:
        mark = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}[finding.state]
        click.echo(f"{mark}  {finding.subject}" + (f": {finding.detail}" if finding.detail else ""))
        if finding.mend:
            click.echo(f"        -> {finding.mend}")
    sys.exit(1 if any(finding.is_bad for finding in findings) else 0)


@main.group()
def breakers() -> None:
    """The fleet's circuit breakers: gemini, whatsapp, supabase, and one for each account or model in trouble."""


@breakers.command("list")
def breakers_list() -> None:
    """What every replica goes by, now."""
    from app.services.breaker_service import words_of

    rows = asyncio.run(_on_breakers(lambda service: service.overview()))
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
    def command(breaker: str, why: str) -> None:
        from app.services.breaker_service import BreakerAction

        action, who = BreakerAction(name), f"{getpass.getuser()} (cli)"
        row = asyncio.run(_on_breakers(lambda service: service.force(breaker, action, who=who, why=why)))
        click.echo(f"{row['name']}: {row['state']}{', forced' if row['forced'] else ''}, epoch {row['epoch']}")


_breaker_command("open", "Refuse every call, on every replica, until `auto`.")
_breaker_command("close", "Let every call through, whatever fails, until `auto`.")
_breaker_command("auto", "Closed, nothing counted, deciding by itself again.")


async def _on_breakers(action: Callable[[BreakerService], Awaitable[T]]) -> T:
    from contextlib import AsyncExitStack

    from app.core.circuit_breaker import CIRCUIT_BREAKERS, KEYED_CIRCUIT_BREAKERS
    from app.core.redis import connect
    from app.core.registry import Registry
    from app.services.breaker_service import BreakerService
    from app.wiring import REDIS_TIMEOUT_SECONDS, open_breakers

    settings = _settings()
    settings.check_redis()
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis_url or "", timeout_seconds=REDIS_TIMEOUT_SECONDS)
        stack.push_async_callback(redis.aclose)
        registry = Registry(redis, namespace=settings.redis_namespace, replica_id="cli")
        fleet = open_breakers(settings, stack, registry)
        return await action(BreakerService(fleet, CIRCUIT_BREAKERS, *KEYED_CIRCUIT_BREAKERS))


@main.group()
def account() -> None:
    """WhatsApp accounts: the businesses this system answers for."""


@account.command("add")
@click.option("--name", required=True, help="The business as people call it.")
@click.option("--slug", required=True, help="Short unique name: lower-case letters, digits, dashes.")
@click.option("--phone-number-id", required=True, help="From the Meta dashboard (digits; not the phone number).")
@click.option("--phone-number", help="The number customers write to.")
@click.option("--access-token", envvar="WHATSAPP_TOKEN", prompt=True, hide_input=True, help="Prompted if not given.")
@click.option(
    "--verify-token", envvar="WHATSAPP_VERIFY_TOKEN", prompt=True, hide_input=True, help="Prompted if not given."
)
@click.option("--bot/--no-bot", default=True, show_default=True, help="Is the bot on in new conversations?")
def account_add(**fields: Any) -> None:
    """Create an account."""
    created = asyncio.run(_add_account(_settings(), fields))
    click.echo(f"created account {created.id} ({created.slug})")


@main.group()
def cache() -> None:
    """What the replicas share: look, and forget. What a replica has in memory is at its /admin/cache."""


@cache.command("stats")
def cache_stats() -> None:
    """Count what Redis holds, group by group. Goes through all its keys."""
    from app.core.cache import survey

    view = asyncio.run(_with_shared_cache(lambda _cache, shared: survey(shared)))
    for group, count in sorted(view.values.items()):
        click.echo(f"{count:8d}  {group or '(no group)'}")
    click.echo(f"{sum(view.values.values()):8d}  values; {view.held} loads or writers under way")


@cache.command("invalidate")
@click.argument("patterns", nargs=-1, required=True)
def cache_invalidate(patterns: tuple[str, ...]) -> None:
    """Forget keys, groups (user:*) or globs on every replica. Exit code 1 if Redis did not take it."""
    asyncio.run(_with_shared_cache(lambda cache, _shared: cache.invalidate_everywhere(*patterns)))
    click.echo(f"forgotten: {', '.join(patterns)}")


@cache.command("inspect")
@click.argument("key")
@click.option("--value", is_flag=True, help="Show the values too; an account's contain its verify token.")
def cache_inspect(key: str, *, value: bool) -> None:
    """Show what Redis holds of one key."""
    from app.core.cache import inspect_key

    view = asyncio.run(_with_shared_cache(lambda _cache, shared: inspect_key(shared, key)))
    if view.held_by:
        click.echo(f"held by {view.held_by} for at most {view.held_seconds:.1f} s")
    for copy in view.copies:
        state = (
            f"fresh for {copy.fresh_seconds:.0f} s" if copy.counts and copy.fresh_seconds > 0 else "no longer an answer"
        )
        click.echo(f"{len(copy.json)} bytes of schema {copy.fingerprint}, {state}, kept for {copy.kept_seconds:.0f} s")
        if value:
            click.echo(copy.json.decode())
    if not view.copies:
        click.echo("no value")


async def _with_shared_cache(act: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    from app.core.cache import Cache, join_fleet

    settings = _settings()
    settings.check_redis()
    url = settings.redis_cache_url or settings.redis_url or ""
    cache = Cache()
    async with join_fleet(cache, url, namespace=settings.redis_namespace) as shared:
        return await act(cache, shared)


async def _add_account(settings: Settings, fields: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from app.api.deps import OPERATOR
    from app.api.schemas import AccountIn
    from app.core.secrets import TokenCipher
    from app.domain.errors import InvalidInput
    from app.services.account_service import AccountService
    from app.wiring import open_store

    if not settings.encryption_key:
        raise SettingsError({"ENCRYPTION_KEY": "is missing; make one with: chorus doctor --new-key"})
    fields["bot_auto_on"] = fields.pop("bot")
    try:
        account = AccountIn(**fields)
    except ValidationError as exc:
        first = exc.errors(include_input=False)[0]
        raise InvalidInput(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    store = await open_store(settings)
    try:
        cipher = TokenCipher([key.get_secret_value() for key in settings.encryption_key])
        return await AccountService(store, cipher).create(OPERATOR, **account.model_dump())
    finally:
        await store.aclose()


for _command in COMMANDS:
    main.add_command(_command)


def _settings(**overrides: Any) -> Settings:
    return load_settings(**{name: value for name, value in overrides.items() if value is not None})


if __name__ == "__main__":
    main(prog_name="chorus" if Path(sys.argv[0]).name == "cli.py" else None)
