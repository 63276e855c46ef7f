"""Every command while Redis or the database is away, wrong, or refuses: one line that says why, the right exit code."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from click import Group
from click.testing import CliRunner, Result

from app import wiring
from app.adapters import database_trouble
from app.cli import cache, main
from app.core.secrets import TokenCipher
from app.localhost.servers import Postgres, Valkey
from app.services import breaker_service
from app.settings import Settings
from tests.support.fakes import peer
from tests.support.tls import running_fronts

Chorus = Callable[..., Result]

ON_REDIS = [
    "fleet", "fleet --json", "breakers list", "breakers list --json", "breakers open gemini", "breakers close whatsapp",
    "breakers auto supabase", "queue status", "queue status --json", "queue dead", "queue dead --json",
    "queue replay 0-1-1", "queue replay --all", "queue drop 0-1-1 --yes", "queue drop --all --yes", "cache stats",
    "cache stats --json", "cache inspect user:1", "cache inspect user:1 --json", "cache invalidate user:*",
]  # fmt: skip
ON_DATABASE = [
    "migrate", "account list", "account list --json", "account show x", "account profile x",
    "account profile x description=y", "account check", "account check x --json", "account rotate-keys",
    "account rotate-token x", "account app x 12345",
    "account member list x", "account member set x u viewer", "account member remove x u",
    "account key list x", "account key create x --name n --role viewer", "account key revoke x y",
    "account invite x agent", "account audit", "account audit x --json",
    "account add --name n --slug s --phone-number-id 1 --access-token 12345678 --verify-token 12345678",
]  # fmt: skip
ON_BOTH = ["queue rebind --yes"]
OTHERS = {"serve", "demo", "sandbox say", "doctor", "openapi"}
USAGE, AWAY = 2, 3
WRONG_OPTIONS = [
    ("pgbouncer=true", "has an option that does not exist: pgbouncer"),
    ("connect_timeout=10", "has an option that does not exist: connect_timeout"),
    ("channel_binding=require", "has an option that does not exist: channel_binding"),
    ("options=-cfoo%3Dbar", "has an option that does not exist: foo"),
    ("options=nonsense", "has an option that the server refuses"),
    ("work_mem=much", "has an option that the server refuses: work_mem"),
    ("wal_level=minimal", "has an option that the server refuses: wal_level"),
    ("sslmode=nonsense", "has a value of sslmode that does not exist; there are disable, "),
    ("sslmode=verify-full", "append sslrootcert=/path/to/ca.pem"),
    ("sslmode=verify-ca", "append sslrootcert=/path/to/ca.pem"),
    ("nonsense", "is not a valid postgresql:// URL"),
]


@pytest.fixture
def chorus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Chorus:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # ~/.postgresql/root.crt counts as sslrootcert
    for name in {name.upper() for name in Settings.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)
    # A second try comes at once: a hundred and fifty commands meet something that does not mend itself meanwhile.
    monkeypatch.setattr(cache, "BETWEEN_SECONDS", 0.0)
    monkeypatch.setattr(breaker_service, "WAKE_AGAIN_SECONDS", 0.0)
    at_once = partial(database_trouble.database_policy, uniform=lambda: 0.0)
    monkeypatch.setattr(database_trouble, "database_policy", at_once)

    def run(command: str, **env: str) -> Result:
        given = {"ENCRYPTION_KEY": TokenCipher.generate_key(), "WHATSAPP_BASE_URL": "http://127.0.0.1:1"} | env
        return CliRunner().invoke(main, command.split(), env=given, input="a-new-access-token\n")

    return run


def one_line(result: Result, *said: str, code: int = AWAY) -> None:
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("chorus: ")
    for text in said:
        assert text in result.stderr, result.stderr


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never answers is waited for as often as in the product, and not as long."""
    monkeypatch.setattr(wiring, "open_door", partial(wiring.open_door, answer_seconds=0.2))


@pytest.fixture
def no_redis() -> Iterator[str]:
    """A port where an HTTP server answers."""
    yield from _listening(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def silent() -> Iterator[str]:
    """A port where nobody answers."""
    yield from _listening(None)


def _listening(answer: bytes | None) -> Iterator[str]:
    """In a thread of its own: commands run event loops of theirs."""
    places: list[str] = []
    listening, over = threading.Event(), threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            if answer is not None:
                writer.write(answer)
                return

    async def serve() -> None:
        async with peer(handle) as url:
            places.append(urlsplit(url).netloc)
            listening.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    listening.wait(10)
    try:
        yield places[0]
    finally:
        over.set()
        thread.join()


def test_every_command_is_tried_here() -> None:
    def commands(group: Group, prefix: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            if isinstance(command, Group):
                yield from commands(command, f"{prefix}{name} ")
            else:
                yield prefix + name

    tried = [f"{command} " for command in [*ON_REDIS, *ON_DATABASE, *ON_BOTH]]
    every = set(commands(main))
    assert {name for name in every - OTHERS if not any(each.startswith(f"{name} ") for each in tried)} == set()


@pytest.mark.parametrize("command", ON_BOTH)
def test_either_store_away_is_one_line_with_the_cause(
    command: str, chorus: Chorus, valkey_url: str, store_url: str
) -> None:
    one_line(chorus(command, REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=store_url), "REDIS_URL")
    one_line(chorus(command, REDIS_URL=valkey_url, DATABASE_URL="postgresql://127.0.0.1:1/x"), "DATABASE_URL")
    one_line(chorus(command, REDIS_URL=valkey_url), "DATABASE_URL is missing", code=USAGE)


@pytest.mark.parametrize("command", ON_REDIS)
def test_redis_away_or_wrong_is_one_line_with_the_cause(command: str, chorus: Chorus, no_redis: str) -> None:
    one_line(chorus(command, REDIS_URL="redis://127.0.0.1:1/0"), "connection refused", "127.0.0.1:1", "REDIS_URL")
    one_line(chorus(command, REDIS_URL="redis://no-such-host.invalid:6379"), "the host name is unknown")
    one_line(chorus(command, REDIS_URL=f"redis://{no_redis}/0"), "no Redis")
    one_line(chorus(command, REDIS_URL="localhost:6379"), "REDIS_URL is not a URL", code=USAGE)
    one_line(chorus(command, REDIS_URL="redis://h:6379/0?nonsense=1"), "nonsense", code=USAGE)
    one_line(chorus(command, REDIS_URL="redis://h/abc"), "REDIS_URL has no number of a database", code=USAGE)
    one_line(chorus(command, REDIS_URL="redis://h?protocol=9"), "REDIS_URL takes 2 or 3 as protocol", code=USAGE)
    one_line(chorus(command, REDIS_URL="unix://relative.sock"), "REDIS_URL names no socket", code=USAGE)
    one_line(chorus(command), "REDIS_URL is missing", code=USAGE)
    one_line(chorus(command, REDIS_URL="unix:///no/such/socket"), "does not exist")


@pytest.mark.parametrize("command", ON_REDIS)
def test_redis_that_refuses_is_one_line_with_the_cause(command: str, chorus: Chorus, valkey_url: str) -> None:
    place = urlsplit(valkey_url)
    with redis.Redis.from_url(valkey_url) as admin:
        admin.acl_setuser(
            "limited", enabled=True, passwords=["+pw"], commands=["+ping", "+client", "+hello"], reset=True
        )
        try:
            where = f"127.0.0.1:{place.port}"
            secret = "not-the-password"
            wrong = chorus(command, REDIS_URL=f"redis://:{secret}@{where}/0")
            one_line(wrong, "wrong user or password", where)
            assert secret not in wrong.output
            one_line(chorus(command, REDIS_URL=f"redis://{where}/0"), "it wants a password")
            one_line(chorus(command, REDIS_URL=f"redis://limited:pw@{where}/0"), "its access list forbids it")
            one_line(chorus(command, REDIS_URL=f"{valkey_url.rsplit('/', 1)[0]}/9999"), "no database of that number")
            one_line(chorus(command, REDIS_URL=valkey_url.replace("redis://", "redis+cluster://")), "it is no Cluster")
        finally:
            admin.acl_deluser("limited")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", ["fleet", "breakers list", "queue status", "cache stats"])
def test_redis_that_is_silent_ends_a_command_in_time(command: str, chorus: Chorus, silent: str) -> None:
    one_line(chorus(command, REDIS_URL=f"redis://{silent}/0"), "no answer in time")
    one_line(chorus(command, REDIS_URL=f"rediss://{silent}/0"), "no answer in time", "TLS")


@pytest.mark.parametrize("command", ["fleet", "breakers list", "queue status", "cache stats"])
def test_tls_that_does_not_fit_is_named(command: str, chorus: Chorus, valkey_url: str, tmp_path: Path) -> None:
    place = urlsplit(valkey_url)
    with running_fronts(tmp_path) as fronts:
        where = f":{place.password}@127.0.0.1:{fronts.before(place.port or 0)}/0"
        one_line(chorus(command, REDIS_URL=f"rediss://{where}"), "unknown CA", "ssl_ca_certs")
        one_line(chorus(command, REDIS_URL=f"redis://{where}"), "it closed the connection")
        good = chorus(command, REDIS_URL=f"rediss://{where}?ssl_ca_certs={fronts.authority}")
        assert good.exit_code == 0, good.output


def test_a_cache_server_that_is_away_is_named_as_such(chorus: Chorus, valkey_url: str) -> None:
    env = {"REDIS_URL": valkey_url, "REDIS_CACHE_URL": "redis://127.0.0.1:1/0"}
    one_line(chorus("cache stats", **env), "connection refused", "REDIS_CACHE_URL")


@pytest.mark.parametrize("command", ON_DATABASE)
def test_a_database_that_is_away_or_wrong_is_one_line_with_the_cause(
    command: str, chorus: Chorus, postgres: Postgres, no_redis: str
) -> None:
    postgres.start()
    place = urlsplit(postgres.url)
    user, where = f"{place.username}:{place.password}", f"127.0.0.1:{place.port}"

    def on(url: str) -> Result:
        return chorus(command, DATABASE_URL=url)

    refused_code = USAGE if command == "migrate" else AWAY
    one_line(on("postgresql://127.0.0.1:1/x"), "connection refused", "DATABASE_URL")
    one_line(on("postgresql://no-such-host.invalid/x"), "the host name is unknown")
    one_line(on(f"postgresql://{place.username}:wrong@{where}/postgres"), "password", code=refused_code)
    one_line(on(f"postgresql://{user}@{where}/nodb"), "database", code=refused_code)
    one_line(on(f"postgresql://{user}@{where}/postgres?sslmode=require"), "TLS")
    one_line(on("postgresql://u:p@ss@127.0.0.1:1/x"), "DATABASE_URL has an unescaped '@'", "%40", code=USAGE)
    one_line(on("mysql://127.0.0.1/x"), "DATABASE_URL must start with", code=USAGE)
    for option, said in WRONG_OPTIONS:
        one_line(on(f"postgresql://{user}@{where}/postgres?{option}"), "DATABASE_URL: ", said, code=USAGE)
    if command == "migrate":
        whole = f"postgresql://{user}@{where}/postgres"
        away = chorus(command, DATABASE_URL=whole, MIGRATE_DATABASE_URL="postgresql://127.0.0.1:1/x")
        one_line(away, "127.0.0.1:1: connection refused", "(MIGRATE_DATABASE_URL)")
        wrong = f"postgresql://{place.username}:wrong@{where}/postgres"
        refused = chorus(command, DATABASE_URL=whole, MIGRATE_DATABASE_URL=wrong)
        one_line(refused, "correct it in MIGRATE_DATABASE_URL", code=USAGE)
    else:
        one_line(on(f"postgresql://{user}@{where}/postgres"), "chorus migrate")
        one_line(chorus(command, SUPABASE_URL=f"http://{no_redis}", SUPABASE_KEY="k"), "database: ")
        one_line(chorus(command, SUPABASE_URL="http://127.0.0.1:1", SUPABASE_KEY="k"), "connection refused")
    one_line(chorus(command), "DATABASE_URL is missing", code=USAGE)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("breakers open nonsense", 1, "no such breaker"),
        ("breakers auto whatsapp_api:", 1, "no such breaker"),
        ("breakers auto whatsapp_api:123456789", 1, "no such breaker"),
        ("breakers close whatsapp_api:123456789", 1, "no such breaker"),
        ("breakers auto gemini_api:no-such-model", 1, "no such breaker"),
        ("breakers open whatsapp_api:abc", 1, "no such breaker"),
        ("breakers open whatsapp_api:\u0661\u0662", 1, "no such breaker"),
        (f"breakers open whatsapp_api:{'1' * 33}", 1, "no such breaker"),
        (f"breakers open gemini_api:{'m' * 101}", 1, "no such breaker"),
        ("breakers open gemini_api:mod\u00e8le", 1, "no such breaker"),
        ("breakers auto whatsapp_api:\udcff", 2, "argument 3 is not UTF-8"),
        ("breakers open gemini --why \udcff", 2, "argument 5 is not UTF-8"),
        ("cache inspect \udcff", 2, "argument 3 is not UTF-8"),
        ("cache invalidate user:* \udcff", 2, "argument 4 is not UTF-8"),
        ("sandbox say \udcff", 2, "argument 3 is not UTF-8"),
        ("\udcff", 2, "argument 1 is not UTF-8"),
        ("queue replay 0-1-1", 1, "no dead letter 0-1-1"),
        ("queue replay nonsense 99-1-1", 1, "no dead letter nonsense"),
        ("queue drop 0-1-1 --yes", 1, "no dead letter 0-1-1"),
        ("queue dead --after nonsense", 2, "--after takes an id"),
        ("queue dead --after 1", 2, "--after takes an id"),
        ("queue dead --limit 0", 2, "--limit"),
        ("queue replay", 2, "name ids"),
        ("queue replay --all 0-1-1", 2, "name ids"),
        ("cache inspect nothing:here", 1, ""),
        ("nonsense", 2, "No such command"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_exit_code_1_and_bad_usage_2(
    command: str, code: int, said: str, chorus: Chorus, valkey_url: str
) -> None:
    result = chorus(command, REDIS_URL=valkey_url)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert isinstance(result.exception, SystemExit)
    with redis.Redis.from_url(valkey_url) as outside:
        assert outside.keys("*breaker*") == []


@pytest.mark.parametrize("circuit", ["whatsapp_api:123456789", "gemini_api:gemini-3.5-pro"])
@pytest.mark.parametrize("action", ["auto", "close"])
def test_a_circuit_of_one_account_or_model_that_redis_knows_is_closed(
    circuit: str, action: str, chorus: Chorus, valkey_url: str
) -> None:
    for command in (f"breakers open {circuit}", f"breakers {action} {circuit}", f"breakers auto {circuit}"):
        assert chorus(command, REDIS_URL=valkey_url).exit_code == 0


@pytest.mark.parametrize(
    "command", ["fleet", "breakers list", "queue status", "queue dead", "cache stats", "breakers auto gemini"]
)
def test_lists_are_json_for_programs(command: str, chorus: Chorus, valkey_url: str) -> None:
    result = chorus(f"{command} --json", REDIS_URL=valkey_url)
    assert (result.exit_code, result.stderr) == (0, "")
    json.loads(result.stdout)


@pytest.mark.usefixtures("impatient")
def test_a_frozen_redis_ends_every_command_in_time(chorus: Chorus, valkey: Valkey, valkey_url: str) -> None:
    valkey.pause()
    try:
        for command in ON_REDIS:
            one_line(chorus(command, REDIS_URL=valkey_url), "no answer in time")
    finally:
        valkey.resume()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete_commands(shell: str) -> None:
    words = {"COMP_WORDS": "chorus acc", "COMP_CWORD": "acc" if shell == "fish" else "1"}
    env = {"_CHORUS_COMPLETE": f"{shell}_complete", **words}
    shown = CliRunner().invoke(main, [], env=env, prog_name="chorus")
    assert "account" in shown.output


def test_the_help_names_the_exit_codes() -> None:
    shown: Any = CliRunner().invoke(main, ["--help"])
    for word in ("Exit codes", "0 done", "1 not found", "2 usage", "3 a dependency"):
        assert word in " ".join(shown.output.split())
