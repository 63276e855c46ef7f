"""What was handled is in Redis' file no longer than until the file is rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.core.queue import Event
from tests.support.queue_kit import Replicas

TEXT = b"a-kumquat-for-amina"


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


def _on_disk(folder: Path) -> bool:
    return any(TEXT in path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_text_that_was_handled_does_not_outlive_the_next_rewrite(replicas: Replicas) -> None:
    queue = replicas.queue()
    folder = Path((await replicas.redis.config_get("dir"))["dir"])
    await queue.put([Event("message:1:w", "message:1:2", b'{"text":"' + TEXT + b'"}', immediate=True)])
    (claim,) = await queue.claim(1)
    assert await queue.done(claim, 1)
    await replicas.redis.config_set("appendfsync", "always")
    assert _on_disk(folder), "the file tells what happened"
    await replicas.redis.bgrewriteaof()
    async with asyncio.timeout(20):
        while (state := await replicas.redis.info("persistence"))["aof_rewrite_in_progress"] or (
            state["aof_rewrite_scheduled"] or _on_disk(folder)
        ):
            await asyncio.sleep(0.02)
    assert state["aof_last_bgrewrite_status"] == "ok"
    await replicas.redis.config_set("appendfsync", "everysec")
