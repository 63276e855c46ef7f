"""Upgrade and rollback as docs/operations.md has them, by the scripts it names, with processes: messages flow all the
time and none is lost. Once from this tree's schema to a made-up newer one, once from the version in the history that
had one migration less."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.localhost.fleet import Served, _environment
from app.localhost.processes import free_port, run
from app.sandbox import webhooks as wa

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "infra" / "deploy"
MIGRATIONS = Path("infra/supabase/migrations")
PROFILE = {name: BAKERY[name] for name in ("business_name", "description", "knowledge_base")}
"""Fields that every version knows."""
FOLLOWING = "29991231235959_chorus_next"
APP_SECRET, ADMIN = "a-secret-of-the-test-suite", "an-operator-key-of-the-test-suite"
BUSINESS = wa.Business("900000000002")
PAUSE_SECONDS = 0.05


def version(folder: Path, tree: Path) -> Path:
    """The `chorus` command of the version in `tree`."""
    command = folder / f"chorus-{tree.name}"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={tree}/backend exec {sys.executable} -m app.cli "$@"\n')
    command.chmod(0o755)
    return command


def copy_of_this_tree(tree: Path) -> Path:
    shutil.copytree(ROOT / "backend" / "app", tree / "backend" / "app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / MIGRATIONS, tree / MIGRATIONS)
    return tree


def made_up_next(tree: Path) -> Path:
    copy_of_this_tree(tree)
    (tree / MIGRATIONS / f"{FOLLOWING}.sql").write_text(
        "alter table public.contacts add column nickname text;\nselect chorus.secure_functions();\n"
    )
    return tree


def from_history(tree: Path) -> Path:
    """The version before the newest migration came, along the first parents: states that CI has seen. Skips where there
    is no history."""

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"no history here: git {arguments[0]}: {done.stderr.decode().strip()}")
        return done.stdout

    found = git("log", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "-1", "--", str(MIGRATIONS))
    newest = found.decode().strip()
    if not newest:
        pytest.skip("no history here: nothing says when a migration came")
    with tarfile.open(fileobj=BytesIO(git("archive", f"{newest}~1", "backend", str(MIGRATIONS)))) as archive:
        archive.extractall(tree, filter="data")
    return tree


@dataclass
class Machine:
    """Where the replicas run."""

    folder: Path
    env: dict[str, str]
    ports: list[int]

    def script(self, name: str, chorus: Path, *, ready_seconds: int = 60) -> subprocess.CompletedProcess[str]:
        env = self.env | {
            "CHORUS": str(chorus), "PORTS": " ".join(map(str, self.ports)), "RUN_DIR": str(self.folder / "run"),
            "REPLICAS": "2", "READY_SECONDS": str(ready_seconds),
        }  # fmt: skip
        return run(["/bin/sh", SCRIPTS / name], env=env, cwd=self.folder, timeout_seconds=180)

    def pids(self) -> dict[int, int]:
        """Of the replicas that run, by port."""
        return {int(file.stem): int(file.read_text()) for file in (self.folder / "run").glob("*.pid")}

    def log(self) -> str:
        return "\n".join(file.read_text() for file in (self.folder / "run").glob("*.log"))


@pytest.fixture
def machine(valkey_url: str, postgres_url: str, tmp_path: Path) -> Iterator[Machine]:
    env = _environment() | {
        "REDIS_URL": valkey_url, "DATABASE_URL": postgres_url, "META_APP_SECRET": APP_SECRET, "ADMIN_API_KEY": ADMIN,
        "ENCRYPTION_KEY": TokenCipher.generate_key(), "WHATSAPP_VERIFY_TOKEN": "verify", "GEMINI_API_KEY": "sandbox",
        "DRAIN_SECONDS": "0.5", "DEBOUNCE_SECONDS": "0", "WHATSAPP_MESSAGES_PER_SECOND": "1000",
    }  # fmt: skip
    del env["PYTHONPATH"]  # each version has its own
    sandbox = Served(
        "sandbox", ["sandbox", "--app-secret", APP_SECRET], folder=tmp_path, env=_environment(),
        ready="/sandbox/record?limit=1", port=None,
    )  # fmt: skip
    sandbox.start()
    ports: list[int] = []
    while len(ports) < 3:
        ports = list({*ports, free_port()})
    made = Machine(tmp_path, env | {"WHATSAPP_BASE_URL": sandbox.url, "GEMINI_BASE_URL": sandbox.url}, ports)
    try:
        yield made
    finally:
        for pid in made.pids().values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        sandbox.stop()


@dataclass
class Customers:
    """They write all the time; a delivery that is not taken comes again, at the next replica, as from Meta."""

    ports: list[int]
    sent: set[str] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self) -> None:
        async with httpx.AsyncClient(timeout=5) as http:
            while not self.stopping.is_set():
                wamid = f"wamid.upgrade-{len(self.sent)}"
                person = wa.Person(f"3369800{len(self.sent):04d}", "Amina")
                message = wa.messages_change(BUSINESS, [wa.text(person, "Where?", id=wamid)], [person])
                raw = wa.encode_like_meta(wa.envelope(message))
                async with asyncio.timeout(30):
                    while not await self._delivered(http, raw):
                        await asyncio.sleep(PAUSE_SECONDS)
                self.sent.add(wamid)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _delivered(self, http: httpx.AsyncClient, raw: bytes) -> bool:
        for port in self.ports:
            try:
                answer = await http.post(
                    f"http://127.0.0.1:{port}/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw)
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                return True
        return False


async def add_account(port: int) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as http:
        account = {
            "name": "Shop", "slug": "shop", "phone_number_id": BUSINESS.phone_number_id,
            "access_token": "a-token-of-the-sandbox", "verify_token": "a-verify-token",
        }  # fmt: skip
        made = await http.post("/accounts", json=account)
        assert made.status_code == 201, made.text
        profile = await http.put(f"/bot/profile?account_id={made.json()['id']}", json=PROFILE)
        assert profile.status_code == 200, profile.text


@pytest.mark.parametrize("kind", ["to a made-up next version", "from the version before the newest migration"])
async def test_upgrade_and_rollback_lose_no_message(machine: Machine, tmp_path: Path, kind: str) -> None:
    if kind.startswith("to"):
        old, new = copy_of_this_tree(tmp_path / "old"), made_up_next(tmp_path / "new")
    else:
        old, new = from_history(tmp_path / "old"), copy_of_this_tree(tmp_path / "new")
    old_chorus, new_chorus = version(tmp_path, old), version(tmp_path, new)

    started = await asyncio.to_thread(machine.script, "upgrade.sh", old_chorus)
    assert started.returncode == 0, started.stderr + machine.log()
    first = machine.pids()
    assert len(first) == 2
    await add_account(next(iter(first)))
    customers = Customers(machine.ports)
    writing = asyncio.create_task(customers.write())

    upgraded = await asyncio.to_thread(machine.script, "upgrade.sh", new_chorus)
    assert upgraded.returncode == 0, upgraded.stderr + machine.log()
    second = machine.pids()
    assert len(second) == 2
    assert not set(first.values()) & set(second.values())

    rolled_back = await asyncio.to_thread(machine.script, "rollback.sh", old_chorus)
    assert rolled_back.returncode == 0, rolled_back.stderr + machine.log()
    third = machine.pids()
    assert len(third) == 2
    assert not set(second.values()) & set(third.values())
    if kind.startswith("to"):
        migrated = run([old_chorus, "migrate"], env=machine.env, cwd=tmp_path, timeout_seconds=60)
        assert migrated.returncode == 0, migrated.stderr
        assert FOLLOWING in migrated.stderr
        assert "the database's schema is newer than this version" in machine.log()

    customers.stopping.set()
    await writing
    await everything_is_answered(machine.env["DATABASE_URL"], customers.sent)


async def everything_is_answered(database_url: str, sent: set[str]) -> None:
    assert len(sent) > 20
    database = await asyncpg.connect(database_url, timeout=5)
    try:
        async with asyncio.timeout(60):
            while await database.fetchval("select count(*) from replies where state = 'sent'") < len(sent):
                await asyncio.sleep(0.05)
        stored = await database.fetch("select wa_message_id from messages where direction = 'inbound'")
        assert {row["wa_message_id"] for row in stored} == sent
        covered = Counter(
            wamid for row in await database.fetch("select covers from replies") for wamid in row["covers"]
        )
        assert covered == Counter(dict.fromkeys(sent, 1))
    finally:
        await database.close()


async def test_a_new_version_that_does_not_get_ready_leaves_the_old_one_alone(machine: Machine, tmp_path: Path) -> None:
    chorus = version(tmp_path, copy_of_this_tree(tmp_path / "old"))
    assert (await asyncio.to_thread(machine.script, "upgrade.sh", chorus)).returncode == 0
    before = machine.pids()
    broken = tmp_path / "chorus-broken"
    broken.write_text('#!/bin/sh\n[ "$1" = migrate ] || { echo "no such library" >&2; exit 1; }\n')
    broken.chmod(0o755)
    failed = await asyncio.to_thread(machine.script, "upgrade.sh", broken)
    assert failed.returncode == 1
    assert "did not get ready; what ran before goes on" in failed.stderr
    assert "no such library" in failed.stderr
    assert machine.pids() == before
    async with httpx.AsyncClient(timeout=5) as http:
        for port in before:
            assert (await http.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200
