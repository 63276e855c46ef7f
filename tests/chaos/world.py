"""Everything one run breaks: servers, sandbox and three replicas as real processes, and our eyes on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from app.core.http_client import close_http_client
from app.localhost.fleet import LocalFleet
from app.localhost.servers import EmbeddedServers, Valkey
from app.sandbox.client import SandboxClient
from app.sandbox.webhooks import Business
from tests.support.world import World, running_fleet

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
    "EVENTS_ALLOW_PRIVATE": "true",
    "EVENTS_RETRY_CAP_SECONDS": "2",
}
"""Shorter than in production, so that a run sees many leases end; the ratios stay: a lease outlives a slow reply,
the wait for a proof outlives a lease."""
STATUSES_AFTER_SECONDS = {"sent_after_seconds": 0.01, "delivered_after_seconds": 0.02, "read_after_seconds": 0.05}
LOOK_SECONDS = 0.1
PREFIX = "chorus:{q0}:"


@dataclass
class ChaosWorld(World):
    redis: redis.asyncio.Redis = field(kw_only=True)
    settings: Mapping[str, str] = field(kw_only=True)
    logs: LogWatch = field(kw_only=True)
    businesses: list[Business] = field(default_factory=list)
    account_ids: dict[str, str] = field(default_factory=dict)
    patience: float = 1.0
    """Factor of the limits on time that scenarios hold the product to: more where tests share a busy machine."""

    @property
    def lease_seconds(self) -> float:
        return float(self.settings["LEASE_SECONDS"])

    @property
    def concurrency(self) -> int:
        return int(self.settings["WORKER_CONCURRENCY"])

    @property
    def has_fallback(self) -> bool:
        return "INGEST_FALLBACK" in self.settings

    async def add_business(self) -> Business:
        number = len(self.businesses) + 1
        account = await self.new_account(
            name=f"Orchard {number}", slug=f"orchard-{number}", phone_number_id=f"9100{number:06d}",
            access_token=ACCESS_TOKEN, verify_token=f"{VERIFY_TOKEN}{number}",
            profile=PROFILE | {"business_name": f"Orchard {number}"},
        )  # fmt: skip
        business = Business(account["phone_number_id"])
        self.businesses.append(business)
        self.account_ids[business.phone_number_id] = account["id"]
        return business

    async def change_profile(self, business: Business, **changes: Any) -> None:
        account_id = self.account_ids[business.phone_number_id]
        await self.api("PUT", f"/bot/profile?account_id={account_id}", json=changes)

    async def restart(self, number: int) -> None:
        """As an orchestrator does with a replica that ended. What it wrote is looked through first: a start may
        empty the file."""
        replica = self.fleet.replicas[number]
        self.logs.look(replica.log_file)
        await asyncio.to_thread(replica.start)

    async def replace_all(self, settings: Mapping[str, str]) -> None:
        """Each replica by one with these settings beside the fleet's."""
        for number, replica in enumerate(self.fleet.replicas):
            self.logs.look(replica.log_file)
            await asyncio.to_thread(self.fleet.replace_replica, number, settings)

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
) -> AsyncIterator[ChaosWorld]:
    chosen = SETTINGS | dict(settings or {})
    starting = running_fleet(chosen, replicas=replicas, valkey=valkey)
    servers, fleet = await asyncio.to_thread(starting.__enter__)
    try:
        async with _watched(servers, fleet, chosen) as world:
            for _ in range(businesses):
                await world.add_business()
            yield world
    finally:
        starting.__exit__(None, None, None)


class OneWorld:
    """For many scenarios, one after the other: `async with worlds.playing() as world`. One that fails may leave a
    replica dead or a fault in force, so the next one gets a new world."""

    def __init__(self, *, patience: float, **options: Any) -> None:
        self._patience = patience
        self._options = options
        self._stack = AsyncExitStack()
        self._world: ChaosWorld | None = None

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[ChaosWorld]:
        if self._world is None:
            self._world = await self._stack.enter_async_context(running_world(**self._options))
            self._world.patience = self._patience
        try:
            yield self._world
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Idempotent."""
        self._world = None
        await self._stack.aclose()


@asynccontextmanager
async def _watched(
    servers: EmbeddedServers, fleet: LocalFleet, settings: Mapping[str, str]
) -> AsyncIterator[ChaosWorld]:
    sandbox = SandboxClient(fleet.sandbox.url)
    await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
    await sandbox.change_behaviour(
        messages_per_second=0, shuffle=True, duplicate_rate=0.1, callback_timeout_seconds=2,
        redelivery_seconds=[0.0, 0.2, 1.0, *[2.0] * 60], **STATUSES_AFTER_SECONDS,
    )  # fmt: skip
    server = redis.asyncio.Redis.from_url(
        servers.redis_url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(ConstantBackoff(0.1), 30)
    )
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            yield ChaosWorld(servers, fleet, sandbox, http, redis=server, settings=settings, logs=LogWatch())
    finally:
        await server.aclose()
        await close_http_client()
