"""A PgBouncer between the replicas and Postgres changes its mode while they work."""

from __future__ import annotations

import asyncio
import shutil

from tests.support.pgbouncer import pgbouncer

from .outages import Stream, answered_at
from .scenarios import Stage
from .world import ChaosWorld

IS_HERE = shutil.which("pgbouncer") is not None
SECONDS = 6.0


async def pooler_switched(world: ChaosWorld) -> None:
    """From sessions to transactions, where prepared statements of one connection meet another: everything is answered,
    and nothing becomes a dead letter."""
    stage = Stage(world)
    with pgbouncer(world.servers.database_url, pool_mode="session", pool_size=60) as bouncer:
        await world.replace_all({"DATABASE_URL": bouncer.url})
        try:
            before = (await world.sandbox.summary())["last_seq"]
            async with Stream(stage).flowing():
                await world.sandbox.wait(10, kind="send", processed="true", after=before)
                await bouncer.switch("transaction")
                await asyncio.sleep(SECONDS)  # time itself: a stream's length is its measure
            await answered_at(world, stage.messages)
            await stage.ends_well()
        finally:
            await world.replace_all({})
