"""A whole Chorus as real processes: servers, the sandbox and replicas, with their HTTP interface in a test's hands."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import httpx

from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.servers import EmbeddedServers, Valkey, remove_data, start_servers
from app.sandbox.client import SandboxClient
from app.sandbox.customers import Customer
from app.sandbox.delivery import WebhookSender
from app.sandbox.webhooks import Business, encode_like_meta, signed_headers
from tests.support.server_folder import server_folder

_numbers = count(1)


@contextmanager
def running_fleet(
    settings: Mapping[str, str], *, replicas: int = 3, valkey: type[Valkey] = Valkey
) -> Iterator[tuple[EmbeddedServers, LocalFleet]]:
    """Servers, the sandbox and replicas on data of their own, which is deleted afterwards."""
    folder = server_folder("chorus-world-")
    try:
        with start_servers(folder / "servers", durable=False, valkey=valkey) as servers:
            fleet = LocalFleet(
                folder,
                redis_url=servers.redis_url,
                database_url=servers.database_url,
                keys=Keys.kept_in(folder / "keys.json", TokenCipher.generate_key()),
                settings=settings,
                replicas=replicas,
            )
            fleet.start()
            try:
                yield servers, fleet
            finally:
                fleet.stop()
    finally:
        remove_data(folder / "servers")
        shutil.rmtree(folder, ignore_errors=True)


def mend(servers: EmbeddedServers, fleet: LocalFleet) -> None:
    """Both servers and every replica run."""
    servers.valkey.start()
    servers.postgres.start()
    for replica in fleet.replicas:
        replica.resume()
        if not replica.running:
            replica.start()


@dataclass
class World:
    """The replicas' HTTP interface, the sandbox, the database; and an account, once `new_account` has made one."""

    servers: EmbeddedServers
    fleet: LocalFleet
    sandbox: SandboxClient
    http: httpx.AsyncClient
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def business(self) -> Business:
        return Business(self.account["phone_number_id"])

    @property
    def operator(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.fleet.keys.admin}"}

    async def api(self, method: str, path: str, *, replica: int = 0, status: int = 200, **more: Any) -> Any:
        """As the operator, on one replica; the status is asserted. A refusal that is not wanted raises `HTTPError`."""
        headers = self.operator | more.pop("headers", {})
        response = await self.http.request(method, self.fleet.replicas[replica].url + path, headers=headers, **more)
        if status < 400:
            response.raise_for_status()
        assert response.status_code == status, response.text
        return response.json()

    async def new_account(self, *, profile: Mapping[str, object] = BAKERY, **changes: Any) -> dict[str, Any]:
        number = next(_numbers)
        body = {
            "name": f"Shop {number}", "slug": f"shop-{number}", "phone_number_id": f"9000{number:06d}",
            "access_token": "a-token-of-the-sandbox", "verify_token": f"verify-token-{number}", **changes,
        }  # fmt: skip
        account = await self.api("POST", "/accounts", json=body, status=201)
        await self.api("PUT", f"/bot/profile?account_id={account['id']}", json=dict(profile))
        return dict(account)

    def customer(self, name: str = "Amina", *replicas: int) -> Customer:
        urls = [self.fleet.webhook_urls[n] for n in replicas or range(len(self.fleet.replicas))]
        sender = WebhookSender(urls, app_secret=self.fleet.keys.app_secret)
        return Customer(sender, f"3361{next(_numbers):07d}", name, business=self.business, sandbox=self.sandbox)

    async def post(self, payload: object, *, replica: int = 0, **headers: str) -> httpx.Response:
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

    async def rows(self, query: str, *args: object) -> list[asyncpg.Record]:
        async with self._database() as connection:
            return list(await connection.fetch(query, *args))

    async def value(self, query: str, *args: object) -> Any:
        """Of the first row's first column; `None` without a row."""
        async with self._database() as connection:
            return await connection.fetchval(query, *args)

    async def execute(self, statements: str, *args: object) -> None:
        async with self._database() as connection:
            await connection.execute(statements, *args)

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own each time: the database may have been restarted in between."""
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def mend(self) -> None:
        """Start again what a test has left ended or hanging, also when it failed: the tests after it need all of it."""
        await asyncio.to_thread(mend, self.servers, self.fleet)

    async def until_idle(self) -> None:
        """Nothing pending in any mailbox, seen on the server that holds them."""
        async with asyncio.timeout(60):
            while (await self.api("GET", "/admin/queue"))["pending"]:
                await asyncio.sleep(0.02)
