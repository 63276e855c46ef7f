"""A crash that loses nothing which was acknowledged."""

from __future__ import annotations

import redis

from app.localhost.valkey import Valkey


def kill_once_written(valkey: Valkey) -> None:
    """SIGKILL, once all that it has acknowledged is in its file. With `appendfsync everysec` it may hold back what it
    writes for up to two seconds while the disk is busy with the sync before (redis.conf)."""
    with redis.Redis.from_url(valkey.url) as client:
        client.set("written", "", px=1)
        (in_the_file, _) = client.execute_command("WAITAOF", 1, 0, 10_000)
    assert in_the_file == 1
    valkey.kill()
