"""Every command that a runbook names, or a block of docs/operations.md and of the French guides holds, is run: by the
user it names, on the Redis that ships and beside a replica. Targets of make are read by make, not made."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import redis as redis_sync
from click.testing import CliRunner

from app.cli import main
from app.localhost.location import Location
from app.localhost.servers import Postgres
from app.main import create_app
from app.sandbox import webhooks as wa
from app.sandbox.app import running_sandbox
from app.settings import Settings
from tests.support.guarded_redis import Guarded, guarded_redis
from tests.support.replica import NUMBERS_TOKEN
from tests.support.serving import APP_SECRET, OPERATOR_KEY, served, settings_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUNBOOKS, SOLUTIONS = DOCS / "runbooks", DOCS / "SOLUTIONS_IMPLEMENTEES.md"
GUIDES = (DOCS / "operations.md", DOCS / "ANALYSE_ERREURS_5XX.md", DOCS / "GUIDE_IMPLEMENTATION.md", SOLUTIONS)
NUMBER = "106540352242922"
NAMED = {
    "<name>": "gemini", "<phone_number_id>": NUMBER, "ACCOUNT": "levain", "APP_ID": "1029384756",
}  # fmt: skip
OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
SOURCE = str(ROOT / "backend")
COMMAND = re.compile(
    r"`((?:chorus|curl|redis-cli|docker|kubectl) [^`]+|(?:CONFIG|SLOWLOG|INFO|MEMORY|CLIENT|LATENCY|ACL) [A-Z][^`]*)`"
)
COMMANDS = sorted(
    {found for page in RUNBOOKS.glob("*.md") for found in COMMAND.findall(page.read_text(encoding="utf-8"))}
)
BLOCKS = [
    block
    for page in GUIDES
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
]
PASTED = [re.sub(r"\s+#.*", "", line) for block in BLOCKS for line in block.splitlines()]
"""Each line as a shell takes it: a command without its comment."""
ELSEWHERE = {
    "docker compose ps", "kubectl describe pod", "kubectl rollout status",
    "kubectl apply -f infra/k8s/namespace.yaml", "kubectl apply -k infra/k8s",
    "kubectl -n chorus create secret generic chorus --from-env-file=chorus-secrets.env",
    "kubectl -n chorus create secret generic chorus-migrate --from-env-file=chorus-migrate.env",
}  # fmt: skip
"""Of the orchestrator: there is none here."""
IN_TEST_RESTORE = {
    'infra/postgres/backup.sh "$DATABASE_URL" chorus.dump',
    'infra/postgres/restore.sh "$EMPTY_DATABASE_URL" chorus.dump',
}  # fmt: skip
MADE = sorted(command for command in {*PASTED} if command.startswith("make "))
RUN_HERE = sorted({*COMMANDS, *PASTED} - ELSEWHERE - IN_TEST_RESTORE - {*MADE})


@dataclass
class Stack:
    redis: Guarded
    settings: Settings
    replica: str

    def environment(self) -> dict[str, str]:
        wanted = ("redis_url", "gemini_base_url", "whatsapp_base_url")
        secrets = ("database_url", "gemini_api_key", "admin_api_key")
        return {
            **{name.upper(): str(getattr(self.settings, name)) for name in wanted},
            **{name.upper(): getattr(self.settings, name).get_secret_value() for name in secrets},
            "META_APP_SECRET": APP_SECRET,
            "ENCRYPTION_KEY": ",".join(key.get_secret_value() for key in self.settings.encryption_key),
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(
    server_location: Location, postgres: Postgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A replica with an account."""
    folder = tmp_path_factory.mktemp("runbooks")
    postgres.start()
    postgres.execute(f"CREATE DATABASE runbooks TEMPLATE {migrated_template}")
    with guarded_redis(server_location.valkey_server, folder) as redis, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        async with running_sandbox() as sandbox:
            settings = settings_of(sandbox.url, redis.url, postgres.url_of("runbooks"), debounce_seconds=0)
            async with served(create_app(settings)) as base, httpx.AsyncClient(base_url=base, timeout=10) as http:
                account = {
                    "name": "Levain", "slug": "levain", "phone_number_id": NUMBER, "access_token": "t" * 20,
                    "verify_token": "v" * 20,
                }  # fmt: skip
                assert (await http.post("/accounts", json=account, headers=OPERATOR)).status_code == 201
                yield Stack(redis, settings, base)
    postgres.execute("DROP DATABASE runbooks WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="module")
async def stack(serving: Stack) -> AsyncIterator[Stack]:
    """With one dead letter, a message to a number that no account has; and no circuit is forced."""
    async with httpx.AsyncClient(base_url=serving.replica, timeout=10, headers=OPERATOR) as http:

        async def dead_letters() -> list[object]:
            return list((await http.get("/admin/dead-letters")).json()["items"])

        if not await dead_letters():
            person, stranger = wa.Person("33612345678", "Ada"), wa.Business("999")
            payload = wa.envelope(wa.messages_change(stranger, [wa.text(person, "Hello?")], [person]))
            raw = wa.encode_like_meta(payload)
            sent = await http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
            assert sent.status_code == 200
            async with asyncio.timeout(20):
                while not await dead_letters():
                    await asyncio.sleep(0.02)
        yield serving
        for name, circuit in (await http.get("/admin/breakers")).json().items():
            if circuit["forced"]:
                freed = await http.post(f"/admin/breakers/{name}", json={"action": "auto"})
                assert freed.status_code == 200, freed.text


async def run(stack: Stack, arguments: list[str]) -> tuple[int, str]:
    """In a thread: a command runs an event loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=stack.environment(), input="y\n")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


async def run_apart(stack: Stack, arguments: list[str]) -> tuple[int, str]:
    """As a process: it tells the fleet's caches, and this process's are the replica's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", *arguments, env=os.environ | stack.environment() | {"PYTHONPATH": SOURCE},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate(f"{NUMBERS_TOKEN}\n".encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def chorus(stack: Stack, command: str) -> None:
    if "<id>" in command:
        listed = (await run(stack, ["queue", "dead"]))[1]
        (letter,) = re.findall(r"^(\d+-\d+-\d+)", listed, flags=re.MULTILINE)
        command = command.replace("<id>…", letter)
    if "<phone_number_id>" in command:
        opened = await run(stack, ["breakers", "open", f"whatsapp_api:{NUMBER}"])
        assert opened[0] == 0, opened
    for name, value in NAMED.items():
        command = command.replace(name, value)
    arguments = shlex.split(command)[1:]
    code, output = await (run_apart if arguments[0] == "account" else run)(stack, arguments)
    assert code == 0, output


async def curl(stack: Stack, command: str) -> None:
    command, _, reader = command.partition(" | ")
    (path,) = re.findall(r"(?:>|CHORUS)(/[a-z/-]+)$", command)
    headers = OPERATOR if "$ADMIN_API_KEY" in command else {}
    async with httpx.AsyncClient(base_url=stack.replica) as http:
        response = await http.get(path, headers=headers)
    assert response.status_code == 200, path
    if reader:
        assert reader == "python3 -m json.tool"
        assert response.json()


def redis_cli(stack: Stack, command: str) -> None:
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is None:
        pytest.skip("no redis-cli on this machine (Debian: redis-tools)")
    _, _, user, _, *what = shlex.split(command)
    argv = [program, "-p", str(stack.redis.port), "--user", user, "--pass", stack.redis.operator, *what]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=3, check=False)
        said, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as exc:  # --latency goes on until it is ended
        said, code = (exc.stdout or b"").decode(), 0
    assert code == 0, said
    assert not re.search(r"NOPERM|WRONGPASS|NOAUTH|ERR", said), said


def on_the_server(stack: Stack, command: str) -> None:
    words = command.split()
    if words[-1] == "maxmemory":
        words.append("500mb")
    with redis_sync.Redis.from_url(stack.redis.with_password("operator", stack.redis.operator)) as client:
        client.execute_command(*words)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("command", RUN_HERE)
async def test_a_command_of_a_page_does_what_it_says(stack: Stack, command: str) -> None:
    match command.split(maxsplit=1)[0]:
        case "chorus":
            await chorus(stack, command)
        case "curl":
            await curl(stack, command)
        case "redis-cli":
            await asyncio.to_thread(redis_cli, stack, command)
        case _:
            await asyncio.to_thread(on_the_server, stack, command)


@pytest.mark.parametrize("command", MADE)
def test_a_target_of_a_page_exists(command: str) -> None:
    """`make --dry-run` fails for one that does not."""
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_tools_runs() -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```", SOLUTIONS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT / "backend", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'gemini_api': 'closed'" in done.stdout.lower()


def test_what_is_not_run_is_the_orchestrators() -> None:
    assert {command for command in {*COMMANDS, *PASTED} if command.startswith(("docker", "kubectl"))} == ELSEWHERE
    assert {command for command in PASTED if command.startswith("infra/")} == IN_TEST_RESTORE


def test_a_line_of_a_block_is_one_command() -> None:
    """Not the rest of a sentence: a block that was wrapped like prose runs its first command alone."""
    assert PASTED
    programs = ("chorus ", "curl ", "kubectl ", "docker ", "make ", "infra/postgres/")
    assert [command for command in PASTED if not command.startswith(programs)] == []
    lines = [line for block in BLOCKS for line in block.splitlines()]
    assert [line for line in lines if re.search(r"#.*\b(chorus [a-z]+ |curl -)", line)] == []
