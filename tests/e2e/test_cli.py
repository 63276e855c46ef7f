"""`chorus …` as a person uses it: a clear word and the right exit code, never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis
from click import Group
from click.testing import CliRunner

from app.cli import main
from app.core.secrets import TokenCipher
from app.localhost.fleet import SOURCE_ROOT
from app.sandbox import webhooks as wa
from app.settings import Settings
from tests.support.world import World

COMPLETE = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://127.0.0.1:1/x",
    "META_APP_SECRET": "an-app-secret-of-some-good-length",
    "GEMINI_API_KEY": "k",
    "ENCRYPTION_KEY": TokenCipher.generate_key(),
}


_GROUPS = {name: command for name, command in main.commands.items() if isinstance(command, Group)}
EVERY_COMMAND = [name for name in main.commands if name not in _GROUPS] + [
    f"{group} {name}" for group, command in _GROUPS.items() for name in command.commands
]


def chorus(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {name.upper() for name in Settings.model_fields}
    clean = {name: value for name, value in os.environ.items() if name not in settings}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *args],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(SOURCE_ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def in_here(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The same without a second of imports: for what needs no process of its own. What is not expected raises.
    Commands run an event loop: a test that has one calls this in a thread."""
    unset = dict.fromkeys(name.upper() for name in Settings.model_fields)
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, args, env=unset | env, catch_exceptions=False)
    return subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)


def test_serve_without_settings_names_every_missing_variable(tmp_path: Path) -> None:
    result = chorus(tmp_path, "serve", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 2
    for name in COMPLETE:
        assert f"chorus: {name} is missing" in result.stderr
    assert "Traceback" not in result.stderr
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert "app.settings" in loaded
    assert not loaded & {"app.server", "fastapi"}, "what serves takes a second to load"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"PORT": "eighty"}, "PORT"),
        ({"META_APP_SECRET": ""}, "META_APP_SECRET"),
        ({"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_KEY": "k"}, "DATABASE_URL"),
        ({"WHATSAPP_TOKEN": "t"}, "WHATSAPP_PHONE_ID"),
        ({"GEMINI_BASE_URL": "gemini"}, "GEMINI_BASE_URL"),
        ({"READINESS_REQUIRES": "mysql"}, "READINESS_REQUIRES"),
        ({"APP_ENV": "production"}, "ADMIN_API_KEY"),
        ({"APP_ENV": "production", "WHATSAPP_BASE_URL": "http://127.0.0.1:1"}, "WHATSAPP_BASE_URL"),
        ({"ENCRYPTION_KEY": "too-short"}, "ENCRYPTION_KEY"),
        ({"REDIS_URL": "http://nonsense"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://h/abc"}, "REDIS_URL"),
        ({"HOST": "http://0.0.0.0"}, "HOST"),
        ({"HOST": "no-such-host.invalid"}, "HOST is no-such-host.invalid, an unknown name"),
        ({"HOST": "192.0.2.1"}, "HOST is 192.0.2.1, which is no address of this machine"),
        ({"REPLY_DEADLINE_SECONDS": "inf"}, "REPLY_DEADLINE_SECONDS"),
    ],
)
def test_contradictory_or_unsafe_settings_are_named(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    result = in_here(tmp_path, "serve", **COMPLETE | changes)
    assert result.returncode == 2, result.stderr
    assert f"chorus: {named}" in result.stderr
    assert all(value not in result.stderr for value in (COMPLETE["ENCRYPTION_KEY"], COMPLETE["META_APP_SECRET"]))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pgbouncer=true", "DATABASE_URL: has an option that does not exist: pgbouncer"),
        ("sslmode=verify-full", "DATABASE_URL: asks for a verified certificate (sslmode) without a root certificate"),
    ],
)
def test_serve_names_a_setting_that_only_the_database_finds_wrong(
    store_url: str, tmp_path: Path, option: str, said: str
) -> None:
    wrong = {"DATABASE_URL": f"{store_url}{'&' if '?' in store_url else '?'}{option}", "HOME": str(tmp_path)}
    result = chorus(tmp_path, "serve", **COMPLETE | wrong)
    assert (result.returncode, said in result.stderr, "Traceback" in result.stderr) == (2, True, False), result.stderr


def test_a_misspelt_setting_is_named_by_serve(tmp_path: Path) -> None:
    missing = {name: value for name, value in COMPLETE.items() if name not in {"REDIS_URL", "GEMINI_API_KEY"}}
    (tmp_path / ".env").write_text("GEMINI_KEY=k\nREDIS_URL: redis://127.0.0.1:1/0\n")
    result = in_here(tmp_path, "serve", **missing, REDIS_ULR="redis://127.0.0.1:1/0")
    assert result.returncode == 2
    assert "chorus: GEMINI_KEY is no setting; did you mean GEMINI_API_KEY?" in result.stderr
    assert "chorus: REDIS_ULR is no setting; did you mean REDIS_URL?" in result.stderr
    assert "chorus: .env line 2 sets nothing; write REDIS_URL=value" in result.stderr


def test_a_misspelt_setting_is_in_the_log_of_a_replica_that_serves(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends by itself, after it has read its settings
        port = str(taken.getsockname()[1])
        result = chorus(tmp_path, "serve", "--port", port, **COMPLETE, DEBOUNCE_SECOND="3")
    assert "DEBOUNCE_SECOND is no setting; did you mean DEBOUNCE_SECONDS?" in result.stderr
    assert ".env is a directory; no setting is read from it" in result.stderr
    assert "Traceback" not in result.stderr


def test_settings_come_from_a_dotenv_file_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("META_APP_SECRET=from-the-file-and-long-enough\n")
    result = in_here(tmp_path, "serve")
    assert "REDIS_URL is missing" in result.stderr
    assert "META_APP_SECRET" not in result.stderr


def test_migrate_needs_a_database_and_says_so(tmp_path: Path) -> None:
    missing = in_here(tmp_path, "migrate")
    assert (missing.returncode, "DATABASE_URL is missing" in missing.stderr) == (2, True)
    away = in_here(tmp_path, "migrate", DATABASE_URL=COMPLETE["DATABASE_URL"])
    assert away.returncode == 3


def test_doctor_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('GEMINI_MODEL="m\n')
    away = {"GEMINI_BASE_URL": "http://127.0.0.1:1", "WHATSAPP_BASE_URL": "http://127.0.0.1:1"}
    result = in_here(tmp_path, "doctor", **COMPLETE | away, SINGUP="open")
    assert result.returncode == 1
    assert "warn  .env line 1: sets nothing; write GEMINI_MODEL=value" in result.stdout
    assert "warn  SINGUP: is no setting, so it changes nothing\n        -> did you mean SIGNUP?" in result.stdout
    for subject in ("redis", "database", "gemini", "whatsapp"):
        assert f"BAD   {subject}: " in result.stdout
    assert "redis: 127.0.0.1:1: connection refused\n        -> nothing listens there" in result.stdout


def test_doctor_is_content_with_the_running_fleet(world: World, tmp_path: Path, fleet_env: dict[str, str]) -> None:
    result = chorus(tmp_path, "doctor", **fleet_env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "BAD" not in result.stdout
    for subject in ("settings", "redis", "database", "gemini", "whatsapp"):
        assert f"ok    {subject}" in result.stdout


@pytest.mark.parametrize(("setting", "value"), [("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")])
def test_production_refuses_a_redis_that_forgets(valkey_url: str, tmp_path: Path, setting: str, value: str) -> None:
    production = {
        "APP_ENV": "production", "REDIS_URL": valkey_url, "ADMIN_API_KEY": "operator" * 4,
        "WHATSAPP_VERIFY_TOKEN": "verified" * 2,
    }  # fmt: skip
    with redis.Redis.from_url(valkey_url) as client:
        before = client.config_get(setting)[setting]
        client.config_set(setting, value)
        try:
            serving = in_here(tmp_path, "serve", **COMPLETE | production)
            checked = in_here(tmp_path, "doctor", **COMPLETE | production)
        finally:
            client.config_set(setting, before)
    assert (serving.returncode, setting in serving.stderr) == (2, True)
    assert "BAD   redis" in checked.stdout


def test_doctor_makes_a_key_that_works(tmp_path: Path) -> None:
    key = in_here(tmp_path, "doctor", "--new-key").stdout.strip()
    cipher = TokenCipher([key])
    assert cipher.decrypt(cipher.encrypt("x")) == "x"


async def test_account_add_creates_an_account_that_answers(
    world: World, tmp_path: Path, fleet_env: dict[str, str]
) -> None:
    args = ("account", "add", "--name", "From the shell", "--slug", "shell", "--phone-number-id", "4440001",
            "--access-token", "a-token-of-the-sandbox", "--verify-token", "verify-the-shell")  # fmt: skip
    result = chorus(tmp_path, *args, **fleet_env)
    assert result.returncode == 0, result.stderr
    assert "created account" in result.stdout
    again = chorus(tmp_path, *args, **fleet_env)
    assert again.returncode == 1
    assert "another account has this" in again.stderr
    wrong = chorus(tmp_path, *args[:7], "not digits", *args[8:], **fleet_env)
    assert (wrong.returncode, "--phone-number-id" in wrong.stderr) == (2, True)
    world.account = {"phone_number_id": "4440001"}
    customer = world.customer()
    await customer.send_image()
    await customer.wait_for_reply()


async def test_the_fleet_and_its_queue_are_shown_and_dead_letters_replayed_and_dropped(
    world: World, tmp_path: Path, fleet_env: dict[str, str]
) -> None:
    async def run(*args: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(in_here, tmp_path, *args, **settings)

    settings = {name: value for name, value in fleet_env.items() if name.lower() in Settings.model_fields}
    fleet = await run("fleet")
    assert (fleet.returncode, fleet.stdout.splitlines()[-1]) == (0, "3 alive"), fleet.stderr
    for replica in world.fleet.replicas:
        assert f"-{replica.pid}-" in fleet.stdout
    unknown = wa.envelope(wa.messages_change(world.business, [{"no": "id"}]))
    name = f"unknown:{world.business.phone_number_id}:"
    assert (await world.post(unknown)).status_code == 200
    await world.until_idle()
    status = await run("queue", "status")
    assert "0  events waiting or being handled" in status.stdout
    listed = await run("queue", "dead", "--limit", "1000")
    (letter,) = [line for line in listed.stdout.splitlines() if name in line]
    assert letter.endswith(" messages  malformed messages")
    ids = letter.split()[0]
    assert (await run("queue", "replay", ids)).stdout == "replayed 1\n"
    await world.until_idle()
    again = await run("queue", "dead", "--limit", "1000")
    (letter,) = [line for line in again.stdout.splitlines() if name in line]
    assert (await run("queue", "drop", letter.split()[0], "--yes")).stdout == "dropped 1\n"
    neither = await run("queue", "drop", "--yes")
    assert (neither.returncode, "name ids" in neither.stderr) == (2, True)


def test_fleet_and_queue_say_what_is_missing_or_away(tmp_path: Path) -> None:
    for command in (["fleet"], ["queue", "status"]):
        assert "REDIS_URL is missing" in in_here(tmp_path, *command).stderr
        away = in_here(tmp_path, *command, REDIS_URL=COMPLETE["REDIS_URL"])
        assert away.returncode == 3


async def test_migrating_an_up_to_date_database_does_nothing(
    world: World, tmp_path: Path, fleet_env: dict[str, str]
) -> None:
    result = chorus(tmp_path, "migrate", **fleet_env)
    assert (result.returncode, result.stdout) == (0, "nothing to do: the schema is up to date\n"), result.stderr
    connection = await asyncpg.connect(fleet_env["DATABASE_URL"])
    assert await connection.fetchval("select count(*) from supabase_migrations.schema_migrations") > 0
    await connection.close()


def test_every_command_has_help(tmp_path: Path) -> None:
    whole = chorus(tmp_path, "--help")
    assert (whole.returncode, "Usage: " in whole.stdout) == (0, True)
    for command in [*EVERY_COMMAND, *_GROUPS]:
        result = CliRunner().invoke(main, [*command.split(), "--help"])
        assert result.exit_code == 0
        assert "Usage: " in result.stdout
