"""`chorus account`: the businesses this system answers for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import click
import orjson

from app.cli.acting import as_operator
from app.cli.exit_codes import AWAY, FAILED
from app.cli.output import json_option, print_json
from app.cli.settings import settings_with_database

if TYPE_CHECKING:
    from app.core.secrets import TokenCipher
    from app.domain.account_health import Judgement
    from app.domain.models import Account, BotProfile, Member
    from app.domain.ports import Store
    from app.services.account_service import AccountService, KeyRotation
    from app.settings import Settings

T = TypeVar("T")
M = TypeVar("M")

MAX_FILE_BYTES = 1_000_000


@click.group()
def account() -> None:
    """WhatsApp accounts: the businesses this system answers for. ACCOUNT is an id, a slug or a phone_number_id."""


@account.command("add")
@click.option("--name", required=True, help="The business as people call it.")
@click.option("--slug", required=True, help="Short unique name: lower-case letters, digits, dashes.")
@click.option("--phone-number-id", required=True, help="From the Meta dashboard (digits; not the phone number).")
@click.option("--phone-number", help="The number customers write to.")
@click.option("--access-token", envvar="WHATSAPP_TOKEN", prompt=True, hide_input=True, help="Prompted if not given.")
@click.option(
    "--verify-token", envvar="WHATSAPP_VERIFY_TOKEN", prompt=True, hide_input=True, help="Prompted if not given."
)
@click.option(
    "--bot/--no-bot", "bot_auto_on", default=True, show_default=True, help="Is the bot on in new conversations?"
)
@click.option("--app-id", help="The Meta app that sends its webhooks, if META_APP_SECRET names several apps.")
@json_option
def add(*, as_json: bool, **fields: object) -> None:
    """Create an account."""
    from app.api.deps import OPERATOR
    from app.api.schemas import AccountIn

    wanted = _validated(AccountIn, fields, as_options=True).model_dump()
    created = asyncio.run(_with_accounts(lambda accounts, _settings: accounts.create(OPERATOR, **wanted)))
    if as_json:
        print_json(_shown(created))
    else:
        click.echo(f"created account {created.id} ({created.slug})")


@account.command("list")
@json_option
def list_accounts(*, as_json: bool) -> None:
    """Every account, by name."""
    found = asyncio.run(_with_accounts(_all))
    if as_json:
        print_json([_shown(each) for each in found])
        return
    click.echo(f"{'id':<36}  {'slug':<24} {'phone_number_id':<20} {'number':<16} {'active':<6}  name")
    for each in found:
        click.echo(
            f"{each.id:<36}  {each.slug:<24} {each.phone_number_id:<20} {each.phone_number or '-':<16} "
            f"{'yes' if each.is_active else 'no':<6}  {each.name}"
        )
    click.echo(f"{len(found)} accounts" if found else "no accounts yet: chorus account add")


@account.command("show")
@click.argument("account")
@json_option
def show(account: str, *, as_json: bool) -> None:
    """One account, without its secrets. Exit code 1 if it does not exist."""
    found = _shown(asyncio.run(_with_accounts(lambda accounts, _settings: find_account(accounts, account))))
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:<16} {value if value is not None else '-'}")


@account.command("profile")
@click.argument("account")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--file", "path", help="Changes as a JSON object; - reads stdin.")
@click.option("--unset", multiple=True, metavar="KEY", help="Back to the default; may be repeated.")
@json_option
def profile(account: str, changes: tuple[str, ...], path: str | None, unset: tuple[str, ...], *, as_json: bool) -> None:
    """Show the bot profile, or change parts of it. Every replica uses the new one at once.

    KEY=VALUE sets one field, KEY=@FILE to what stands in a file. Numbers, true and JSON objects are written as in JSON.
    """
    wanted = _changes(changes, path, unset)

    async def act(accounts: AccountService, _settings: Settings) -> BotProfile:
        found = await find_account(accounts, account)
        return await (accounts.update_profile(found.id, wanted) if wanted else accounts.profile(found.id))

    shown = _profile_shown(asyncio.run(_with_accounts(act)))
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        click.echo(f"{name:<20} {orjson.dumps(value).decode() if isinstance(value, dict) else value}")


@account.command("app")
@click.argument("account")
@click.argument("app_id", required=False)
@click.option("--first", is_flag=True, help="The first app of META_APP_SECRET, whichever that is.")
def set_app(account: str, app_id: str | None, *, first: bool) -> None:
    """Say which Meta app speaks for the account's number: only webhooks that it signed are accepted for it.

    APP_ID stands in the app's dashboard, and in META_APP_SECRET in front of its secret.
    """
    from app.api.schemas import AccountChanges

    if first == (app_id is not None):
        raise click.UsageError("give either APP_ID or --first")
    wanted = _validated(AccountChanges, {"app_id": app_id}).app_id

    async def act(accounts: AccountService, _settings: Settings) -> Account:
        return await accounts.update((await find_account(accounts, account)).id, {"app_id": wanted})

    changed = asyncio.run(_with_accounts(act))
    click.echo(f"{changed.slug}: the app {changed.app_id}" if changed.app_id else f"{changed.slug}: the first app")


@account.command("rotate-token")
@click.argument("account")
@click.option("--unchecked", is_flag=True, help="Do not ask Meta whether the token works; store it.")
def rotate_token(account: str, *, unchecked: bool) -> None:
    """Replace an account's access token. It is read from a prompt, or from stdin: never from the command line.

    Meta is asked first; a token that does not work is refused (exit code 1) and the old one stays.
    """
    from app.api.schemas import AccountChanges
    from app.domain.errors import SendError

    settings_with_database()  # before a secret is typed in vain
    given = click.prompt("New access token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline(4096)
    token = _validated(AccountChanges, {"access_token": given}).access_token or ""

    async def act(accounts: AccountService, settings: Settings) -> Account:
        found = await find_account(accounts, account)
        if not unchecked:
            await _ask_meta(settings, found, token)
        return await accounts.update(found.id, {"access_token": token})

    try:
        changed = asyncio.run(_with_accounts(act))
    except SendError as exc:
        click.echo(f"chorus: not stored: {_refusal_in_words(exc)}", err=True)
        raise SystemExit(FAILED) from None
    click.echo(f"{changed.slug}: the new token is in use" + (" (unchecked)" if unchecked else ""))


@account.command("check")
@click.argument("names", nargs=-1, metavar="[ACCOUNT]...")
@click.option("--all", "every", is_flag=True, help="Also those that are switched off.")
@json_option
def check(names: tuple[str, ...], *, every: bool, as_json: bool) -> None:
    """Ask Meta about accounts, all active ones if none is named: the token, the number, and who gets its webhooks. The
    answer is kept, as those of the checks every ten minutes are.

    Exit code 1 if one of them does not do its work, else 3 if one could not be checked.
    """
    from app.services.account_health import AccountChecks
    from app.wiring import open_inspector

    if every and names:
        raise click.UsageError("give either ACCOUNT or --all")

    async def act() -> list[tuple[Account, Judgement]]:
        async with opened_accounts() as (accounts, store, settings):
            found = await _all(accounts, settings)
            chosen = [await find_account(accounts, name) for name in names]
            checks = AccountChecks(accounts, store, open_inspector(settings, _cipher(settings)))
            active = [each for each in found if each.is_active or every]
            return [(each, await checks.check(each)) for each in chosen or active]

    done = asyncio.run(act())
    rows = [_checked(account, judgement) for account, judgement in done]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{_MARKS[row['verdict']]}  {row['slug']}: {row['said']}")
        if not rows:
            click.echo("no account" if every else "no active account")
    verdicts = {row["verdict"] for row in rows}
    if "unhealthy" in verdicts:
        raise SystemExit(FAILED)
    if None in verdicts:
        raise SystemExit(AWAY)


@account.command("rotate-keys")
@json_option
def rotate_keys(*, as_json: bool) -> None:
    """Encrypt every stored token, and every webhook's secret, with the first ENCRYPTION_KEY. Safe beside running
    replicas, and may be repeated.

    docs/operations.md has the steps before and after. Exit code 1 if no key opens one of them.
    """
    from app.services.endpoint_service import rotate_secrets

    async def act() -> tuple[KeyRotation, tuple[int, int]]:
        async with opened_accounts() as (accounts, store, settings):
            return await accounts.rotate_keys(), await rotate_secrets(store, _cipher(settings))

    done, (secrets, unreadable) = asyncio.run(act())
    if as_json:
        print_json(asdict(done) | {"webhook_secrets": {"rotated": secrets, "unreadable": unreadable}})
    else:
        click.echo(f"{len(done.rotated)} tokens encrypted anew, {len(done.current)} already were with the first key")
        if secrets:
            click.echo(f"{secrets} secrets of webhooks encrypted anew")
    for slug in done.unreadable:
        click.echo(f"chorus: no ENCRYPTION_KEY opens the token of {slug}; it stays as it is", err=True)
    if unreadable:
        click.echo(f"chorus: no ENCRYPTION_KEY opens {unreadable} secrets of webhooks; they stay as they are", err=True)
    if done.unreadable or unreadable:
        raise SystemExit(FAILED)


@account.group("member")
def member() -> None:
    """The people who may act for an account. USER is the user id of Supabase (a token's `sub`)."""


@member.command("list")
@click.argument("account")
@json_option
def list_members(account: str, *, as_json: bool) -> None:
    """Owners first, then agents, then viewers."""
    from app.api.deps import OPERATOR

    async def act(accounts: AccountService, _settings: Settings) -> Sequence[Member]:
        return await accounts.members(OPERATOR, (await find_account(accounts, account)).id)

    found = asyncio.run(_with_accounts(act))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        click.echo(f"{each.user_id:<40} {each.role}")
    if not found:
        click.echo("no members: only the operator's key opens this account")


@member.command("set")
@click.argument("account")
@click.argument("user")
@click.argument("role", type=click.Choice(["owner", "agent", "viewer"]))
@json_option
def set_member(account: str, user: str, role: str, *, as_json: bool) -> None:
    """Make USER a member, or change the role: viewers read, agents also write, owners also change settings."""
    from app.api.deps import OPERATOR
    from app.domain.models import Role

    async def act(accounts: AccountService, _settings: Settings) -> Member:
        return await accounts.set_member(OPERATOR, (await find_account(accounts, account)).id, user, Role(role))

    done = asyncio.run(_with_accounts(act))
    if as_json:
        print_json(asdict(done))
    else:
        click.echo(f"{done.user_id}: {done.role}")


@member.command("remove")
@click.argument("account")
@click.argument("user")
def remove_member(account: str, user: str) -> None:
    """USER has no access any more, from this moment. Exit code 1 if there is no such member."""
    from app.api.deps import OPERATOR

    async def act(accounts: AccountService, _settings: Settings) -> None:
        await accounts.remove_member(OPERATOR, (await find_account(accounts, account)).id, user)

    asyncio.run(_with_accounts(act))
    click.echo(f"{user}: removed")


async def _with_accounts(act: Callable[[AccountService, Settings], Awaitable[T]]) -> T:
    async with _accounts() as (accounts, settings):
        return await act(accounts, settings)


@asynccontextmanager
async def _accounts() -> AsyncIterator[tuple[AccountService, Settings]]:
    async with opened_accounts() as (accounts, _store, settings):
        yield accounts, settings


@asynccontextmanager
async def opened_accounts() -> AsyncIterator[tuple[AccountService, Store, Settings]]:
    """With the shared cache, so that every replica forgets at once what a command changes. While Redis is away the
    database remembers it for them."""
    from contextlib import AsyncExitStack

    from app.adapters.database_trouble import operator_policy
    from app.core import cache
    from app.core.http_client import close_http_client, leave_by
    from app.services.account_service import AccountService
    from app.wiring import open_store

    settings = settings_with_database()
    leave_by(settings.egress)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        store = await open_store(settings, policy=operator_policy())
        stack.push_async_callback(store.aclose)
        await store.ping()  # the cause of a failure is plain here, before caches and circuits have their say
        if settings.redis_url:
            settings.check_redis()
            url = settings.redis_cache_url or settings.redis_url
            joined = cache.join_fleet(cache.default_cache, url, namespace=settings.redis_namespace)
            await stack.enter_async_context(joined)
        accounts = AccountService(store, _cipher(settings), least_verify_bytes=settings.least_verify_bytes)
        stack.enter_context(as_operator())
        yield accounts, store, settings


def _cipher(settings: Settings) -> TokenCipher:
    from app.core.secrets import TokenCipher

    return TokenCipher(key.get_secret_value() for key in settings.encryption_key)


async def _all(accounts: AccountService, _settings: Settings) -> Sequence[Account]:
    from app.api.deps import OPERATOR

    return await accounts.list_for(OPERATOR)


async def find_account(accounts: AccountService, name: str) -> Account:
    """By id, slug or phone_number_id. Raises `NotFound`."""
    from app.api.deps import OPERATOR
    from app.domain.errors import NotFound

    for each in await accounts.list_for(OPERATOR):
        if name in {each.id, each.slug, each.phone_number_id}:
            return each
    raise NotFound("account")


async def _ask_meta(settings: Settings, account: Account, token: str) -> None:
    """With `token` in the place of the stored one. Raises a `SendError` if Meta refuses it, and `Unavailable`."""
    from dataclasses import replace

    from app.adapters.whatsapp import WhatsAppMessenger

    cipher = _cipher(settings)
    messenger = WhatsAppMessenger(
        base_url=settings.whatsapp_base_url, api_version=settings.whatsapp_api_version, cipher=cipher
    )
    await messenger.describe_number(replace(account, access_token=cipher.encrypt(token)))


_MARKS = {"healthy": "ok  ", "attention": "WARN", "unhealthy": "BAD ", None: "????"}


def _checked(account: Account, judgement: Judgement) -> dict[str, Any]:
    """What people and programs read of one check."""
    report = judgement.report
    number, token, subscription = report.number, report.token, report.subscription
    if judgement.verdict is None:
        said = f"could not be checked: {judgement.failure}"
    elif report.problems:
        said = "; ".join(problem.words for problem in report.problems)
    else:
        quality = f", quality {number.quality_rating}" if number.quality_rating else ""
        said = f"the token works for {number.display_phone_number} ({number.verified_name}){quality}"
        if subscription.subscribed is None:
            said += f"; webhooks: {subscription.unknown or 'Meta does not tell who gets them'}"
    quotes = [part.said for part in (token, number, subscription) if part.said and part.state != "ok"]
    if quotes:
        said += f" [{'; '.join(f'{quote.words} ({quote.code})' for quote in dict.fromkeys(quotes))}]"
    return {
        "id": account.id,
        "slug": account.slug,
        "ok": judgement.verdict in {"healthy", "attention"},
        "verdict": judgement.verdict,
        "said": said,
        **asdict(report),
    }


def _refusal_in_words(exc: Exception) -> str:
    """Meta's codes: Cloud API, error codes; Graph API, handling errors."""
    code = getattr(exc, "wa_code", None)
    if code in {0, 190}:
        what = "the token is expired, revoked or wrong; give a new one: chorus account rotate-token"
    elif code in {100, 33}:
        what = "this phone_number_id does not exist, or the token is for another business"
    elif code in {3, 10} or (code is not None and 200 <= code < 300):
        what = "the token lacks a permission: whatsapp_business_messaging, whatsapp_business_management"
    elif code in {368, 131031, 131005}:
        what = "Meta has restricted the account: see Business Support Home"
    elif "decrypted" in str(exc):
        what = "no ENCRYPTION_KEY opens its token; append the key that encrypted it, or chorus account rotate-token"
    else:
        what = "Meta did not answer as expected; try again"
    return f"{what} [{exc}]"


def _changes(assignments: Sequence[str], path: str | None, unset: Sequence[str]) -> dict[str, object]:
    from app.api.schemas import ProfileChanges

    given: dict[str, Any] = _from_file(path) if path else {}
    for pair in assignments:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{name!r} has no '='; write KEY=VALUE")
        given[name] = _read(value[1:]) if value.startswith("@") else value
    given |= dict.fromkeys(unset)
    text_fields = {name for name, field in ProfileChanges.model_fields.items() if _takes_text(field.annotation)}
    for name, value in given.items():
        if isinstance(value, str) and name not in text_fields:
            given[name] = _as_json(value)
    return _validated(ProfileChanges, given).model_dump(exclude_unset=True)


def _takes_text(annotation: object) -> bool:
    if get_origin(annotation) is dict:
        return False
    return annotation is str or any(_takes_text(part) for part in get_args(annotation))


def _from_file(path: str) -> dict[str, object]:
    value = _as_json(_read(path))
    if isinstance(value, dict):
        return value
    raise click.UsageError(f"{path} holds no JSON object")


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(MAX_FILE_BYTES)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(MAX_FILE_BYTES)
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8 text") from None
    except OSError as exc:
        raise click.UsageError(f"{path}: {exc.strerror}") from None


def _as_json(value: str) -> object:
    try:
        return orjson.loads(value)
    except ValueError:
        return value  # the schema says what it should have been


def _validated(schema: type[M], fields: Mapping[str, object], *, as_options: bool = False) -> M:
    """By the schema of the HTTP interface. Raises `InvalidInput` naming the field, never the value."""
    from pydantic import ValidationError

    from app.api.field_words import in_words
    from app.domain.errors import InvalidInput

    try:
        return schema(**fields)
    except ValidationError as exc:
        first = exc.errors(include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        shown = f"--{name.replace('_', '-')}" if as_options else name
        raise InvalidInput(f"{shown}: {in_words(first)}", field=name) from None


def _shown(account: Account) -> dict[str, object]:
    from app.api.schemas import AccountOut

    return AccountOut.model_validate(account).model_dump(mode="json", exclude={"spent_today"})


def _profile_shown(found: object) -> dict[str, object]:
    from app.api.schemas import ProfileOut

    return ProfileOut.model_validate(found).model_dump(mode="json")
