"""redis-py's clients, built. Only `door.py` uses them; tests and benchmarks look at a server through them as well.

redis-py 8 retries commands ten times by default, which turns one lost reply into two entries, and a refused connection
into 3.5 s. Here nothing is retried: the caller decides.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig

from app.core.redis.corrections import PatientPool, PlainRedis, any_of, behind_sentinel, honest, on_cluster
from app.core.redis.url import RedisUrl, Topology

__all__ = ["Redis", "connect"]

_DRIVER = DriverInfo()
_NO_LIMITS = {"socket_timeout": None, "socket_connect_timeout": None}
"""Of redis-py's own: the door's hold instead (corrections.py)."""


def connect(
    url: str, *, max_connections: int = 20, name: str = "chorus", protocol: int = 3, any_node: bool = False
) -> Redis:
    """A client that never retries and connects on first use. It waits for one of the `max_connections` (first come,
    first served) and for the answer without a limit: the door bounds every call, opening a connection is bounded here.
    `url`: see url.py; on a Cluster the client routes by key and follows redirections, behind Sentinel it finds the
    primary.

    `any_node`: on a Cluster, a plain client to one node, as subscriptions need it; every node passes every message on.
    """
    where = RedisUrl.parse(url)
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "max_connections": max_connections,
        "client_name": name,
        "protocol": protocol,
        # Looked up once: redis-py reads its own package's metadata for every connection, some milliseconds.
        "driver_info": _DRIVER,
        # With them on (redis-py's default) the pool hands out connections that the server has closed: after a restart,
        # or an idle timeout on the way, one call would fail for each of them.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    options |= {**parse_url(where.plain), **_NO_LIMITS}
    if where.topology is Topology.SENTINEL:
        return behind_sentinel(where, options)
    if where.topology is Topology.CLUSTER and not any_node:
        return on_cluster(where, options)
    connection: Any = honest(options.pop("connection_class", Connection))
    if where.topology is Topology.CLUSTER:
        connection = any_of(where.hosts, connection)
    return PlainRedis.from_pool(PatientPool(connection_class=connection, **options))
