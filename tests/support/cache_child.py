"""One replica's shared cache, a process of its own: reads, edits and relays as a replica does, and stops where told.

    python -m tests.support.cache_child <redis url> <database url>

One JSON object a line: `{"id", "do", …}` in, `{"id", "answer"}` or `{"event"}` out.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import uvloop

from app.adapters.postgres_store import PostgresStore
from app.core.cache import default_cache, join_fleet, write_fence
from app.core.fleet.lease import Lease
from app.core.redis.client import connect
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.models import BotProfile
from app.services.account_service import AccountService
from app.services.cache_relay import CacheRelay
from tests.support.cold_reads import worst_cold_read

NAMESPACE = "test"
RELAY_LEASE_SECONDS = 6
COLD_SOURCE_SECONDS = 0.02
READERS = 4
MOST_EDITS_AT_ONCE = 8
"""The store turns callers away who wait too long for one of its connections."""


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class ChildReplica:
    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._accounts = AccountService(store, TokenCipher([TokenCipher.generate_key()]))

    async def ready(self) -> bool:
        return default_cache.stats().trusted

    async def stats(self) -> dict[str, Any]:
        return asdict(default_cache.stats())

    async def read(self, account: str) -> str:
        return (await self._accounts.profile(account)).hours

    async def edit(self, account: str, hours: str) -> None:
        await self._accounts.update_profile(account, {"hours": hours})

    async def commit_and_hang(self, account: str, hours: str) -> None:
        """An edit whose process will never get round to the invalidation."""
        async with write_fence(f"bot_profile:account_{account}"):
            await self._store.update_profile(account, {"hours": hours})
            say(event="committed")
            await asyncio.Event().wait()

    async def load_and_hang(self, account: str) -> None:
        """A read whose process will never get its answer from the database."""

        async def source() -> BotProfile:
            say(event="loading")
            await asyncio.Event().wait()
            raise AssertionError

        key = f"bot_profile:account_{account}"
        await default_cache.get_or_fetch(key, source, ttl_seconds=300, type=BotProfile)

    async def worst_cold_read(self, reads: int) -> float:
        """Seconds, of keys that no replica has, from a source that takes `COLD_SOURCE_SECONDS`."""

        async def source() -> str:
            await asyncio.sleep(COLD_SOURCE_SECONDS)
            return "cold"

        return await worst_cold_read(lambda key: default_cache.get_or_fetch(key, source, ttl_seconds=300), reads)

    async def storm(self, accounts: Sequence[str], edits: int, mark: str) -> int:
        """As many edits at once, with readers beside; how often something was read."""
        writing = True
        reads = 0
        turn = asyncio.Semaphore(MOST_EDITS_AT_ONCE)

        async def reader() -> None:
            nonlocal reads
            while writing:
                await self.read(random.choice(accounts))
                reads += 1
                await asyncio.sleep(0)

        async def edit(number: int) -> None:
            async with turn:
                await self.edit(accounts[number % len(accounts)], f"{mark}-{number}")

        readers = [asyncio.create_task(reader()) for _ in range(READERS)]
        await asyncio.gather(*(edit(number) for number in range(edits)))
        writing = False
        await asyncio.gather(*readers)
        return reads


async def serve(redis_url: str, database_url: str) -> None:
    store = PostgresStore(database_url)
    redis = connect(redis_url)
    replica = ChildReplica(store)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    holder = f"{time.monotonic_ns()}"
    async with join_fleet(default_cache, redis_url, namespace=NAMESPACE):
        lease = Lease(Door(redis), key=f"{NAMESPACE}:relay", holder=holder, seconds=RELAY_LEASE_SECONDS)
        tasks = {asyncio.create_task(CacheRelay(store, default_cache.invalidate_everywhere, lease).run())}

        async def answer(order: dict[str, Any]) -> None:
            number, do = order.pop("id"), order.pop("do")
            say(id=number, answer=await getattr(replica, do)(**order))

        while line := await reader.readline():
            tasks.add(asyncio.create_task(answer(json.loads(line))))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await redis.aclose()
    await store.aclose()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
