"""The two stores on one migrated database: PostgreSQL directly, and REST through a PostgREST-compatible server."""

from __future__ import annotations

import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.adapters.sql_store import SqlStore
from app.adapters.supabase_store import SupabaseStore
from app.core.http_client import close_http_client, get_http_client
from app.domain.models import Account
from app.localhost.processes import ChildProcess, free_port
from app.localhost.servers import Postgres
from tests.support.store_kit import NewAccount, Scene, quick_policy, unique

LITE = Path(__file__).parent / "supabase-lite"
LITE_COMMAND = LITE / "node_modules" / "@supabase" / "lite" / "dist" / "cli" / "index.js"
HOW_TO_GET_LITE = "needs Node 20 and: npm ci --prefix tests/contract/supabase-lite"
SECRET_KEY, PUBLIC_KEY = "sb_secret_contract", "sb_publishable_contract"
READY_SECONDS = 30.0


@pytest.fixture(scope="session")
def contract_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """One migrated database for the whole suite: every test has an account of its own in it."""
    postgres.execute(f"CREATE DATABASE contract TEMPLATE {migrated_template}")
    yield postgres.url_of("contract")
    postgres.resume()
    postgres.start()
    postgres.execute("DROP DATABASE contract WITH (FORCE)")


@pytest.fixture(scope="session")
def rest_url(contract_url: str) -> Iterator[str]:
    node = shutil.which("node")
    if node is None or not LITE_COMMAND.exists():
        pytest.skip(HOW_TO_GET_LITE)
    folder = Path(tempfile.mkdtemp(prefix="chorus-lite-"))
    port = free_port()
    (folder / "supabase").mkdir()
    (folder / "supabase" / "config.toml").write_text(
        f'project_id = "contract"\n[api]\nport = {port}\n[db]\ndriver = "postgres"\nurl = "{contract_url}"\n'
        f'[auth]\nsecret_key = "{SECRET_KEY}"\npublishable_key = "{PUBLIC_KEY}"\n'
    )
    server = ChildProcess(
        "supabase-lite",
        [node, "--import", LITE / "postgrest-json.mjs", LITE_COMMAND, "start", "--no-admin"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1"},
        log_file=folder / "lite.log",
        pid_file=folder / "lite.pid",
    )
    server.start()
    try:
        _wait_until_ready(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
        shutil.rmtree(folder)


def _wait_until_ready(server: ChildProcess, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while server.running and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"supabase-lite did not start:\n{server.log_tail()}")


@pytest.fixture(params=["postgres", "supabase"])
async def store(request: pytest.FixtureRequest, postgres: Postgres, contract_url: str) -> AsyncIterator[SqlStore]:
    postgres.resume()
    postgres.start()
    made: SqlStore
    if request.param == "postgres":
        made = PostgresStore(contract_url, policy=quick_policy(), lock_seconds=4.0)
    else:
        url = request.getfixturevalue("rest_url")
        made = SupabaseStore(url, SECRET_KEY, await get_http_client(), policy=quick_policy())
    yield made
    await made.aclose()
    await close_http_client()


@pytest.fixture
async def sql(contract_url: str) -> AsyncIterator[asyncpg.Connection]:
    """For what the port does not show."""
    connection = await asyncpg.connect(contract_url, timeout=5, command_timeout=5)
    yield connection
    await connection.close()


@pytest.fixture
def new_account(store: SqlStore) -> NewAccount:
    async def make(**fields: Any) -> Account:
        name = unique("account")
        given = {
            "name": name, "slug": name, "phone_number_id": unique("number"),
            "access_token": "cipher", "verify_token": unique("verify"),
        }  # fmt: skip
        return await store.create_account(**given | fields)

    return make


@pytest.fixture
async def scene(store: SqlStore, new_account: NewAccount) -> Scene:
    return Scene(store, await new_account())
