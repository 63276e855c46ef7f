"""A Redis namespace belongs to one database: another one's replica does not start, and takes nothing until it may."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from app.adapters.migrations import apply_migrations
from app.adapters.postgres_store import PostgresStore
from app.cli import main
from app.core.queue import Event, PutResult
from app.core.redis.client import connect
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.errors import Unavailable
from app.localhost.location import locate
from app.localhost.servers import Postgres, Valkey, remove_data
from app.main import create_app
from app.sandbox import webhooks as wa
from app.services.namespace_gate import Binding, NamespaceGate, short
from app.settings import Settings
from tests.conftest import _database
from tests.support.patience import Within
from tests.support.server_folder import server_folder
from tests.support.serving import APP_SECRET, outside_world, served, settings_of

EVENT = Event("1", "m", b"{}")


@pytest.fixture
def other_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """A copy of the database, on the same server."""
    yield from _database(postgres, template=migrated_template)


class Taking:
    """A destination that takes everything."""

    async def put(self, events: Any) -> PutResult:
        return PutResult(len(events), 0)


@pytest.fixture
async def gate(valkey_url: str) -> AsyncIterator[Callable[[str], NamespaceGate]]:
    async with AsyncExitStack() as stack:

        def make(database_url: str, redis_url: str = valkey_url) -> NamespaceGate:
            redis, store = connect(redis_url), PostgresStore(database_url)
            stack.push_async_callback(redis.aclose)
            stack.push_async_callback(store.aclose)
            return NamespaceGate(store, {"REDIS_URL": Binding(Door(redis), namespace="chorus")}, namespace="chorus")

        yield make


async def test_the_first_database_has_the_namespace_and_the_second_is_told_in_words(
    gate: Callable[..., NamespaceGate], store_url: str, other_url: str
) -> None:
    first, again, second = gate(store_url), gate(store_url), gate(other_url)
    for each in (first, again, second):
        await each.look()
    assert first.is_open()
    assert again.is_open()
    assert not second.is_open()
    assert second.reason is not None
    assert "namespace chorus of REDIS_URL belongs to" in second.reason
    assert second.reason.count("@…") == 2
    assert (await first.before(Taking()).put([EVENT])).accepted == 1
    with pytest.raises(Unavailable, match="belongs to"):
        await second.before(Taking()).put([EVENT])


async def test_of_many_that_bind_at_once_one_database_wins(
    gate: Callable[..., NamespaceGate], store_url: str, other_url: str
) -> None:
    gates = [gate(url) for _ in range(5) for url in (store_url, other_url)]
    await asyncio.gather(*(each.look() for each in gates))
    assert {each.is_open() for each in gates[::2]} != {each.is_open() for each in gates[1::2]}
    assert sum(each.is_open() for each in gates) == 5


async def test_nobody_knows_until_both_are_there_and_then_it_is_looked_at_before_anything_is_claimed(
    gate: Callable[..., NamespaceGate], valkey: Valkey, valkey_url: str, store_url: str
) -> None:
    here = gate(store_url)
    valkey.kill()
    await here.look()
    assert (here.is_open(), here.reason) == (False, None)
    assert (await here.before(Taking()).put([EVENT])).accepted == 1, "to refuse webhooks needs a reason"
    valkey.start()
    await here.look()
    assert here.is_open()


async def test_a_redis_that_was_wiped_is_bound_again_by_who_runs(
    gate: Callable[..., NamespaceGate], valkey_url: str, store_url: str, other_url: str
) -> None:
    running = gate(store_url)
    await running.look()
    async with connect(valkey_url) as redis:
        await redis.flushall()
    await running.look()
    late = gate(other_url)
    await late.look()
    assert not late.is_open()


async def test_what_ran_goes_on_when_the_namespace_becomes_another_s_and_says_so(
    gate: Callable[..., NamespaceGate],
    valkey_url: str,
    store_url: str,
    other_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running, other = gate(store_url), PostgresStore(other_url)
    await running.look()
    async with connect(valkey_url) as redis:
        await Binding(Door(redis), namespace="chorus").rebind(await other.database_identity())
    await other.aclose()
    with caplog.at_level(logging.ERROR):
        await running.look()
        await running.look()
    assert running.is_open()
    assert running.reason is None
    assert running.contradiction is not None
    assert [record.message for record in caplog.records] == ["the Redis namespace is no longer this database's"]


async def test_a_copy_in_another_cluster_is_another_database_and_its_standby_would_not_be(store_url: str) -> None:
    folder = server_folder("chorus-cluster-")
    cluster = Postgres(locate(folder), durable=False)
    try:
        await asyncio.to_thread(cluster.start)
        await apply_migrations(cluster.url)
        here, there = PostgresStore(store_url), PostgresStore(cluster.url)
        try:
            ours, theirs = await here.database_identity(), await there.database_identity()
            assert ours == await here.database_identity()
            assert ours.partition("@")[2].partition("/")[0] != theirs.partition("@")[2].partition("/")[0]
            assert short(ours) != short(theirs)
        finally:
            await here.aclose()
            await there.aclose()
    finally:
        await asyncio.to_thread(cluster.stop)
        remove_data(folder)


@asynccontextmanager
async def replica(redis_url: str, database_url: str, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with outside_world() as outside:
        app = create_app(settings_of(outside.url, redis_url, database_url, debounce_seconds=0, **more))
        async with served(app) as base, httpx.AsyncClient(base_url=base) as http:
            yield http


async def post(http: httpx.AsyncClient) -> int:
    raw = wa.encode_like_meta(wa.dashboard_test())
    sent = await http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))
    return sent.status_code


async def ready_within(http: httpx.AsyncClient, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while (await http.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.02)


@pytest.fixture
def chorus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in {name.upper() for name in Settings.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)

    def run(*command: str, **env: str) -> Result:
        given = {
            "META_APP_SECRET": "s" * 32, "ENCRYPTION_KEY": TokenCipher.generate_key(), "GEMINI_API_KEY": "k",
            "GEMINI_BASE_URL": "http://127.0.0.1:1", "WHATSAPP_BASE_URL": "http://127.0.0.1:1",
        }  # fmt: skip
        return CliRunner().invoke(main, command, env=given | env)

    return run


async def test_a_replica_of_another_database_takes_nothing_until_the_namespace_is_given_to_it(
    valkey_url: str, store_url: str, other_url: str, gate: Callable[..., NamespaceGate],
    chorus: Callable[..., Result], within: Within,
) -> None:  # fmt: skip
    await gate(store_url).look()
    async with replica(valkey_url, other_url) as second:
        told = await second.get("/health/ready")
        assert told.status_code == 503
        assert "belongs to" in told.json()["reason"]
        assert (await second.get("/health")).json()["status"] == "error"
        assert await post(second) == 503
        moved = await asyncio.to_thread(
            chorus, "queue", "rebind", "--yes", REDIS_URL=valkey_url, DATABASE_URL=other_url
        )
        assert moved.exit_code == 0, moved.output
        await ready_within(second, within(3))
        assert await post(second) == 200


async def test_a_database_that_is_away_at_the_start_is_looked_at_when_it_is_back(
    valkey_url: str, postgres: Postgres, store_url: str
) -> None:
    await asyncio.to_thread(postgres.kill)
    try:
        async with replica(valkey_url, store_url) as http:
            assert await post(http) == 200
            async with connect(valkey_url) as redis:
                assert await redis.hlen("chorus:{q0}:own") == 0
                await asyncio.to_thread(postgres.start)
                async with asyncio.timeout(40):
                    while int(await redis.get("chorus:{q0}:depth") or 0):
                        await asyncio.sleep(0.05)
                assert await Binding(Door(redis), namespace="chorus").read()
    finally:
        await asyncio.to_thread(postgres.start)


async def test_serve_and_doctor_name_both_databases_and_what_to_do(
    valkey_url: str, store_url: str, other_url: str, gate: Callable[..., NamespaceGate], chorus: Callable[..., Result]
) -> None:
    await gate(store_url).look()
    env = {"REDIS_URL": valkey_url, "DATABASE_URL": other_url}
    refused = await asyncio.to_thread(chorus, "serve", **env)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    for text in ("REDIS_NAMESPACE", "@…", "chorus queue rebind"):
        assert text in refused.stderr
    report = await asyncio.to_thread(chorus, "doctor", "--json", **env)
    (finding,) = [each for each in json.loads(report.stdout) if each["subject"] == "redis namespace"]
    assert finding["state"] == "bad"
    assert "chorus queue rebind" in finding["mend"]
    report = await asyncio.to_thread(chorus, "doctor", "--json", **env | {"DATABASE_URL": store_url})
    (finding,) = [each for each in json.loads(report.stdout) if each["subject"] == "redis namespace"]
    assert finding["state"] == "ok"


async def test_the_cache_s_own_redis_is_looked_at_too(
    valkey_url: str, store_url: str, other_url: str, chorus: Callable[..., Result]
) -> None:
    """Redis' database 1 stands for another server."""
    cache_url = f"{valkey_url.rsplit('/', 1)[0]}/1"
    elsewhere = f"{valkey_url.rsplit('/', 1)[0]}/2"
    async with replica(valkey_url, store_url, redis_cache_url=cache_url):
        pass
    refused = await asyncio.to_thread(
        chorus, "serve", REDIS_URL=elsewhere, REDIS_CACHE_URL=cache_url, DATABASE_URL=other_url
    )
    assert refused.exit_code == 2
    assert "of REDIS_CACHE_URL belongs to" in refused.stderr
