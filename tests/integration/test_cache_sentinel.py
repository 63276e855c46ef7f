"""The shared cache on a primary that Sentinel names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, urlsplit

import pytest
import redis

from app.core.cache import Cache, join_fleet
from app.sandbox.processes import ChildProcess, free_port

CONFIG = """
bind 127.0.0.1
port {port}
sentinel monitor primary 127.0.0.1 {primary} 1
sentinel auth-pass primary {password}
"""


@pytest.fixture
def sentinel_url(server_location, valkey_url) -> Iterator[str]:
    primary = urlsplit(valkey_url)
    port = free_port()
    folder = server_location.server_folder("sentinel")
    config = folder / "sentinel.conf"
    config.write_text(CONFIG.format(port=port, primary=primary.port, password=primary.password))
    config.chmod(0o666)
    process = ChildProcess(
        "Valkey Sentinel",
        [server_location.valkey_server, config, "--sentinel"],
        cwd=folder,
        env={"LC_ALL": "C"},
        log_file=server_location.folder / "sentinel.log",
        pid_file=server_location.folder / "sentinel.pid",
        account=server_location.account,
    )
    process.start()
    try:
        deadline = time.monotonic() + 10
        with redis.Redis(port=port) as client:
            while time.monotonic() < deadline:
                with suppress(redis.RedisError):
                    if client.execute_command("SENTINEL CKQUORUM primary"):
                        break
                time.sleep(0.02)
        yield f"redis+sentinel://:{quote(primary.password or '')}@127.0.0.1:{port}/primary/0"
    finally:
        process.stop()


async def test_replicas_share_load_and_forget(sentinel_url):
    loads = 0

    async def source() -> int:
        nonlocal loads
        loads += 1
        return loads

    a, b = Cache(), Cache()
    async with join_fleet(a, sentinel_url, namespace="test"), join_fleet(b, sentinel_url, namespace="test"):
        assert a.stats().trusted
        assert b.stats().trusted
        assert [await cache.get_or_fetch("k:1", source, ttl_seconds=300) for cache in (a, b)] == [1, 1]
        await a.invalidate_everywhere("k:*", "*")
        assert await a.get_or_fetch("k:1", source, ttl_seconds=300) == 2
