"""A replica works only on a schema that it knows, and starts to by itself."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.migrations import MIGRATIONS, apply_migrations, read_migrations
from app.localhost.location import locate
from app.localhost.servers import Postgres, remove_data
from app.main import create_app
from app.sandbox import webhooks as wa
from tests.support.server_folder import server_folder
from tests.support.serving import APP_SECRET, OPERATOR_KEY, outside_world, served, settings_of

OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
NEWEST = read_migrations()[-1].id
FOLLOWING = "29991231235959_chorus_more"


class Readiness:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ready(self) -> tuple[int, dict[str, Any]]:
        answer = await self._http.get("/health/ready")
        return answer.status_code, answer.json()

    async def until(self, status: int) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                code, body = await self.ready()
                if code == status:
                    return body
                await asyncio.sleep(0.02)

    async def health(self) -> tuple[int, dict[str, Any]]:
        answer = await self._http.get("/health")
        return answer.status_code, answer.json()

    async def queue(self) -> dict[str, Any]:
        return dict((await self._http.get("/admin/queue", headers=OPERATOR)).json())

    async def receive(self) -> None:
        raw = wa.encode_like_meta(wa.dashboard_test())
        sent = await self._http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
        assert sent.status_code == 200

    async def until_handled(self) -> None:
        async with asyncio.timeout(20):
            while (await self.queue())["pending"]:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def replica(redis_url: str, database_url: str) -> AsyncIterator[Readiness]:
    async with outside_world() as outside:
        app = create_app(settings_of(outside.url, redis_url, database_url, debounce_seconds=0))
        async with served(app) as base, httpx.AsyncClient(base_url=base) as http:
            yield Readiness(http)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


async def test_without_a_schema_it_is_not_ready_and_claims_nothing_until_that_is_there(
    valkey_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica(valkey_url, postgres_url) as here:
        code, body = await here.ready()
        assert (code, body["status"]) == (503, "not_ready")
        assert body["reason"] == "the database has no schema of Chorus; run `chorus migrate`"
        assert [r.levelname for r in caplog.records if r.msg == "this replica does not work yet"] == ["ERROR"]
        status, picture = await here.health()
        assert (status, picture["status"], picture["reason"]) == (503, "error", body["reason"])

        await here.receive()  # by a balancer that has not noticed yet: it is kept, and waits
        waiting = await here.queue()
        assert (waiting["pending"], waiting["leased"]) == (1, 0)

        await apply_migrations(postgres_url)
        assert (await here.until(200))["status"] == "ready"
        await here.until_handled()


async def test_an_older_schema_is_named_with_what_it_lacks(valkey_url: str, postgres_url: str, directory: Path) -> None:
    (directory / f"{NEWEST}.sql").unlink()
    await apply_migrations(postgres_url, directory)
    async with replica(valkey_url, postgres_url) as here:
        code, body = await here.ready()
        assert code == 503
        assert body["reason"].startswith("the database's schema is older than this version needs")
        assert NEWEST in body["reason"]
        await apply_migrations(postgres_url)
        await here.until(200)


async def test_a_schema_from_before_it_could_name_its_migrations_is_older_too(
    valkey_url: str, postgres_url: str, directory: Path
) -> None:
    for file in sorted(directory.iterdir())[9:]:
        file.unlink()
    await apply_migrations(postgres_url, directory)
    async with replica(valkey_url, postgres_url) as here:
        _, body = await here.ready()
        assert "20261127000001_chorus_handover" in body["reason"]
        assert "20261123000010" not in body["reason"]


async def test_a_newer_schema_is_a_warning(
    valkey_url: str, store_url: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The version before the migration goes on: a rolling deploy, and a rollback."""
    with caplog.at_level(logging.WARNING):
        (directory / f"{FOLLOWING}.sql").write_text("create table more ();")
        await apply_migrations(store_url, directory)
        async with replica(valkey_url, store_url) as here:
            assert (await here.ready())[0] == 200
            await here.receive()
            await here.until_handled()
    (warned,) = [record for record in caplog.records if "newer than this version" in record.msg]
    assert (warned.levelname, warned.__dict__["migrations"]) == ("WARNING", FOLLOWING)


async def test_a_database_that_is_away_at_the_start_keeps_no_replica_from_starting(valkey_url: str) -> None:
    """What its schema is shows when it is there."""
    folder = server_folder("chorus-late-")
    server = Postgres(locate(folder), durable=False)
    try:
        server.start()
        await asyncio.to_thread(server.stop)
        async with replica(valkey_url, server.url) as here:
            assert (await here.ready())[0] == 200
            await asyncio.to_thread(server.start)
            assert "no schema" in (await here.until(503))["reason"]
            await apply_migrations(server.url)
            await here.until(200)
    finally:
        server.stop()
        remove_data(folder)
