"""rediss://: the certificate is checked, by an authority of one's own if named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.core.queue import Event, Queue, QueuePolicy, QueueUnavailable
from app.core.redis.client import connect
from app.core.redis.door import Door
from tests.support.tls import running_fronts


@dataclass
class Tls:
    """In front of the session's Valkey."""

    port: int
    certificate: Path
    password: str

    def url(self, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://:{self.password}@127.0.0.1:{self.port}/0?{query}"


@pytest.fixture
def tls(valkey_url: str, tmp_path: Path) -> Iterator[Tls]:
    target = urlsplit(valkey_url)
    with running_fronts(tmp_path) as fronts:
        yield Tls(fronts.before(target.port or 0), fronts.authority, target.password or "")


async def _put(url: str) -> int:
    redis = connect(url)
    queue = Queue(Door(redis), Door(redis), policy=QueuePolicy(debounce_seconds=0, max_pending=10), namespace="test")
    try:
        return (await queue.put([Event("e", "m", b"x")])).accepted
    finally:
        await queue.aclose()
        await redis.aclose()


async def test_a_server_with_a_known_authority_is_spoken_to(tls: Tls) -> None:
    assert await _put(tls.url(ssl_ca_certs=tls.certificate)) == 1


async def test_a_server_nobody_vouches_for_is_not(tls: Tls) -> None:
    with pytest.raises(QueueUnavailable, match="certificate"):
        await _put(tls.url())


async def test_clear_text_is_not_spoken_to_a_server_that_wants_tls(tls: Tls) -> None:
    with pytest.raises(QueueUnavailable):
        await _put(tls.url().replace("rediss://", "redis://"))
