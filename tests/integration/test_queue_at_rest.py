"""What was handled is in Redis' file no longer than until the file is rewritten."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.core.queue import Event
from app.localhost.valkey import CONFIG
from tests.support.queue_kit import Replicas, claim_one

ROOT = Path(__file__).resolve().parents[2]
TEXT = b"a-kumquat-for-amina"


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


def _on_disk(folder: Path) -> bool:
    return any(TEXT in _content(path) for path in folder.rglob("*"))


def _content(path: Path) -> bytes:
    """Nothing of what is no file, or not any more: the server removes some while they are looked at."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return b""


async def _rewritten(replicas: Replicas, folder: Path) -> None:
    """Once the file is rewritten, and the text gone from it."""
    await replicas.redis.bgrewriteaof()
    async with asyncio.timeout(20):
        while (state := await replicas.redis.info("persistence"))["aof_rewrite_in_progress"] or (
            state["aof_rewrite_scheduled"] or _on_disk(folder)
        ):
            await asyncio.sleep(0.02)
    assert state["aof_last_bgrewrite_status"] == "ok"


@pytest.fixture
async def folder(replicas: Replicas) -> AsyncIterator[Path]:
    """The server's, which writes at once, and in plain bytes."""
    settings = {"appendfsync": "always", "rdbcompression": "no"}
    before = {name: (await replicas.redis.config_get(name))[name] for name in settings}
    for name, value in settings.items():
        await replicas.redis.config_set(name, value)
    yield Path((await replicas.redis.config_get("dir"))["dir"])
    for name, value in before.items():
        await replicas.redis.config_set(name, value)


async def test_a_text_that_was_handled_does_not_outlive_the_next_rewrite(replicas: Replicas, folder: Path) -> None:
    queue = replicas.queue()
    await queue.put([_message(1, TEXT)])
    claim = await claim_one(queue)
    assert await queue.done(claim, 1)
    assert _on_disk(folder), "the file tells what happened"
    await _rewritten(replicas, folder)


@pytest.mark.parametrize("end", ["replayed", "dropped", "forgotten"])
async def test_a_dead_letter_that_is_gone_does_not_outlive_the_next_rewrite_beside_others(
    replicas: Replicas, folder: Path, end: str
) -> None:
    """A stream keeps what is deleted until all that is stored beside it is deleted."""
    queue = replicas.queue()
    await queue.dead_letters.add(_message(1, TEXT), "its own fault")
    for number in range(2, 20):
        await queue.dead_letters.add(_message(number, b"not about fruit"), "its own fault")
    letters, _ = await queue.dead_letters.page(limit=1)
    if end == "replayed":
        await queue.dead_letters.replay([letters[0].id])
        await queue.done(await claim_one(queue), 1)
    elif end == "dropped":
        await queue.dead_letters.drop([letters[0].id])
    else:
        assert await queue.dead_letters.forget(older_than_seconds=0, limit=1) == 1
    await _rewritten(replicas, folder)
    assert (await queue.stats()).dead == 18


def test_the_server_as_shipped_keeps_each_dead_letter_apart() -> None:
    """As the server of these tests does."""
    shipped = (ROOT / "infra/redis/redis.conf").read_text()
    (apart,) = re.findall(r"^stream-node-max-.*$", shipped, flags=re.MULTILINE)
    assert apart in CONFIG.splitlines()


def _message(number: int, text: bytes) -> Event:
    return Event(f"message:1:w{number}", f"message:1:{number}", b'{"text":"' + text + b'"}', immediate=True)
