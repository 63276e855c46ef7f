"""What redis-py gets wrong, put right: each correction names its upstream issue, or where it was seen.

None of them is fixed in redis-py 8.1, the newest release, nor on its main branch of August 2026. With a version that
fixes one, delete the correction and raise the lower bound in pyproject.toml; tests/integration/test_redis_turns.py,
tests/unit/test_redis_connection.py and tests/topologies/ tell whether it is fixed.

Time limits are ours alone (`asyncio.timeout`): redis-py's own limit on writing, `asyncio.wait_for`, forgets a
cancellation that comes with the end of what it waits for (python/cpython#86296, before Python 3.12), and one that is
lost while it connects leaves the connection behind (redis/redis-py#2551).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis.trouble import redis_words
from app.core.redis.url import RedisUrl

_pack: Any = HiredisRespSerializer().pack
"""In C. redis-py uses it in its synchronous connections only."""
OPEN_SECONDS = 1.0
"""To open one connection, greetings included; behind Sentinel for each sentinel that may be asked before."""
ASK_SENTINEL_SECONDS = 1.0


class NotConnected(RedisConnectionError):
    """No connection could be opened; its cause says why. redis-py raises the same error for one that was open and was
    lost, after which the next command may well be answered."""


class PatientPool(ConnectionPool):
    """redis-py's pool, with these differences.

    1. Callers wait for a connection, in order. redis-py's own pool raises "Too many connections" at once
       (redis/redis-py#2517); its `BlockingConnectionPool` serves out of order and has no variant for Sentinel.
    2. A connection is opened in a task of the pool. A caller with less time than that takes leaves it to the next one;
       cancelled with the caller, a server at some distance would never get a connection.
    3. A connection that was reset while it was idle is not handed out: to redis-py it looks usable (seen with 8.1).
    4. `drop_idle` and `open_anew`: connections that may lead nowhere, or to a replica, can be closed.
    5. Once it is closed it opens no more; in redis-py a caller that waited for its turn opens one that is left behind
       (seen with 8.1).
    """

    def __init__(self, *args: Any, open_seconds: float = OPEN_SECONDS, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turns = asyncio.Semaphore(self.max_connections)
        self._open_seconds = open_seconds
        self._opening: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def get_connection(self, *_args: Any, **_options: Any) -> Any:
        await self._turns.acquire()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]  # redis-py declares no type
        except BaseException:
            self._turns.release()
            raise
        if connection.is_connected:
            try:
                if connection._reader.exception() is None and not await connection.can_read():
                    return connection
            except (RedisError, OSError):
                pass  # as one that was closed
            await connection.disconnect(nowait=True)
        return await self._opened(connection)

    async def _opened(self, connection: Any) -> Any:
        opening = asyncio.create_task(self._open(connection), name="redis connection")
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if opening.cancelled() and (caller is None or not caller.cancelling()):
                raise NotConnected("the pool was closed") from None
            opening.add_done_callback(self._keep)
            raise

    async def _open(self, connection: Any) -> Any:
        try:
            if self._is_closed:
                raise NotConnected("the pool is closed")
            async with asyncio.timeout(self._open_seconds):
                await self.ensure_connection(connection)
        except BaseException as exc:
            await connection.disconnect(nowait=True)
            await self.release(connection)
            if isinstance(exc, TimeoutError):
                raise NotConnected(f"not connected within {self._open_seconds:g} s") from exc
            if isinstance(exc, RedisError | OSError):
                raise NotConnected(redis_words(exc)) from exc
            raise
        return connection

    def _keep(self, opened: asyncio.Task[Any]) -> None:
        """Its caller has left; the next one finds it open."""
        if not opened.cancelled() and opened.exception() is None:
            releasing = asyncio.create_task(self.release(opened.result()))
            self._opening.add(releasing)
            releasing.add_done_callback(self._opening.discard)

    async def release(self, connection: Any) -> None:
        """Not redis-py's: a caller whose time is up while that waits for the pool's lock, or for a close with the lock
        held, would never give its connection back. Nor does it tell the listeners of redis-py, which there are none of:
        that costs as much as the rest."""
        connection.released_at = time.monotonic()
        try:
            if connection.should_reconnect():
                await connection.disconnect(nowait=True)
        finally:
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)
            self._turns.release()

    async def drop_idle(self, *, silent_since: float) -> None:
        """Close idle connections that were not used since then (monotonic): after a command that failed they may lead
        nowhere as well."""
        idle: Any = tuple(self._available_connections)
        for connection in idle:
            if connection.released_at < silent_since:
                await connection.disconnect(nowait=True)

    async def open_anew(self) -> None:
        """Every connection, before it is used again. A server that has become a replica answers `READONLY` for as long
        as a connection lives (redis/redis-py#460), which is for ever when a provider moves one address to another
        server."""
        await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py declares no type
        await self.drop_idle(silent_since=math.inf)

    async def aclose(self) -> None:
        self._is_closed = True
        for opening in self._opening:
            opening.cancel()
        if self._opening:
            await asyncio.wait(tuple(self._opening))
        await super().aclose()


class PlainRedis(Redis):
    """redis-py's client for one server, without what it does for each command and ours never use: retries, listeners,
    metrics, single connections. With `PatientPool.release` more than half of what a command costs
    (docs/adr/0020-commands-past-redis-pys-client.md)."""

    answered_after_seconds: float | None = None
    """What the last answer took. To wait for a connection, or to open one, takes several round trips more: were they
    measured as well, a server at some distance, whose connections are lost to time limits, would stay too far away."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        started = time.monotonic()
        try:
            await connection.send_packed_command(_pack(*args))
            answer = await self.parse_response(connection, args[0], **options)
            self.answered_after_seconds = time.monotonic() - started
            return answer
        except (RedisConnectionError, RedisTimeoutError):
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)


def on_cluster(where: RedisUrl, options: dict[str, Any]) -> Redis:
    """`options`: of every connection."""
    tls = options.pop("connection_class", None) is SSLConnection
    for taken in ("host", "port", "db"):
        options.pop(taken, None)
    # No slot may be missing: half a queue would look like an empty one.
    nodes = [ClusterNode(host, port) for host, port in where.hosts]
    client = ClusterClient(startup_nodes=nodes, ssl=tls, require_full_coverage=True, **options)
    return cast("Redis", client)  # the same commands, routed by key


class ClusterClient(RedisCluster):
    """redis-py's cluster client, with its troubles told as `RedisError`s and one question for the map of slots.

    Calls that find the map out of date side by side take connections from each other (`AttributeError`: no writer; as
    redis/redis-py#3835), a slot without a node is a `KeyError` (redis/redis-py#4296, #2437), and a cluster that does
    not answer a `RedisClusterException`, which is no `RedisError` since redis-py 7.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._mapping = asyncio.Lock()
        # As many over all nodes as one of them may get: then none refuses for want of a connection.
        self._turns = asyncio.Semaphore(options["max_connections"])

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """A caller that is cancelled leaves at once; what redis-py has to close then, it closes by itself."""
        asking = asyncio.create_task(self._in_turn(args, kwargs))
        asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
        return asking.result()

    async def _in_turn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        async with self._turns:
            try:
                await self.know_the_slots()
                return await super().execute_command(*args, **kwargs)
            except (RedisClusterException, AttributeError, KeyError, RuntimeError) as exc:
                raise RedisConnectionError(redis_words(exc)) from exc

    async def aclose(self) -> None:
        """Also when the map of slots has just become invalid, where redis-py believes that nothing is open."""
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)

    async def know_the_slots(self) -> None:
        """One call asks for the map of slots, the others wait for it."""
        if self._initialize:
            async with self._mapping:
                if self._initialize:
                    await self.initialize()


def behind_sentinel(where: RedisUrl, options: dict[str, Any]) -> Redis:
    """`options`: of every connection; `sentinel_username` and `sentinel_password` are those to the sentinels."""
    tls = options.pop("connection_class", None) is SSLConnection
    for taken in ("host", "port"):
        options.pop(taken, None)
    own = {key: options.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in options}
    same = ("socket_timeout", "socket_connect_timeout", "retry", "driver_info", "maint_notifications_config")
    to_sentinels = {key: value for key, value in options.items() if key in same or key.startswith("ssl_")} | own
    make: Any = _Sentinels
    sentinels = make(where.hosts, sentinel_kwargs=to_sentinels | {"ssl": tls})
    client: Redis = sentinels.master_for(
        where.service, redis_class=PlainRedis, connection_pool_class=_PrimaryPool, ssl=tls,
        open_seconds=OPEN_SECONDS + ASK_SENTINEL_SECONDS * len(where.hosts), **options,
    )  # fmt: skip
    client.connection_pool.connection_class = honest(client.connection_pool.connection_class)
    return client


class _Sentinels(Sentinel):
    """redis-py's, with three differences.

    1. Calls side by side that pass over a sentinel lose it for good in redis-py: each moves the one that answered to
       the front of the same list, which ends with one of them twice (seen with 8.1; named in the review of
       redis/redis-py#4331).
    2. An error says why there is no primary: redis-py's prints the clients with all their options, a kilobyte each, and
       of their errors the class.
    3. Each is waited for `ASK_SENTINEL_SECONDS`.
    """

    async def discover_master(self, service_name: str) -> Any:
        said = []
        for sentinel in tuple(self.sentinels):
            try:
                async with asyncio.timeout(ASK_SENTINEL_SECONDS):
                    masters: Any = await sentinel.sentinel_masters()
            except (RedisError, OSError) as exc:
                why = redis_words(exc)
            else:
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):
                    self.sentinels.remove(sentinel)
                    self.sentinels.insert(0, sentinel)
                    return state["ip"], state["port"]
                why = "knows none"
            place = sentinel.connection_pool.connection_kwargs
            said.append(f"{place['host']}:{place['port']}: {why}")
        raise MasterNotFoundError(f"no sentinel names a primary of '{service_name}': {'; '.join(said)}")


class _PrimaryPool(PatientPool, SentinelConnectionPool):
    """While it is used it asks every second who the primary is; redis-py asks when it connects (redis/redis-py#3566,
    answered as intended). A primary that was replaced in good order, or was frozen meanwhile, keeps its connections and
    takes writes for another ten seconds, until a sentinel corrects it; those writes are lost."""

    _asked_at = 0.0
    _asking: asyncio.Task[None] | None = None

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > ASK_SENTINEL_SECONDS and (self._asking is None or self._asking.done()):
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask(), name="who is the primary")
        return await super().get_connection(*args, **options)

    async def _ask(self) -> None:
        with suppress(RedisError, OSError):  # what works goes on without the sentinels
            async with asyncio.timeout(ASK_SENTINEL_SECONDS):
                await self.get_master_address()  # type: ignore[no-untyped-call]  # redis-py declares no type

    async def release(self, connection: Any) -> None:
        if self.master_address not in (None, (connection.host, connection.port)):
            await connection.disconnect(nowait=True)  # not waited for: a caller may leave meanwhile, without releasing
        await super().release(connection)

    async def aclose(self) -> None:
        """The connections to the sentinels as well (redis/redis-py#3259)."""
        if self._asking is not None:
            self._asking.cancel()
        await super().aclose()
        await self.sentinel_manager.aclose()


def honest(base: Any) -> Any:
    """A class of connections: writing to one that the server closed a moment ago is a `ConnectionError` like any other.
    On uvloop it is a bare `RuntimeError` (MagicStack/uvloop#506)."""

    class Honest(base):  # type: ignore[misc]  # the base is chosen at run time
        released_at = 0.0
        """Monotonic: when it was last given back, after an answer."""

        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as exc:
                raise RedisConnectionError(redis_words(exc)) from exc

    return Honest


def any_of(hosts: Sequence[tuple[str, int]], base: Any) -> Any:
    class AnyNode(base):  # type: ignore[misc]  # the base is chosen at run time
        async def _connect(self) -> None:
            self.host, self.port = random.choice(hosts)
            await super()._connect()

    return AnyNode
