"""redis-py's clients for a Cluster and behind Sentinel, with what they get wrong put right. core/redis.py hands them
out."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis_url import RedisUrl

ASK_SENTINEL_SECONDS = 1.0


class Turns:
    """Of the commands of one client: `most` at a time, the others wait in the order in which they came,
    `wait_seconds` at most (`None`: their callers bound them)."""

    def __init__(self, most: int, wait_seconds: float | None) -> None:
        self._free = asyncio.Semaphore(most)
        self._wait_seconds = wait_seconds

    async def take(self) -> None:
        """Raises `RedisTimeoutError`."""
        if not self._free.locked():
            await self._free.acquire()  # returns at once
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise RedisTimeoutError(f"no connection was free within {self._wait_seconds} s") from None

    def give_back(self) -> None:
        self._free.release()


class PatientPool(ConnectionPool):
    """redis-py's pool, whose callers wait for a connection. Its own raises "Too many connections" at once, and its
    `BlockingConnectionPool` serves out of order, and there is none behind Sentinel (redis-py 8.1)."""

    def __init__(self, *args: Any, wait_seconds: float | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turns = Turns(self.max_connections, wait_seconds)

    async def get_connection(self, *_args: Any, **_options: Any) -> Any:
        await self._turns.take()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._turns.give_back()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        was_out = connection in self._in_use_connections
        try:
            await super().release(connection)
        finally:
            if was_out and connection not in self._in_use_connections:
                self._turns.give_back()


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
    """redis-py's cluster client, except that its troubles are `RedisError`s like everybody else's.

    Observed with 8.1: calls that find the map of slots out of date side by side take connections from each other
    (`AttributeError`: no writer), a slot that has no node yet is a `KeyError`, and a cluster that nobody answers for
    is a `RedisClusterException`, which is no `RedisError`.
    """

    def __init__(self, *, wait_seconds: float | None, **options: Any) -> None:
        super().__init__(**options)
        self._mapping = asyncio.Lock()
        # As many over all nodes as one of them may get: then none refuses for want of a connection.
        self._turns = Turns(options["max_connections"], wait_seconds)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        await self._turns.take()
        try:
            with _translated():
                await self.know_the_slots()
                return await super().execute_command(*args, **kwargs)
        finally:
            self._turns.give_back()

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
        raise RedisConnectionError(f"{type(exc).__name__}: {exc}") from exc


def behind_sentinel(where: RedisUrl, options: dict[str, Any]) -> Redis:
    given = dict(parse_url(where.plain))
    tls = given.pop("connection_class", None) is SSLConnection
    for taken in ("host", "port"):
        given.pop(taken, None)
    own = {key: given.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in given}
    same = ("socket_timeout", "socket_connect_timeout", "retry", "driver_info", "maint_notifications_config")
    sentinel_options = {key: options[key] for key in same} | own
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
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:
            self.trouble = str(exc) or type(exc).__name__
            raise


class _Sentinels(Sentinel):
    """redis-py's, with two troubles of 8.1 put right. Calls side by side that pass over a sentinel lose it for good:
    each moves the one that answered to the front of the same list, which ends with one of them twice. And who finds no
    primary is told why: redis-py prints the clients with all their options, a kilobyte each, and of the error its
    class."""

    def __init__(self, hosts: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        super().__init__([], sentinel_kwargs=options)  # type: ignore[no-untyped-call]
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
    """While it is used it asks every second who the primary is; redis-py asks when it connects. One that was replaced
    in good order, or was frozen meanwhile, keeps its connections and takes writes for another ten seconds, until a
    sentinel corrects it; those writes are lost."""

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
                await self.get_master_address()  # type: ignore[no-untyped-call]

    async def release(self, connection: Any) -> None:
        if self.master_address not in (None, (connection.host, connection.port)):
            await connection.disconnect()
        await super().release(connection)

    def stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()


class _SentinelRedis(Redis):
    """Closes its questions to the sentinels as well."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's signature
        pool: Any = self.connection_pool
        pool.stop_asking()
        await super().aclose(close_connection_pool)
        await pool.disconnect()
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def honest(base: Any) -> Any:
    """A client's connections, which own up to troubles that redis-py's leave to the caller.

    On uvloop, writing to one that the server closed a moment ago is a bare `RuntimeError` (observed with redis-py 8.1
    while a server restarts): here a `ConnectionError` like any other.

    A server that has become a replica answers `READONLY` for as long as the connection lives, which is for ever when a
    provider moves one address to another server: here a `ConnectionError` too, and every connection of the client is
    opened anew before it is used again.
    """

    class Honest(base):  # type: ignore[misc]
        primary = 0
        """Counts the servers that were found to be one no longer."""
        _opened_to = 0

        async def _connect(self) -> None:
            self._opened_to = Honest.primary
            await super()._connect()

        @property
        def is_lost(self) -> bool:
            """Closed or reset, as far as this side has heard."""
            return self._reader is None or self._reader.at_eof() or self._reader.exception() is not None

        async def can_read(self) -> bool:
            """redis-py's name for: closed, or with an old answer in it. It overlooks those that were reset."""
            return self.is_lost or await super().can_read()

        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            if self._opened_to != Honest.primary and self.is_connected:
                await self.disconnect(nowait=True)
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as exc:
                raise RedisConnectionError(str(exc)) from exc

        async def read_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().read_response(*args, **kwargs)
            except ReadOnlyError as exc:
                if self._opened_to == Honest.primary:
                    Honest.primary += 1
                await self.disconnect(nowait=True)
                raise RedisConnectionError(f"no longer the primary: {exc}") from exc

    return Honest


def any_of(hosts: Sequence[tuple[str, int]], base: Any) -> Any:
    class AnyNode(base):  # type: ignore[misc]
        async def _connect(self) -> None:
            self.host, self.port = random.choice(hosts)  # noqa: S311
            await super()._connect()

    return AnyNode
