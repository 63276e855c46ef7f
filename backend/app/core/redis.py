"""The only module that builds redis-py clients; everything else gets one handed in.

redis-py 8 retries commands ten times by default, which turns one lost reply into two entries, and a refused
connection into 3.5 s. Here nothing is retried behind anybody's back: whoever calls decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Sequence
from importlib import resources
from typing import Any, TypeVar, cast

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from app.core.errors import Unavailable
from app.core.redis_clients import ClusterClient, PatientPool, any_of, behind_sentinel, honest, on_cluster
from app.core.redis_info import about_cluster, about_server
from app.core.redis_url import RedisUrl, Topology

T = TypeVar("T")

_DRIVER = DriverInfo()

CANCEL_AGAIN_SECONDS = 0.05
OPEN_SECONDS = 1.0

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
"""What a Redis that is away, frozen or restarting makes redis-py raise."""

__all__ = [
    "UNREACHABLE", "Express", "NoScriptError", "Pipeline", "Redis", "RedisConnectionError", "RedisError",
    "RedisTimeoutError", "ResponseError", "Script", "Subscription", "configured", "connect", "describe",
    "is_cluster", "is_single", "round_trip_seconds", "run_together", "scan", "within",
]  # fmt: skip


def connect(
    url: str,
    *,
    timeout_seconds: float | None,
    max_connections: int = 20,
    name: str = "chorus",
    protocol: int = 3,
    any_node: bool = False,
) -> Redis:
    """A client that never retries and connects on first use. Each step of a command fails within `timeout_seconds`: to
    wait for one of the `max_connections` (first come, first served), to connect, to get the answer. `url`: see
    core/redis_url.py; on a Cluster it routes by key and follows redirections, behind Sentinel it finds the primary.

    A blocking command needs a client of its own whose timeout exceeds the block time: redis-py applies the
    socket timeout to blocking reads too, and one at or above it never returns. `timeout_seconds=None` is for callers
    that bound every call themselves. A subscription on a Cluster needs
    `any_node`: a plain client to whichever node answers, which is enough since every node passes every message on.
    """
    where = RedisUrl.parse(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": max_connections,
        "wait_seconds": timeout_seconds,
        "client_name": name,
        "protocol": protocol,
        "decode_responses": False,
        # Looked up once: redis-py reads its own package's metadata for every connection, some milliseconds.
        "driver_info": _DRIVER,
        # With them on (redis-py's default) the pool hands out connections that the server has closed: after a restart,
        # or an idle timeout on the way, one call would fail for each of them.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if where.topology is Topology.SENTINEL:
        return behind_sentinel(where, options)
    if where.topology is Topology.CLUSTER and not any_node:
        return on_cluster(where, options)
    pool: Any = PatientPool.from_url(where.plain, **options)
    client = Redis.from_pool(pool)
    pool.connection_class = honest(pool.connection_class)
    if where.topology is Topology.CLUSTER:
        pool.connection_class = any_of(where.hosts, pool.connection_class)
    return client


async def describe(client: Redis, *, needs_aof: bool = True) -> dict[str, Any]:
    """One round trip: role, persistence, eviction, memory and replication, for health and `chorus doctor`. On a Cluster
    each primary is asked, and the worst answer told. `needs_aof=False`: a server without an append-only file counts as
    durable in the metrics. Raises `Unavailable`."""
    try:
        if isinstance(cast("Any", client), RedisCluster):
            nodes = await client.info(target_nodes=RedisCluster.PRIMARIES)
            return about_cluster(list(nodes.values()), needs_aof=needs_aof)
        return about_server(await client.info(), needs_aof=needs_aof)
    except (RedisError, OSError) as exc:
        raise Unavailable("redis", str(exc)) from exc


async def round_trip_seconds(client: Redis, *, tries: int = 3) -> float:
    """The shortest of some PINGs, the connection being open. Raises `Unavailable`."""
    shortest = math.inf
    anywhere: Any = client
    try:
        for _ in range(tries + 1):
            started = time.perf_counter()
            await anywhere.ping()
            shortest = min(shortest, time.perf_counter() - started)
    except (RedisError, OSError) as exc:
        raise Unavailable("redis", str(exc)) from exc
    return shortest


def is_cluster(url: str) -> bool:
    return RedisUrl.parse(url).topology is Topology.CLUSTER


def is_single(url: str) -> bool:
    """One server, and no sentinel that may name another."""
    return RedisUrl.parse(url).topology not in (Topology.CLUSTER, Topology.SENTINEL)


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


async def within(seconds: float, command: Awaitable[T]) -> T:
    """The answer of a Redis command, or `TimeoutError` after `seconds`; the command is then cancelled and left behind.

    Not `asyncio.timeout`: redis-py can lose a cancellation while it connects (observed with 8.1 on Python 3.11), and
    the caller, who has promised an answer, would wait for the socket's own limit on top.
    """
    task = asyncio.ensure_future(command)
    # At once: a caller that is cancelled just as the command fails does not ask for its error any more.
    task.add_done_callback(_ignore)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            _give_up(task)
    if not task.done():
        raise TimeoutError
    return task.result()


def _give_up(task: asyncio.Future[Any]) -> None:
    """Again and again: one that was lost would leave a connection to be opened when nobody is there to close it."""
    if not task.done():
        task.cancel()
        task.get_loop().call_later(CANCEL_AGAIN_SECONDS, _give_up, task)


def _ignore(abandoned: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, whatever becomes of it."""
    if not abandoned.cancelled():
        abandoned.exception()


class Script:
    """One Lua script from `core/lua/`, run by its digest. `prelude`: another one to put in front of it."""

    def __init__(self, name: str, *, prelude: str | None = None) -> None:
        self.name = name
        self.source = "\n".join(
            resources.files("app.core").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8")
            for part in (prelude, name)
            if part is not None
        )
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Redis | Express, keys: Sequence[str | bytes], args: Sequence[Any]) -> Any:
        """Run it. A server that does not know the digest (restart, flush) has run nothing, so sending the source
        then is no repetition."""
        try:
            return await self.evalsha(client, keys, args)
        except NoScriptError:
            execute: Any = client.execute_command
            return await execute("EVAL", self.source, len(keys), *keys, *args)

    def evalsha(
        self, client: Redis | Pipeline | Express, keys: Sequence[str | bytes], args: Sequence[Any]
    ) -> Awaitable[Any]:
        """Queue it on a pipeline, or start it on a client, by digest only: the caller handles `NoScriptError`."""
        execute: Any = client.execute_command  # without the detours of `client.evalsha`
        started: Awaitable[Any] = execute("EVALSHA", self.sha, len(keys), *keys, *args)
        return started


class Express:
    """Commands of `client` on connections of its pool that are kept at hand, past redis-py's checks, retries and
    observers: those cost more than the round trip itself. For one server only.

    A connection that fails takes the others along, for they lead to the same server. One that the server closed while
    it was idle (a restart, a time limit on the way) fails no command. A new one is opened in its own time: whoever does
    not wait so long leaves it to the next command, or there would never be one to a server at some distance.
    """

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        # What is idle here is not free in the pool: who must wait for one waits for one of these.
        self._turns = asyncio.Semaphore(self._pool.max_connections)
        self._idle: list[tuple[Any, float]] = []
        """Each with the time of its last answer (monotonic)."""
        self._opening: set[asyncio.Task[Any]] = set()

    async def execute_command(self, *command: Any) -> Any:
        """The answer. No time limit but the caller's own: cancelled, the connection is given up."""
        async with self._turns:
            return await self._execute(command)

    async def _execute(self, command: tuple[Any, ...]) -> Any:
        connection = await self._take()
        try:
            await connection.send_packed_command(hiredis.pack_command(command), check_health=False)
            if command[0] == "MGET":
                # Others get their turn. On a server nearby the answer is then there, and need not be slept for. Not
                # after a script: what it has published is for other processes, which may need this core.
                await asyncio.sleep(0)
            answer = await connection.read_response(timeout=math.inf)
        except ResponseError:
            self._idle.append((connection, time.monotonic()))
            raise
        except asyncio.CancelledError:  # of which the others need know nothing
            await self._give_up(connection)
            raise
        except BaseException:
            await self._give_up(connection)
            await self.drop_idle()
            raise
        self._idle.append((connection, time.monotonic()))
        return answer

    async def drop_idle(self, *, silent_since: float = math.inf) -> None:
        """Those that have not answered since then, for who has a reason not to believe in them."""
        doomed = [connection for connection, answered_at in self._idle if answered_at < silent_since]
        self._idle = [(connection, at) for connection, at in self._idle if at >= silent_since]
        for connection in doomed:
            await self._give_up(connection)

    async def aclose(self) -> None:
        """Before the client is closed, and with it the connections."""
        self._idle.clear()
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    async def _take(self) -> Any:
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_lost:
                return connection
            await self._give_up(connection)
        opening = asyncio.create_task(within(OPEN_SECONDS, self._pool.get_connection()))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise RedisConnectionError("closed") from None
            opening.add_done_callback(self._keep)
            raise

    def _keep(self, opened: asyncio.Task[Any]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            self._idle.append((opened.result(), time.monotonic()))

    async def _give_up(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)


async def run_together(
    client: Redis, calls: Sequence[tuple[Script, Sequence[str], Sequence[Any]]], *, load: Sequence[Script] = ()
) -> list[Any]:
    """The answers, in order: one round trip on a single server, side by side on a Cluster, whose pipelines take no
    scripts. `load`: make these known first. Raises the first error, `NoScriptError` included."""
    anywhere: Any = client
    if isinstance(anywhere, RedisCluster):
        for script in load:
            await anywhere.script_load(script.source)
        return await asyncio.gather(*(script.evalsha(client, keys, args) for script, keys, args in calls))
    async with client.pipeline(transaction=False) as pipe:
        for script in load:
            pipe.script_load(script.source)
        for script, keys, args in calls:
            script.evalsha(pipe, keys, args)
        answers: list[Any] = await pipe.execute()
    return answers[len(load) :]


async def scan(client: Redis, cursor: int, *, match: str, count: int) -> tuple[int, list[bytes]]:
    """A page of keys. On a Cluster `match` must carry a hash tag: its slot's node has them all."""
    anywhere: Any = client
    if isinstance(anywhere, ClusterClient):
        await anywhere.know_the_slots()
        node = anywhere.get_node_from_key(match)
        at_node: Any = await anywhere.scan(cursor, match=match, count=count, target_nodes=node)
        return next(iter(at_node[0].values())), at_node[1]
    page: tuple[int, list[bytes]] = await anywhere.scan(cursor, match=match, count=count)
    return page


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
