"""The one way to Redis: every command and script of the product goes through a `Door`.

    door = Door.to(url, name="chorus-control", timings=DoorTimings(answer_seconds=1.0))
    stored = await door.ask("GET", key)
    wait = await door.run(PACE, [prefix], [verb, peer])
    subscription = await door.subscribe(channel)

1. Bounded: an answer comes within `answer_seconds`, or within what the call names; waiting for a connection included.
   With `round_trips` a limit follows the distance of the server.
2. Cancelled for good: a caller that is cancelled, or whose time is up, leaves at once, and its answer is never given to
   another one. A connection that was being opened is left to the next caller.
3. Translated: whatever goes wrong is an `Unavailable` with words for the operator. An error that the server answers
   with (no memory, no permission) is one too.
4. Not waited for while it is known to be away: after a call without an answer in time, or without a connection, one
   call at a time finds out whether Redis is back; the others raise `NotAsked` at once, with the words of the failure.
   `urgent` calls always ask, and so does every call to a Cluster, whose nodes fail one by one: `of_one_shard` gives a
   door that knows one node's health.
5. Not repeated: whether a call without an answer was carried out is unknown. The caller decides what to do.

What it does not do: order calls, or share them (`core/queue/batcher.py`).
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from app.core.errors import Unavailable
from app.core.redis.client import connect
from app.core.redis.corrections import ClusterClient, NotConnected, PatientPool, PlainRedis
from app.core.redis.script import Script
from app.core.redis.subscription import Subscription
from app.core.redis.trouble import redis_words

T = TypeVar("T")


class NotAsked(Unavailable):
    """Nothing was sent: Redis did not answer a moment ago, or the door is closed."""


@dataclass(frozen=True, slots=True)
class DoorTimings:
    """Seconds."""

    answer_seconds: float = 1.0
    """The longest wait for an answer, for calls that name no limit of their own."""
    round_trips: float = 0.0
    """Every limit is longer by so many times the distance of the server, so that one far away is not taken for a slow
    one. The distance is the measured round trip beyond `near_seconds`."""
    near_seconds: float = 0.002
    far_seconds: float = 0.06
    """A server that is farther away than this is not waited for longer."""
    window_seconds: float = 10.0
    """The round trip is the quickest answer of the last one to two of these: a server that slows down is not taken for
    one far away."""
    retry_seconds: float = 0.0
    """While Redis is away, one call this often is let through; 0: the next one, once the one before has failed."""
    stall_seconds: float = 0.02
    """A time limit that is noticed so much too late says that this process stood still, and nothing about Redis."""
    close_seconds: float = 1.0


DEFAULT_TIMINGS = DoorTimings()


class Door:
    """The commands of one client, for one event loop. See the module."""

    def __init__(
        self,
        client: Redis,
        *,
        channels: Redis | None = None,
        timings: DoorTimings = DEFAULT_TIMINGS,
    ) -> None:
        """`channels`: for subscriptions; it must speak RESP2. The door closes both."""
        self.timings = timings
        self.round_trip_seconds = 0.0
        """The quickest answer of late: how far away the server is. 0 before the first one."""
        self.distance_seconds = 0.0
        """The same beyond `near_seconds`; 0 for a server that is too far away to be waited for longer."""
        self._quickest = self._quickest_before = math.inf
        self._window_ends = 0.0
        self._client: Any = client
        self._pool = getattr(client, "connection_pool", None)
        self._channels = channels
        self._is_one_server = not isinstance(client, RedisCluster)
        self._away_until = 0.0
        """Monotonic; 0: Redis is not known to be away."""
        self._why = ""
        self._is_closed = False
        self._shards: list[Door] = []

    @classmethod
    def to(
        cls, url: str, *, timings: DoorTimings = DEFAULT_TIMINGS, max_connections: int = 20, name: str = "chorus"
    ) -> Door:
        """`url`: see url.py. Connects with the first call; `name` is what CLIENT LIST shows."""
        client = connect(url, max_connections=max_connections, name=name)
        channels = connect(url, name=f"{name}-channel", protocol=2, any_node=True)
        return cls(client, channels=channels, timings=timings)

    def of_one_shard(self) -> Door:
        """A door with the same client, for keys that live on one node. Closed with this one, not by itself."""
        door = copy.copy(self)
        door._is_one_server = True
        self._shards.append(door)
        return door

    @property
    def is_cluster(self) -> bool:
        """Then the keys of one script must share a hash tag."""
        return isinstance(self._client, RedisCluster)

    @property
    def is_away(self) -> bool:
        """The last call that was tried got no answer."""
        return self._away_until > 0

    async def aclose(self) -> None:
        """From now on every call is `NotAsked`. A server that hangs delays it by `close_seconds` at most."""
        for door in (self, *self._shards):
            door._is_closed = True
        for client in (self._client, self._channels):
            if client is not None:
                try:
                    async with asyncio.timeout(self.timings.close_seconds):
                        await client.aclose()
                except (RedisError, OSError):
                    continue

    # --- asking ---

    async def ask(self, *command: Any, within_seconds: float | None = None, urgent: bool = False) -> Any:
        """The answer to one command. Raises `Unavailable`."""
        return await self._bounded(self._client.execute_command, *command, within_seconds=within_seconds, urgent=urgent)

    async def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        args: Sequence[Any] = (),
        *,
        within_seconds: float | None = None,
        urgent: bool = False,
    ) -> Any:
        """The answer of a script. Raises `Unavailable`; whether it ran is then unknown, unless it is `NotAsked`."""
        return await self._bounded(script, self._client, keys, args, within_seconds=within_seconds, urgent=urgent)

    async def scan(self, match: str, *, page: int, within_seconds: float | None = None) -> AsyncIterator[list[bytes]]:
        """Pages of the keys that match, each key once or more; the limit is for each page. What is no pattern in
        `match` goes through `literal`. On a Cluster it must carry a hash tag: the node of its slot has them all.
        Raises `Unavailable`."""
        cursor = 0
        while True:
            cursor, names = await self._bounded(self._scan, cursor, match, page, within_seconds=within_seconds)
            if names:
                yield names
            if cursor == 0:
                return

    async def subscribe(self, channel: str, *, within_seconds: float | None = None) -> Subscription:
        """Returns when the server has acknowledged it. Asks also while Redis is known to be away: its caller repeats
        it at its own pace. Raises `Unavailable`."""
        if self._channels is None:
            raise TypeError("this door was made without a client for channels")
        opening = Subscription.open
        return await self._bounded(opening, self._channels, channel, within_seconds=within_seconds, urgent=True)

    # --- what the server says of itself ---

    async def info(self) -> list[Mapping[str, Any]]:
        """What INFO says: the server, or each primary of a Cluster. Always asks. Raises `Unavailable`."""
        if isinstance(self._client, RedisCluster):
            ask_all = self._client.info
            nodes = await self._bounded(lambda: ask_all(target_nodes=RedisCluster.PRIMARIES), urgent=True)
            return list(nodes.values())
        return [await self.ask("INFO", urgent=True)]

    # --- the door itself ---

    async def _bounded(
        self,
        command: Callable[..., Awaitable[T]],
        *args: Any,
        within_seconds: float | None = None,
        urgent: bool = False,
    ) -> T:
        """The answer of `command(*args)`, a call of this door's client. Raises `Unavailable`."""
        timings, started = self.timings, time.monotonic()
        extra_seconds = timings.round_trips * self.distance_seconds
        seconds = extra_seconds + (timings.answer_seconds if within_seconds is None else within_seconds)
        if self._is_closed:
            raise NotAsked("redis", "the connection is closed")
        if self._away_until and not urgent:
            if started < self._away_until:
                raise NotAsked("redis", self._why)
            # This call finds out, the others go on without.
            self._away_until = started + max(seconds, timings.retry_seconds)
        refusal: ResponseError | None = None
        try:
            async with asyncio.timeout(seconds):
                answer = await command(*args)
        except ResponseError as exc:
            refusal = exc
        except (RedisError, OSError) as exc:
            await self._unanswered(exc, started, seconds)
            raise Unavailable("redis", _words(exc, seconds)) from exc
        took = time.monotonic() - started
        # An urgent call may wait for longer than the others do: that it was answered says little to them.
        if self._away_until and (not urgent or took <= timings.answer_seconds + extra_seconds):
            self._away_until = 0.0
        if isinstance(self._client, PlainRedis):
            took = self._client.answered_after_seconds or took
        if started > self._window_ends:
            self._window_ends = started + timings.window_seconds
            self._quickest_before, self._quickest = self._quickest, took
        elif took < self._quickest:
            self._quickest = took
        self.round_trip_seconds = trip = min(self._quickest, self._quickest_before)
        self.distance_seconds = max(0.0, trip - timings.near_seconds) if trip <= timings.far_seconds else 0.0
        if refusal is not None:
            raise await self._refused(refusal) from refusal
        return answer

    async def _refused(self, exc: ResponseError) -> Unavailable:
        if isinstance(exc, ReadOnlyError) and isinstance(self._pool, PatientPool):
            await self._pool.open_anew()
            return Unavailable("redis", f"no longer the primary: {redis_words(exc)}")
        return Unavailable("redis", redis_words(exc))

    async def _unanswered(self, exc: Exception, started: float, seconds: float) -> None:
        now = time.monotonic()
        if self._away_until:  # this call was to find out: the next one may
            self._away_until = now + self.timings.retry_seconds
        if isinstance(exc, TimeoutError) and now - started > seconds + self.timings.stall_seconds:
            return
        pool = self._pool
        # A connection that was lost may be opened anew; on a Cluster redis-py does not say which of the two it was.
        lost = (
            isinstance(pool, PatientPool)
            and isinstance(exc, RedisConnectionError)
            and not isinstance(exc, NotConnected)
        )
        if self._is_one_server and not lost:
            self._why = _words(exc, seconds)
            self._away_until = now + self.timings.retry_seconds
        if isinstance(pool, PatientPool):  # on a Cluster redis-py closes what failed, and asks for the map anew
            await pool.drop_idle(silent_since=started)

    async def _scan(self, cursor: int, match: str, count: int) -> tuple[int, list[bytes]]:
        if isinstance(self._client, ClusterClient):
            await self._client.know_the_slots()
            node = self._client.get_node_from_key(match)
            at_node: Any = await self._client.scan(cursor, match=match, count=count, target_nodes=node)
            return next(iter(at_node[0].values())), at_node[1]
        return cast("tuple[int, list[bytes]]", await self._client.scan(cursor, match=match, count=count))


def literal(text: str) -> str:
    """`text` as a part of a pattern, in which some signs mean something else."""
    return "".join(f"\\{sign}" if sign in r"*?[]\^" else sign for sign in text)


def _words(exc: Exception, seconds: float) -> str:
    if isinstance(exc, TimeoutError) and not str(exc):
        return f"no answer within {seconds:.3g} s"
    return redis_words(exc)
