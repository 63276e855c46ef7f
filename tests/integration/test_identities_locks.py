"""Calls about one person at the same moment wait for each other in one order: none is chosen as a deadlock's victim."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import asyncpg

ROUNDS = 8
"""Before contacts were locked ahead of conversations, a round had a deadlock on average."""


async def test_ids_that_meet_in_every_order_at_once_end_in_no_deadlock(store_url: str) -> None:
    async with asyncpg.create_pool(store_url, min_size=10, max_size=10) as pool:

        async def call(operation: str, **p: Any) -> None:
            await pool.fetchval(f"select public.chorus_{operation}($1::jsonb)", json.dumps(p))

        for _ in range(ROUNDS):
            account = str(uuid.uuid4())
            await call(
                "create_account", id=account, name="n", slug=account, phone_number_id=str(uuid.uuid4().int),
                access_token="x", verify_token="v", bot_auto_on=True,
            )  # fmt: skip
            ids = [("331", None), (None, "FR.1"), ("331", "FR.1")] * 8
            await asyncio.gather(*(call("record_inbound", **inbound(account, *pair, n)) for n, pair in enumerate(ids)))
            left = "select count(*), sum(unread_count) from conversations where account_id = $1::uuid"
            assert tuple(await pool.fetchrow(left, account)) == (1, len(ids))


def inbound(account: str, wa_id: str | None, user_id: str | None, n: int) -> dict[str, Any]:
    message = {"wa_message_id": f"wamid.{n}", "type": "text", "text": "t", "timestamp": "2026-11-27T00:00:00Z"}
    return {
        "account_id": account, "wa_id": wa_id, "user_id": user_id, "name": f"Name {n % 3}",
        "messages": [message | {"payload": {}}],
    }  # fmt: skip
