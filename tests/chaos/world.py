"""Everything one run breaks: servers, sandbox and three replicas as real processes, and our eyes on each of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from app.core.http_client import close_http_client
from app.core.secrets import TokenCipher
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.servers import EmbeddedServers, Valkey, remove_data, start_servers
from app.sandbox.client import SandboxClient
from app.sandbox.webhooks import Business

from .logs import SECRET_WORD, LogWatch

FALLBACK_TEXT = f"A colleague will tell you about the {SECRET_WORD} tart."
PROFILE = {
    "business_name": "Orchard",
    "knowledge_base": f"The {SECRET_WORD} tart costs 4 EUR.",
    "fallback_text": FALLBACK_TEXT,
}
ACCESS_TOKEN = "chaos-access-token"
VERIFY_TOKEN = "chaos-verify-"
SETTINGS = {
    "LEASE_SECONDS": "3",
    "DEBOUNCE_SECONDS": "0.15",
    "SEND_RECONCILE_SECONDS": "4",
    "WORKER_CONCURRENCY": "50",
    "WHATSAPP_MESSAGES_PER_SECOND": "1000",
}
"""Shorter than in production, so that a run sees many leases end; the ratios stay: a lease outlives a slow reply,
the wait for a proof outlives a lease."""
LOOK_SECONDS = 0.1
PREFIX = "chorus:{q0}:"


@dataclass
class World:
    servers: EmbeddedServers
    fleet: LocalFleet
    sandbox: SandboxClient
    http: httpx.AsyncClient
    redis: redis.asyncio.Redis
    settings: Mapping[str, str]
    logs: LogWatch
    businesses: list[Business] = field(default_factory=list)
    account_ids: dict[str, str] = field(default_factory=dict)

    @property
    def lease_seconds(self) -> float:
        return float(self.settings["LEASE_SECONDS"])

    @property
    def concurrency(self) -> int:
        return int(self.settings["WORKER_CONCURRENCY"])

    @property
    def has_fallback(self) -> bool:
        return "INGEST_FALLBACK" in self.settings

    async def api(self, method: str, path: str, *, replica: int = 0, **more: Any) -> Any:
        """As the operator; anything but success raises."""
        response = await self.http.request(
            method,
            self.fleet.replicas[replica].url + path,
            headers={"Authorization": f"Bearer {self.fleet.keys.admin}"},
            **more,
        )
        response.raise_for_status()
        return response.json()

    async def add_business(self) -> Business:
        number = len(self.businesses) + 1
        body = {
            "name": f"Orchard {number}", "slug": f"orchard-{number}", "phone_number_id": f"9100{number:06d}",
            "access_token": ACCESS_TOKEN, "verify_token": f"{VERIFY_TOKEN}{number}",
        }  # fmt: skip
        account = await self.api("POST", "/accounts", json=body)
        profile = PROFILE | {"business_name": f"Orchard {number}"}
        await self.api("PUT", f"/bot/profile?account_id={account['id']}", json=profile)
        business = Business(body["phone_number_id"])
        self.businesses.append(business)
        self.account_ids[business.phone_number_id] = account["id"]
        return business

    async def change_profile(self, business: Business, **changes: Any) -> None:
        account_id = self.account_ids[business.phone_number_id]
        await self.api("PUT", f"/bot/profile?account_id={account_id}", json=changes)

    async def rows(self, query: str, *args: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            return list(await connection.fetch(query, *args))
        finally:
            await connection.close()

    async def restart(self, number: int) -> None:
        """As an orchestrator does with a replica that ended. What it wrote is looked through first: a start may
        empty the file."""
        replica = self.fleet.replicas[number]
        self.logs.look(replica.log_file)
        await asyncio.to_thread(replica.start)

    def secrets(self) -> list[str]:
        keys = self.fleet.keys
        passwords = [urlsplit(url).password or "" for url in (self.servers.redis_url, self.servers.database_url)]
        own = [keys.admin, keys.app_secret, keys.encryption, keys.verify_token]
        return [*own, ACCESS_TOKEN, VERIFY_TOKEN, *passwords]

    async def until_quiet(self, timeout_seconds: float) -> float:
        """Nothing pending in any mailbox and no status on its way; the seconds that took. Raises `TimeoutError`."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(timeout_seconds):
            quiet = 0
            while quiet < 3:  # a status may be between the sandbox and the queue
                await asyncio.sleep(LOOK_SECONDS)
                depth = int(await self.redis.get(f"{PREFIX}depth") or 0)
                quiet = 0 if depth or await self.statuses_on_their_way() else quiet + 1
        return loop.time() - started

    async def statuses_on_their_way(self) -> int:
        overview = (await self.http.get(f"{self.sandbox.url}/sandbox")).json()
        return int(overview["statuses"]["outstanding"])


@asynccontextmanager
async def running_world(
    *,
    replicas: int = 3,
    businesses: int = 1,
    settings: Mapping[str, str] | None = None,
    valkey: type[Valkey] = Valkey,
) -> AsyncIterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-chaos-"))
    folder.chmod(0o711)
    chosen = SETTINGS | dict(settings or {})
    try:
        with start_servers(folder / "servers", durable=False, valkey=valkey) as servers:
            fleet = LocalFleet(
                folder,
                redis_url=servers.redis_url,
                database_url=servers.database_url,
                keys=Keys.kept_in(folder / "keys.json", TokenCipher.generate_key()),
                settings=chosen,
                replicas=replicas,
            )
            await asyncio.to_thread(fleet.start)
            try:
                async with _watched(servers, fleet, chosen) as world:
                    for _ in range(businesses):
                        await world.add_business()
                    yield world
            finally:
                fleet.stop()
    finally:
        remove_data(folder / "servers")
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _watched(servers: EmbeddedServers, fleet: LocalFleet, settings: Mapping[str, str]) -> AsyncIterator[World]:
    sandbox = SandboxClient(fleet.sandbox.url)
    await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
    await sandbox.change_behaviour(
        messages_per_second=0, shuffle=True, duplicate_rate=0.1, callback_timeout_seconds=2, sent_after_seconds=0.01,
        redelivery_seconds=[0.0, 0.2, 1.0, *[2.0] * 60],
    )  # fmt: skip
    server = redis.asyncio.Redis.from_url(
        servers.redis_url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(ConstantBackoff(0.1), 30)
    )
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            yield World(servers, fleet, sandbox, http, server, settings, LogWatch())
    finally:
        await server.aclose()
        await close_http_client()
