"""One Chorus of three replicas for the whole folder: real processes, real servers, the sandbox outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import redis

from app.core.http_client import close_http_client
from app.localhost.fleet import LocalFleet
from app.localhost.servers import EmbeddedServers, Postgres, Valkey
from app.sandbox.client import SandboxClient
from tests.support.world import World, running_fleet

DEBOUNCE_SECONDS = 0.15


@pytest.fixture(scope="package")
def servers_and_fleet() -> Iterator[tuple[EmbeddedServers, LocalFleet]]:
    settings = {
        "DEBOUNCE_SECONDS": str(DEBOUNCE_SECONDS),
        "LOG_LEVEL": "DEBUG",
        "WHATSAPP_MESSAGES_PER_SECOND": "1000",
        "DRAIN_SECONDS": "2",
    }
    with running_fleet(settings) as made:
        yield made


@pytest.fixture(scope="module")
def module_stores(
    valkey: Valkey, postgres: Postgres, migrated_template: str, request: pytest.FixtureRequest
) -> Iterator[tuple[str, str]]:
    """(REDIS_URL, DATABASE_URL), both empty, for a replica that serves every test of a module and that none breaks."""
    name = request.module.__name__.rpartition(".")[2]
    valkey.start()
    postgres.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield valkey.url, postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fleet_env(servers_and_fleet: tuple[EmbeddedServers, LocalFleet]) -> dict[str, str]:
    """The settings of the running fleet, for a command beside it."""
    return servers_and_fleet[1].settings_of_a_replica


@pytest.fixture
async def world(servers_and_fleet: tuple[EmbeddedServers, LocalFleet]) -> AsyncIterator[World]:
    servers, fleet = servers_and_fleet
    sandbox = SandboxClient(fleet.sandbox.url)
    async with httpx.AsyncClient(timeout=30) as http:
        world = World(servers, fleet, sandbox, http)
        try:
            await sandbox.reset()
            await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
            world.account = await world.new_account()
            yield world
            # The next test must not inherit a replica that is dead, nor a send of unknown outcome: a reset cuts what is
            # under way.
            await world.mend()
            await sandbox.clear_faults()
            await world.until_idle()
        finally:
            await close_http_client()
