"""The migrations and the store on every version of PostgreSQL that this machine has beside the embedded one."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from app.adapters.migrations import MINIMUM_VERSION, apply_migrations, read_migrations
from app.adapters.postgres_store import PostgresStore
from app.core.queue import Event
from app.domain.models import Author, ConversationFilter, InboundMessage
from app.localhost.location import Location
from app.localhost.processes import ChildProcess, free_port, run

VERSIONS = range(MINIMUM_VERSION, 18)
"""The embedded one is 18."""


def programs(version: int) -> Path | None:
    """Where Debian, Red Hat and Homebrew put them."""
    for pattern in (
        "/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/homebrew/opt/postgresql@{}/bin",
    ):  # fmt: skip
        folder = Path(pattern.format(version))
        if (folder / "postgres").exists():
            return folder
    return None


@pytest.fixture(params=VERSIONS)
def url(request: pytest.FixtureRequest, server_location: Location) -> Iterator[str]:
    folder = programs(request.param)
    if folder is None:
        pytest.skip(f"no PostgreSQL {request.param} here: apt-get install postgresql-{request.param}")
    base = Path(tempfile.mkdtemp(prefix="chorus-postgres-"))
    base.chmod(0o711)
    data, account, port = (
        server_location.server_folder(f"postgres-{request.param}"),
        server_location.account,
        free_port(),
    )
    env = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    name = f"data-{secrets.token_hex(4)}"
    made = run(
        [folder / "initdb", "-D", data / name, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"],
        env=env, cwd=data, account=account, timeout_seconds=60,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    settings = ["--listen_addresses=127.0.0.1", "--unix_socket_directories=", "--fsync=off", f"--port={port}"]
    process = ChildProcess(
        f"PostgreSQL {request.param}", [folder / "postgres", "-D", data / name, *settings],
        env=env, cwd=data / name, log_file=base / "log", pid_file=base / "pid", account=account,
    )  # fmt: skip
    process.start()
    try:
        ready = data / name / "postmaster.pid"
        for _ in range(1000):
            if ready.exists() and "ready" in ready.read_text():
                break
            assert process.running, process.log_tail()
            time.sleep(0.02)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        process.kill()
        shutil.rmtree(data)


async def test_the_schema_works_on_an_older_version(url: str) -> None:
    assert await apply_migrations(url) == [migration.id for migration in read_migrations()]
    store = PostgresStore(url)
    account = await store.create_account(
        name="Shop", slug="shop", phone_number_id="1", access_token="cipher", verify_token="v"
    )
    await store.update_profile(account.id, {"description": "Bread"})
    message = InboundMessage("wamid.1", "text", "Hello", datetime.now(UTC), {})
    inbound = await store.record_inbound(
        account.id, wa_id="33600000000", user_id=None, name="Élodie", messages=[message]
    )
    conversation = inbound.conversation
    reply = await store.open_reply(conversation.id, key="k", author=Author.BOT, covers=("wamid.1",), fence=1)
    assert (await store.save_body(reply.key, fence=1, covers=("wamid.1",), body="Hi")).body == "Hi"
    assert len((await store.list_messages(conversation.id, limit=10, cursor=None)).items) == 1
    assert await store.index_search(rows=10, messages=10)
    for q in ("HELLO", "elodie", "0600"):
        found = await store.list_conversations(account.id, limit=1, cursor=None, only=ConversationFilter(q=q))
        assert [item.id for item in found.items] == [conversation.id], q
    assert (await store.erase_contact(conversation.contact.id, message_ids=(), mailboxes=(), words=()))["contacts"] == 1
    assert await store.journal_put([Event("e", "box", b"x")], max_rows=10, max_bytes=10**9) == (1, ())
    assert await store.applied_migrations()
    await store.aclose()
    connection = await asyncpg.connect(url, timeout=5)
    unsafe = await connection.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        " and not relrowsecurity"
    )
    await connection.close()
    assert unsafe == []
