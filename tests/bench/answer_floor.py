"""The least that an answer costs: the same queue scripts, the same SQL calls, the same three exchanges, nothing else.

No webhook, no checks, no circuits, no cache, no log: what a message needs is known beforehand.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from itertools import count
from typing import Any

import asyncpg
import orjson
import uvloop

from app.core.fleet.pacing import PACE
from app.core.http_client import get_http_client, make_room_for
from app.core.queue import Claim, Event, Queue, QueuePolicy
from app.core.redis.door import Door
from tests.bench.child import answer_commands

CONCURRENCY = 50
SQL_CONNECTIONS = 10
QUESTION = "Do you take cards?"
PROMPT = "You answer the customers of a bakery on WhatsApp, briefly and in their language. " * 12
GENERATION = {"temperature": 0.3, "maxOutputTokens": 1000}


class Floor:
    def __init__(self) -> None:
        self._numbers = count()
        self._accounts: list[str] = []
        self._base_url = ""

    async def open(self, accounts: int, stand_in: str) -> None:
        url = os.environ["REDIS_URL"]
        self._base_url = stand_in
        make_room_for(CONCURRENCY)
        self._redis = Door.to(url, name="floor", max_connections=CONCURRENCY + 20)
        waiting = Door.to(url, name="floor-wait")
        self._queue = Queue(
            self._redis, waiting, policy=QueuePolicy(debounce_seconds=0, max_pending=100_000), namespace="floor"
        )
        self._sql = await asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=1, max_size=SQL_CONNECTIONS, reset=_keep
        )
        self._client = await get_http_client()
        for number in range(accounts):
            account = await self._call(
                "create_account", id=str(uuid.uuid4()), name=f"Floor {number}", slug=f"floor-{number}",
                phone_number_id=f"2063405423{number:05d}", access_token="token", verify_token=f"verify-{number}",
                phone_number=None, bot_auto_on=True, owner_id=None, app_id=None,
            )  # fmt: skip
            self._accounts.append(account["id"])

    async def run(self, messages: int) -> None:
        """Puts and answers so many messages, each of another customer."""
        handled = 0
        tasks: set[asyncio.Task[None]] = set()
        putting = asyncio.create_task(self._put_all(messages))
        while handled + len(tasks) < messages or tasks:
            free = CONCURRENCY - len(tasks)
            claims = await self._queue.claim(free) if free else []
            tasks |= {asyncio.create_task(self._answer(claim)) for claim in claims}
            if tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                handled += len(done)
                for task in done:
                    task.result()
            elif not claims:
                await self._queue.wait()
        await putting

    async def _put_all(self, messages: int) -> None:
        for first in range(0, messages, 10):
            await asyncio.gather(*(self._put(n) for n in range(first, min(messages, first + 10))))

    async def _put(self, n: int) -> None:
        account, serial = n % len(self._accounts), next(self._numbers)
        peer, wamid = f"3366{n:07d}", f"wamid.floor{serial:012d}"
        payload = {"account": account, "peer": peer, "wamid": wamid}
        await self._queue.put([Event(wamid, f"message:{account}:{peer}", orjson.dumps(payload))])

    async def _answer(self, claim: Claim) -> None:
        asked = orjson.loads(claim.events[0].payload)
        account, wamid, peer = self._accounts[asked["account"]], asked["wamid"], asked["peer"]
        message = {
            "wa_message_id": wamid, "type": "text", "text": QUESTION, "timestamp": "2026-11-27T12:00:00+00:00",
            "payload": {"id": wamid, "type": "text", "text": {"body": QUESTION}},
        }  # fmt: skip
        opening = {
            "key": wamid, "covers": [wamid], "fence": claim.token, "limit": 30, "characters": 4097, "minutes": 10,
        }  # fmt: skip
        await self._call(
            "record_inbound", account_id=account, wa_id=peer, user_id=None, name="Ada", messages=[message],
            other_wa_id=None, opening=opening,
        )  # fmt: skip
        typing = {"messaging_product": "whatsapp", "status": "read", "message_id": wamid}
        showing = asyncio.create_task(self._post("/v26.0/1/messages", typing | {"typing_indicator": {"type": "text"}}))
        prompt = {
            "systemInstruction": {"parts": [{"text": PROMPT}]},
            "contents": [{"role": "user", "parts": [{"text": QUESTION}]}], "generationConfig": GENERATION,
        }  # fmt: skip
        said = await self._post("/v1beta/models/m:generateContent", prompt)
        text = said["candidates"][0]["content"]["parts"][0]["text"]
        await self._queue.refresh(claim)
        await self._redis.run(PACE, [f"floor:{{pace:{account}}}:"], ["ask", peer, 1000, 60, 100_000, 45, 3600])
        await self._call(
            "save_and_begin", key=wamid, fence=claim.token, covers=[wamid], body=text, spent_id=str(uuid.uuid4()),
            input_tokens=400, output_tokens=20, apart=True, parts=1, text=text, attempt=str(uuid.uuid4()),
        )  # fmt: skip
        send = {
            "messaging_product": "whatsapp", "recipient_type": "individual", "to": peer, "type": "text",
            "text": {"body": text, "preview_url": False}, "biz_opaque_callback_data": f"{wamid}#0",
        }  # fmt: skip
        sent = await self._post("/v26.0/1/messages", send)
        await self._call("complete_part", key=wamid, part=0, wamid=sent["messages"][0]["id"], last=True)
        await self._queue.done(claim)
        await showing

    async def _call(self, function: str, **p: Any) -> Any:
        query = f"select public.chorus_{function}($1::jsonb)"
        return orjson.loads(await self._sql.fetchval(query, orjson.dumps(p).decode()))["ok"]

    async def _post(self, path: str, payload: dict[str, Any]) -> Any:
        headers = {"content-type": "application/json", "authorization": "Bearer token"}
        response = await self._client.post(self._base_url + path, content=orjson.dumps(payload), headers=headers)
        return orjson.loads(response.content)


async def _keep(_connection: object) -> None:
    """As the store's connections, which need no reset."""


def main() -> None:
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    floor = Floor()

    def open_(accounts: int, stand_in: str) -> dict[str, Any]:
        loop.run_until_complete(floor.open(accounts, stand_in))
        return {}

    def run(messages: int) -> dict[str, Any]:
        cpu, started = time.process_time(), time.monotonic()
        loop.run_until_complete(floor.run(messages))
        return {"cpu": time.process_time() - cpu, "seconds": time.monotonic() - started}

    answer_commands({"open": open_, "run": run})


if __name__ == "__main__":
    main()
