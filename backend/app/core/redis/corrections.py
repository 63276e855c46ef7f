"""What redis-py gets wrong, put right: each correction names its upstream issue, or where it was seen.

None of them is fixed in redis-py 8.1. With a version that fixes one, delete the correction and raise the lower bound in
pyproject.toml; tests/integration/test_redis_turns.py, tests/unit/test_redis_connection.py and tests/topologies/ tell
whether it is fixed.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis.trouble import redis_words
from app.core.redis.url import RedisUrl

T = TypeVar("T")

_pack: Any = HiredisRespSerializer().pack
"""In C. redis-py uses it in its synchronous connections only."""
CANCEL_AGAIN_SECONDS = 0.05
OPEN_SECONDS = 1.0
"""To open one connection, greetings included; behind Sentinel for each sentinel that may be asked before."""
ASK_SENTINEL_SECONDS = 1.0


class NotConnected(RedisConnectionError):
    """No connection could be opened; its cause says why. redis-py raises the same error for one that was open and was
    lost, after which the next command may well be answered."""


def give_up(task: asyncio.Future[Any]) -> None:
    """Cancel it until it ends. One cancellation may be lost while redis-py connects: a timeout of its own that expires
    in the same moment takes it for its own (redis/redis-py#2551; seen with 8.1 on Python 3.11)."""
    if not task.done():
        task.cancel()
        task.get_loop().call_later(CANCEL_AGAIN_SECONDS, give_up, task)


async def cancelled_for_good(command: Awaitable[T]) -> T:
    """The answer of `command`. A caller that is cancelled leaves at once; the command ends by itself (`give_up`)."""
    task = asyncio.ensure_future(command)
    task.add_done_callback(_ignore)
    try:
        await asyncio.wait({task})
    finally:
        give_up(task)
    return task.result()


def _ignore(abandoned: asyncio.Future[Any]) -> None:
    """A caller that was cancelled does not ask for the command's error any more."""
    if not abandoned.cancelled():
        abandoned.exception()


async def wait_for_turn(turns: asyncio.Semaphore, wait_seconds: float | None) -> None:
    """Take one in the order of arrival. Raises `RedisTimeoutError` after `wait_seconds` (`None`: never)."""
    try:
        async with asyncio.timeout(wait_seconds):
            await turns.acquire()
    except TimeoutError:
        raise RedisTimeoutError(f"no connection was free within {wait_seconds} s") from None


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

    def __init__(
        self, *args: Any, wait_seconds: float | None, open_seconds: float = OPEN_SECONDS, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._turns = asyncio.Semaphore(self.max_connections)
        self._wait_seconds = wait_seconds
        self._open_seconds = open_seconds
        self._opening: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def get_connection(self, *_args: Any, **_options: Any) -> Any:
        if self._turns.locked():
            await wait_for_turn(self._turns, self._wait_seconds)
        else:
            await self._turns.acquire()  # returns at once
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
        in_time = opening.get_loop().call_later(self._open_seconds, give_up, opening)
        opening.add_done_callback(lambda _: in_time.cancel())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if opening.cancelled() and (caller is None or not caller.cancelling()):
                raise NotConnected(f"not connected within {self._open_seconds:g} s") from TimeoutError()
            opening.add_done_callback(self._keep)
            raise

    async def _open(self, connection: Any) -> Any:
        try:
            if self._is_closed:
                raise RedisConnectionError("the pool is closed")
            await self.ensure_connection(connection)
        except BaseException as exc:
            await connection.disconnect(nowait=True)
            await self.release(connection)
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
            give_up(opening)
        if self._opening:
            await asyncio.wait(tuple(self._opening))
        await super().aclose()


class PlainRedis(Redis):
    """redis-py's client for one server, without what it does for each command and ours never use: retries, listeners,
    metrics, single connections. With `PatientPool.release` more than half of what a command costs
    (docs/adr/0020-commands-past-redis-pys-client.md)."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(_pack(*args))
            return await self.parse_response(connection, args[0], **options)
        except (RedisConnectionError, RedisTimeoutError):
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)


def on_cluster(where: RedisUrl, options: dict[str, Any]) -> Redis:
    given = dict(parse_url(where.plain))
    tls = given.pop("connection_class", None) is SSLConnection
    for taken in ("host", "port", "db"):
        given.pop(taken, None)
    # No slot may be missing: half a queue would look like an empty one.
    nodes = [ClusterNode(host, port) for host, port in where.hosts]
    client = ClusterClient(startup_nodes=nodes, ssl=tls, require_full_coverage=True, **(options | given))
    return cast("Redis", client)  # the same commands, routed by key


class ClusterClient(RedisCluster):
    """redis-py's cluster client, with its troubles told as `RedisError`s and one question for the map of slots.

    Calls that find the map out of date side by side take connections from each other (`AttributeError`: no writer; as
    redis/redis-py#3835), a slot without a node is a `KeyError` (redis/redis-py#4296, #2437), and a cluster that does
    not answer a `RedisClusterException`, which is no `RedisError` since redis-py 7.
    """

    def __init__(self, *, wait_seconds: float | None, **options: Any) -> None:
        super().__init__(**options)
        self._mapping = asyncio.Lock()
        # As many over all nodes as one of them may get: then none refuses for want of a connection.
        self._turns = asyncio.Semaphore(options["max_connections"])
        self._wait_seconds = wait_seconds

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        return await cancelled_for_good(self._in_turn(args, kwargs))

    async def _in_turn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await wait_for_turn(self._turns, self._wait_seconds)
        try:
            with _translated():
                await self.know_the_slots()
                return await super().execute_command(*args, **kwargs)
        finally:
            self._turns.release()

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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisClusterException, AttributeError, KeyError, RuntimeError) as exc:
        raise RedisConnectionError(redis_words(exc)) from exc


def behind_sentinel(where: RedisUrl, options: dict[str, Any]) -> Redis:
    given = dict(parse_url(where.plain))
    tls = given.pop("connection_class", None) is SSLConnection
    for taken in ("host", "port"):
        given.pop(taken, None)
    own = {key: given.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in given}
    same = ("socket_timeout", "socket_connect_timeout", "retry", "driver_info", "maint_notifications_config")
    sentinel_options = {key: options[key] for key in same} | own
    for limit in ("socket_timeout", "socket_connect_timeout"):
        sentinel_options[limit] = sentinel_options[limit] or ASK_SENTINEL_SECONDS
    options["open_seconds"] = OPEN_SECONDS * (1 + len(where.hosts))
    if tls:
        sentinel_options |= {"ssl": True} | {key: value for key, value in given.items() if key.startswith("ssl_")}
        given["ssl"] = True
    sentinels: Any = _Sentinels(where.hosts, sentinel_options)
    own_classes = {"redis_class": _SentinelRedis, "connection_pool_class": _PrimaryPool}
    client: Redis = sentinels.master_for(where.service, **own_classes, **(options | given))
    client.connection_pool.connection_class = honest(client.connection_pool.connection_class)
    return client


class _Sentinel(Redis):
    """One of them, which remembers why it did not answer."""

    trouble = ""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.trouble = ""
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py declares no type
        except (RedisError, OSError) as exc:
            self.trouble = redis_words(exc)
            raise


class _Sentinels(Sentinel):
    """redis-py's, with two differences. Calls side by side that pass over a sentinel lose it for good in redis-py: each
    moves the one that answered to the front of the same list, which ends with one of them twice (seen with 8.1; named
    in the review of redis/redis-py#4331). And an error says why there is no primary: redis-py's prints the clients with
    all their options, a kilobyte each, and of their errors the class."""

    def __init__(self, hosts: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        super().__init__([], sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py declares no type
        self.places = {_Sentinel(host=host, port=port, **options): f"{host}:{port}" for host, port in hosts}
        self.sentinels = list(self.places)

    async def discover_master(self, service_name: str) -> Any:
        asked = copy.copy(self)
        asked.sentinels = list(self.sentinels)
        try:
            address = await Sentinel.discover_master(asked, service_name)
        except MasterNotFoundError:
            said = "; ".join(f"{place}: {each.trouble or 'knows none'}" for each, place in self.places.items())
            raise MasterNotFoundError(f"no sentinel names a primary of '{service_name}': {said}") from None
        self.sentinels = asked.sentinels
        return address


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

    def stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()


class _SentinelRedis(PlainRedis):
    """Closes its connections to the sentinels as well (redis/redis-py#3259)."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        pool: Any = self.connection_pool
        pool.stop_asking()
        await super().aclose(close_connection_pool)
        await pool.aclose()
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def honest(base: Any) -> Any:
    """A class of connections with two differences.

    1. Writing to one that the server closed a moment ago is a `ConnectionError` like any other. On uvloop it is a bare
       `RuntimeError` (MagicStack/uvloop#506).
    2. With a `socket_timeout` a caller that is cancelled while it writes is cancelled. redis-py writes within
       `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes with the end of what it waits for
       (python/cpython#86296).
    """

    class Honest(base):  # type: ignore[misc]  # the base is chosen at run time
        released_at = 0.0
        """Monotonic: when it was last given back, after an answer."""

        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            caller = asyncio.current_task() if self.socket_timeout else None
            cancelled_before = caller.cancelling() if caller else 0
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as exc:
                raise RedisConnectionError(redis_words(exc)) from exc
            if caller and caller.cancelling() > cancelled_before:
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    return Honest


def any_of(hosts: Sequence[tuple[str, int]], base: Any) -> Any:
    class AnyNode(base):  # type: ignore[misc]  # the base is chosen at run time
        async def _connect(self) -> None:
            self.host, self.port = random.choice(hosts)
            await super()._connect()

    return AnyNode
