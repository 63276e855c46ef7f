"""The only module that builds redis-py clients; everything else gets one handed in.

redis-py 8 retries commands ten times by default, which turns one lost reply into two entries, and a refused
connection into 3.5 s. Here nothing is retried behind anybody's back: whoever calls decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.errors import Unavailable

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
"""What a Redis that is away, frozen or restarting makes redis-py raise."""

CLOSE_SECONDS = 1.0
SENTINEL_SECONDS = 0.5
SPARE_CONNECTIONS = 20

__all__ = [
    "UNREACHABLE", "NoScriptError", "Pipeline", "Redis", "RedisConnectionError", "RedisError", "RedisTimeoutError",
    "ResponseError", "Script", "Servers", "Subscription", "configured", "connect", "describe",
]  # fmt: skip


def connect(
    url: str, *, timeout_seconds: float | None, max_connections: int = 20, name: str = "chorus", protocol: int = 3
) -> Redis:
    """A client that fails within `timeout_seconds` and never retries. It connects on first use.

    A blocking command needs a client of its own whose timeout exceeds the block time: redis-py applies the
    socket timeout to blocking reads too, and one at or above it never returns. `timeout_seconds=None` is for callers
    that bound every call themselves.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
        client_name=name,
        protocol=protocol,
        decode_responses=False,
    )


async def describe(client: Redis) -> dict[str, Any]:
    """One round trip: role, persistence and eviction policy, for health and `chorus doctor`. Raises `Unavailable`."""
    try:
        info = await client.info("everything")
    except (RedisError, OSError) as exc:
        raise Unavailable("redis", str(exc)) from exc
    return {
        "version": info.get("valkey_version") or info.get("redis_version"),
        "role": info.get("role"),
        "persistence": "aof" if info.get("aof_enabled") else "rdb or none",
        "aof_last_write": info.get("aof_last_write_status"),
        "eviction": info.get("maxmemory_policy"),
        "used_memory_bytes": info.get("used_memory"),
        "maxmemory_bytes": info.get("maxmemory"),
        "connected_replicas": info.get("connected_slaves"),
    }


async def configured(client: Redis, name: str) -> str | None:
    """A server setting, `None` where CONFIG is not allowed (managed providers). Raises `Unavailable`."""
    try:
        values = {_text(key or ""): value for key, value in (await client.config_get(name)).items()}
    except ResponseError:
        return None
    except (RedisError, OSError) as exc:
        raise Unavailable("redis", str(exc)) from exc
    value = values.get(name)
    return None if value is None else _text(value)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Script:
    """One Lua script from `core/lua/`, run by its digest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = resources.files("app.core").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Redis, keys: Sequence[str | bytes], args: Sequence[Any]) -> Any:
        """Run it. A server that does not know the digest (restart, flush) has run nothing, so sending the source
        then is no repetition."""
        try:
            return await self.evalsha(client, keys, args)
        except NoScriptError:
            return await client.eval(self.source, len(keys), *keys, *args)

    def evalsha(self, client: Redis | Pipeline, keys: Sequence[str | bytes], args: Sequence[Any]) -> Awaitable[Any]:
        """Queue it on a pipeline, or start it on a client, by digest only: the caller handles `NoScriptError`."""
        execute: Any = client.execute_command  # without the detours of `client.evalsha`
        started: Awaitable[Any] = execute("EVALSHA", self.sha, len(keys), *keys, *args)
        return started


class Subscription:
    """One channel on one connection of its own, which nobody repairs: what it raises ends it, and whoever subscribes
    anew knows that something may have been missed. (redis-py's PubSub reconnects without a sign.)"""

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    @classmethod
    async def open(cls, client: Redis, channel: str) -> Subscription:
        """Returns when the server has acknowledged it. `client` must speak RESP2, where messages are replies."""
        pool: Any = client.connection_pool
        connection: Any = await pool.get_connection()
        subscription = cls(pool, connection)
        try:
            await connection.send_command("SUBSCRIBE", channel)
            await connection.read_response(timeout=math.inf)
        except BaseException:
            await subscription.aclose()
            raise
        return subscription

    async def receive(self) -> bytes | None:
        """The next message; `None` for the answer to a ping."""
        reply = await self._connection.read_response(timeout=math.inf)
        return reply[2] if reply[0] == b"message" else None

    async def ping(self) -> None:
        if not self._connection.is_connected:
            raise RedisConnectionError("the subscription is closed")
        await self._connection.send_command("PING", check_health=False)

    async def aclose(self) -> None:
        await self._connection.disconnect(nowait=True)
        await self._pool.release(self._connection)


class Servers:
    """One server, a primary found by Sentinel, or a cluster; by the scheme of the URL:

        redis:// rediss:// unix://                                     one server
        redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]
        redis+cluster://[user:password@]host:port[,host:port…]         rediss+cluster for TLS

    `commands` runs what carries keys, wherever they live; it has no time limit and no retry of its own. Whoever holds
    one of its `slots` gets a connection; a few are kept for what must not wait. More slots would not be faster: one
    process keeps a handful of connections busy at most, and opening them costs a millisecond of its time each.
    """

    def __init__(self, url: str, *, name: str, slots: int = 16) -> None:
        self.slots = asyncio.Semaphore(slots)
        max_connections = slots + SPARE_CONNECTIONS
        self._name = name
        self._url = urlsplit(url)
        self.is_cluster = self._url.scheme.endswith("+cluster")
        self._direct: dict[str, Redis] = {}
        self._sentinels: list[Redis] = []
        self.commands: Any
        if self.is_cluster:
            self.commands = RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in _hosts(self._url.netloc)],
                username=self._username, password=self._password, ssl=self._url.scheme.startswith("rediss"),
                socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0),
                max_connections=max_connections, client_name=name,
            )  # fmt: skip
        elif self._url.scheme == "redis+sentinel":
            self.commands = self._by_sentinel(3, max_connections)
        else:
            self.commands = connect(url, timeout_seconds=None, max_connections=max_connections, name=name)

    async def direct(self, key: str) -> Redis:
        """A client of the very server that owns `key` at this moment, speaking RESP2: for subscriptions and scans."""
        url = self._url.geturl()
        if self.is_cluster:
            # Asked through the cluster, so that a fail-over since is known before the owner is looked up.
            await self.commands.exists(key)
            node = self.commands.get_node_from_key(key)
            credentials = self._url.netloc.rpartition("@")[0]
            at = f"{credentials}@" if credentials else ""
            url = f"{self._url.scheme.removesuffix('+cluster')}://{at}{node.host}:{node.port}"
        if url not in self._direct:
            if self._url.scheme == "redis+sentinel":
                self._direct[url] = self._by_sentinel(2, 20)
            else:
                self._direct[url] = connect(url, timeout_seconds=None, name=f"{self._name}-channel", protocol=2)
        return self._direct[url]

    async def aclose(self) -> None:
        for client in (self.commands, *self._direct.values(), *self._sentinels):
            # A server that hangs does not keep us from leaving.
            with suppress(OSError, RedisError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.aclose()

    def _by_sentinel(self, protocol: int, max_connections: int) -> Redis:
        service, _, database = self._url.path.strip("/").partition("/")
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            _hosts(self._url.netloc),
            sentinel_kwargs={"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS},
        )
        self._sentinels += sentinel.sentinels
        primary: Redis = sentinel.master_for(
            service, username=self._username, password=self._password, db=int(database or 0), socket_timeout=None,
            socket_connect_timeout=None, retry=Retry(NoBackoff(), 0), max_connections=max_connections,
            client_name=self._name, protocol=protocol,
        )  # fmt: skip
        return primary

    @property
    def _username(self) -> str | None:
        return unquote(self._url.username) if self._url.username else None

    @property
    def _password(self) -> str | None:
        return unquote(self._url.password) if self._url.password else None


def _hosts(netloc: str) -> list[tuple[str, int]]:
    places = [place.rpartition(":") for place in netloc.rpartition("@")[2].split(",")]
    return [(host, int(port)) for host, _, port in places]
