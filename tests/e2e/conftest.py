"""One Chorus of three replicas for the whole folder: real processes, real servers, the sandbox outside."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import redis

from app.core.http_client import close_http_client
from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.servers import Postgres, Valkey, remove_data, start_servers
from app.sandbox.client import SandboxClient
from app.sandbox.customers import Customer
from app.sandbox.delivery import WebhookSender
from app.sandbox.webhooks import Business, encode_like_meta, signed_headers

_numbers = count(1)


@pytest.fixture(scope="package")
def fleet_and_database() -> Iterator[tuple[LocalFleet, str]]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-e2e-"))
    folder.chmod(0o711)
    try:
        with start_servers(folder / "servers", durable=False) as servers:
            fleet = LocalFleet(
                folder,
                redis_url=servers.redis_url,
                database_url=servers.database_url,
                keys=Keys.kept_in(folder / "keys.json", TokenCipher.generate_key()),
                settings={
                    "DEBOUNCE_SECONDS": "0.15",
                    "LOG_LEVEL": "DEBUG",
                    "WHATSAPP_MESSAGES_PER_SECOND": "1000",
                    "DRAIN_SECONDS": "2",
                },
            )
            fleet.start()
            try:
                yield fleet, servers.database_url
            finally:
                fleet.stop()
    finally:
        remove_data(folder / "servers")
        shutil.rmtree(folder, ignore_errors=True)


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
def fleet_env(fleet_and_database: tuple[LocalFleet, str]) -> dict[str, str]:
    """The settings of the running fleet, for a command beside it."""
    return fleet_and_database[0].settings_of_a_replica


@dataclass
class World:
    """What a test of the whole needs: the replicas' HTTP interface, the sandbox, the database, a business."""

    fleet: LocalFleet
    sandbox: SandboxClient
    http: httpx.AsyncClient
    database: asyncpg.Connection
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def business(self) -> Business:
        return Business(self.account["phone_number_id"])

    @property
    def operator(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.fleet.keys.admin}"}

    async def api(self, method: str, path: str, *, replica: int = 0, status: int = 200, **more: Any) -> Any:
        """As the operator, on one replica; the status is asserted."""
        headers = self.operator | more.pop("headers", {})
        response = await self.http.request(method, self.fleet.replicas[replica].url + path, headers=headers, **more)
        assert response.status_code == status, response.text
        return response.json()

    async def new_account(self, **changes: Any) -> dict[str, Any]:
        number = next(_numbers)
        body = {
            "name": f"Shop {number}", "slug": f"shop-{number}", "phone_number_id": f"9000{number:06d}",
            "access_token": "a-token-of-the-sandbox", "verify_token": f"verify-token-{number}", **changes,
        }  # fmt: skip
        account = await self.api("POST", "/accounts", json=body, status=201)
        await self.api("PUT", f"/bot/profile?account_id={account['id']}", json=BAKERY)
        return dict(account)

    def customer(self, name: str = "Amina", *replicas: int) -> Customer:
        urls = [self.fleet.webhook_urls[n] for n in replicas or range(len(self.fleet.replicas))]
        sender = WebhookSender(urls, app_secret=self.fleet.keys.app_secret)
        return Customer(sender, f"3361{next(_numbers):07d}", name, business=self.business, sandbox=self.sandbox)

    async def post(self, payload: Any, *, replica: int = 0, **headers: str) -> httpx.Response:
        """One signed webhook, whatever comes of it; a header of "" is left out."""
        raw = payload if isinstance(payload, bytes) else encode_like_meta(payload)
        given = signed_headers(self.fleet.keys.app_secret, raw) | headers
        return await self.http.post(
            self.fleet.webhook_urls[replica], content=raw, headers={k: v for k, v in given.items() if v}
        )

    async def conversation_of(self, customer: Customer) -> dict[str, Any]:
        page = await self.api("GET", f"/conversations?account_id={self.account['id']}")
        (found,) = [c for c in page["items"] if c["contact"]["wa_id"] == customer.person.wa_id]
        return dict(found)

    async def until_idle(self) -> None:
        """Nothing pending in any mailbox, seen on the server that holds them."""
        async with asyncio.timeout(30):
            while (await self.api("GET", "/admin/queue"))["pending"]:
                await asyncio.sleep(0.02)


@pytest.fixture
async def world(fleet_and_database: tuple[LocalFleet, str]) -> AsyncIterator[World]:
    fleet, database_url = fleet_and_database
    sandbox = SandboxClient(fleet.sandbox.url)
    await sandbox.reset()
    await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
    database = await asyncpg.connect(database_url)
    async with httpx.AsyncClient(timeout=10) as http:
        world = World(fleet, sandbox, http, database)
        world.account = await world.new_account()
        try:
            yield world
            # A reset cuts what is under way; the next test must not inherit a send of unknown outcome.
            await world.until_idle()
        finally:
            await database.close()
            await close_http_client()
