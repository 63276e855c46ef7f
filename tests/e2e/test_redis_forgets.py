"""REDIS_DURABILITY=none with whole replicas: Redis is killed again and again, keeps nothing, and no message is lost."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.core.http_client import close_http_client
from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.servers import Postgres
from app.sandbox import webhooks as wa
from app.sandbox.client import SandboxClient
from tests.support.forgetful_redis import ForgetfulValkey, forgetful_valkey

CUSTOMERS = 12
MESSAGES = 6
"""Of each customer."""
LOSSES = 3
MOST_REFUSED = CUSTOMERS
"""Deliveries, for which a machine that stood still had no time; they come again, as from Meta. While Redis is away a
dozen customers would be refused many times each."""


@dataclass
class Chorus:
    fleet: LocalFleet
    redis: ForgetfulValkey
    database_url: str


@pytest.fixture
def chorus(postgres: Postgres, store_url: str) -> Iterator[Chorus]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-forgets-"))
    with forgetful_valkey() as redis:
        fleet = LocalFleet(
            folder,
            redis_url=redis.url,
            database_url=store_url,
            keys=Keys.kept_in(folder / "keys.json", TokenCipher.generate_key()),
            replicas=2,
            settings={
                "REDIS_DURABILITY": "none",
                "INGEST_FALLBACK": "database",
                "DEBOUNCE_SECONDS": "0",
                "LEASE_SECONDS": "3",
                "SEND_RECONCILE_SECONDS": "1",
                "WHATSAPP_MESSAGES_PER_SECOND": "1000",
            },
        )
        fleet.start()
        try:
            yield Chorus(fleet, redis, store_url)
        finally:
            fleet.stop()
            shutil.rmtree(folder, ignore_errors=True)


async def test_a_redis_that_forgets_loses_no_message(chorus: Chorus) -> None:
    fleet = chorus.fleet
    sandbox = SandboxClient(fleet.sandbox.url)
    await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
    async with httpx.AsyncClient(timeout=10) as http:
        headers = {"Authorization": f"Bearer {fleet.keys.admin}"}
        account = (
            await http.post(
                f"{fleet.replicas[0].url}/accounts",
                headers=headers,
                json={
                    "name": "Shop", "slug": "shop", "phone_number_id": "900000000001",
                    "access_token": "a-token-of-the-sandbox", "verify_token": "a-verify-token",
                },
            )
        ).json()  # fmt: skip
        await http.put(f"{fleet.replicas[0].url}/bot/profile?account_id={account['id']}", headers=headers, json=BAKERY)
        full = (await http.get(f"{fleet.replicas[0].url}/health", headers=headers)).json()
        assert full["dependencies"]["redis"]["durability"] == "none"

        sent: dict[str, str] = {}
        refused = 0
        stopping = asyncio.Event()

        async def talk(customer: int) -> None:
            nonlocal refused
            person = wa.Person(f"3369900{customer:04d}", "Amina")
            for n in range(MESSAGES):
                wamid = f"wamid.{customer}-{n}"
                change = wa.messages_change(
                    wa.Business(account["phone_number_id"]), [wa.text(person, "Where?", id=wamid)], [person]
                )
                raw = wa.encode_like_meta(wa.envelope(change))
                signed = wa.signed_headers(fleet.keys.app_secret, raw)
                while (await http.post(fleet.webhook_urls[n % 2], content=raw, headers=signed)).status_code != 200:
                    refused += 1
                    assert refused <= MOST_REFUSED, "Postgres takes deliveries while Redis is away"
                sent[wamid] = person.wa_id

        async def lose() -> None:
            for loss in range(LOSSES):
                while len(sent) < (loss + 1) * CUSTOMERS * MESSAGES // (LOSSES + 1):
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(chorus.redis.kill)
                await asyncio.to_thread(chorus.redis.start)
            stopping.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(lose())
            for customer in range(CUSTOMERS):
                group.create_task(talk(customer))

    database = await asyncpg.connect(chorus.database_url)
    try:
        async with asyncio.timeout(60):
            while await database.fetchval("select count(*) from journal"):
                await asyncio.sleep(0.05)
        stored = await database.fetch("select wa_message_id from messages where direction = 'inbound'")
        assert {row["wa_message_id"] for row in stored} == set(sent)
        replies = [
            dict(row)
            for row in await database.fetch(
                "select r.reply_key, r.covers, r.state, r.error, r.fence, r.created_at, c.needs_human, k.wa_id "
                "from replies r join conversations c on c.id = r.conversation_id "
                "join contacts k on k.id = c.contact_id order by r.created_at"
            )
        ]
    finally:
        await database.close()
    covered = Counter(wamid for reply in replies for wamid in reply["covers"])
    assert covered == Counter(dict.fromkeys(sent, 1)), replies
    # A worker that lost Redis between the database's word and the send says so in Redis, which forgets it: then nothing
    # proves that nothing went out.
    unproven = [reply for reply in replies if reply["state"] != "sent"]
    assert all(reply["state"] == "failed" and reply["needs_human"] for reply in unproven), unproven
    outgoing = await sandbox.record(kind="send")
    await close_http_client()
    keys = Counter(send["callback_data"] for send in outgoing if send.get("callback_data"))
    assert not [key for key, count in keys.items() if count > 1], "no answer went out twice"
    assert {send["to"] for send in outgoing} | {reply["wa_id"] for reply in unproven} == set(sent.values())
