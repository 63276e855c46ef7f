"""Several replicas' caches in one loop, over a real server's scripts, where the test decides what happens when.

Every call to the server, every read of the database and every message waits until the test lets it happen; calls and
their answers are two steps, either of which may be lost.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from app.core.cache import Cache
from app.core.cache.codec import PLAIN
from app.core.cache.shard import BUMP, INVALIDATE, Shard
from app.core.cache.shared import SharedTier
from app.core.errors import Unavailable
from app.core.redis.script import Script
from tests.support.fakes import FakeClock

if TYPE_CHECKING:
    from app.core.redis.door import Door
from tests.support.redis_topologies import server_of

TTL_SECONDS = 300.0


@dataclass(eq=False)
class Step:
    """Something a replica waits for: executed once, answered once."""

    replica: SimReplica
    name: str
    action: Callable[[], Any]
    future: asyncio.Future[Any]
    can_fail: bool = True
    executed: bool = False
    result: Any = None


class SimClock(FakeClock):
    """Time stands still; sleepers sleep until woken."""

    def __init__(self) -> None:
        super().__init__()
        self.sleepers: list[asyncio.Future[None]] = []

    async def sleep(self, seconds: float) -> None:
        self.sleepers.append(asyncio.get_running_loop().create_future())
        await self.sleepers[-1]

    def wake(self) -> None:
        sleepers, self.sleepers = self.sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


class SimDoor:
    distance_seconds = 0.0

    def __init__(self, world: SimWorld, replica: SimReplica) -> None:
        self._world = world
        self._replica = replica

    async def ask(self, _mget: str, *keys: str, within_seconds: float, urgent: bool) -> list[bytes | None]:
        found: list[bytes | None] = await self._world.wait_for(
            self._replica, "read", lambda: self._world.server.mget(keys)
        )
        return found

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], *, within_seconds: float, urgent: bool
    ) -> Any:
        return await self._world.wait_for(self._replica, script.name, lambda: self._world.run(script, keys, args))

    async def scan(self, match: str, *, page: int, within_seconds: float) -> AsyncIterator[list[bytes]]:
        yield list(self._world.server.scan_iter(match=match))


@dataclass(eq=False)
class SimReplica:
    """`inbox`: messages on their way. `floor`: what reads that start now must at least return."""

    world: SimWorld
    name: str
    cache: Cache = field(init=False)
    shared: SharedTier = field(init=False)
    inbox: list[bytes] = field(default_factory=list)
    subscribed: bool = False
    lost: bool = False
    floor: dict[str, int] = field(default_factory=dict)
    joined_floor: dict[str, int] = field(default_factory=dict)
    """Of the read that began the look-up under way."""
    owed_floor: list[tuple[str, int]] = field(default_factory=list)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        shard = Shard(cast("Door", SimDoor(self.world, self)), prefix="sim:{c0}:", origin=self.name)
        self.cache = Cache(clock=self.world.clock, uniform=lambda: 0.0)
        self.shared = SharedTier([shard], clock=self.world.clock)
        self.cache.join(self.shared)
        self.connect()

    @property
    def channel(self) -> Any:
        return self.shared.shards[0].channel

    def connect(self) -> None:
        """Subscribe, then read the sequence."""
        self.inbox.clear()
        self.subscribed, self.lost = True, False
        seconds, micros = self.world.server.time()
        self.channel.ahead_us = seconds * 1e6 + micros - self.world.clock.monotonic() * 1e6
        self.channel.open(self.world.sequence())
        self.catch_up()

    def cut(self) -> None:
        self.inbox.clear()
        self.subscribed = False
        self.channel.lose()
        self.catch_up()

    def deliver(self) -> None:
        gaps = self.channel.gaps
        self.channel.receive(self.inbox.pop(0))
        if self.channel.gaps > gaps:
            self.lost = False
        self.catch_up()

    def lose(self) -> None:
        self.inbox.pop(0)
        self.lost = True

    def beat(self) -> None:
        reached, sequence = self.channel.reached, self.world.sequence()
        while self.inbox:
            self.deliver()
        if not self.channel.check(reached, sequence):
            self.cut()
            self.connect()
        self.lost = False
        self.catch_up()

    def announce(self, key: str, version: int) -> None:
        self.owed_floor.append((key, version))
        self.catch_up()

    def catch_up(self) -> None:
        """What was announced counts from when this replica has heard of it, or knows that it does not hear."""
        if not self.subscribed or not (self.inbox or self.lost):
            for key, version in self.owed_floor:
                self.floor[key] = max(self.floor.get(key, 0), version)
            self.owed_floor.clear()


class SimWorld:
    """`database`: the version of each key. `intents`: edits whose invalidation the database still remembers."""

    def __init__(self, url: str, replicas: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.server: Any = server_of(url, "sim:{c0}:")
        self.server.flushall()
        self.clock = SimClock()
        self.database: dict[str, int] = {}
        self.intents: set[tuple[str, int]] = set()
        self._births = itertools.count()
        self.steps: list[Step] = []
        self.failures: list[str] = []
        self._feed: Any = self.server.pubsub()  # type: ignore[no-untyped-call]  # redis-py declares no type
        self._feed.subscribe("sim:{c0}:inv")
        self._feed.get_message(timeout=10)
        self.replicas: list[SimReplica] = []
        for number in range(replicas):
            self.replicas.append(self.within(partial(SimReplica, self, f"replica{number:09d}")))

    def close(self) -> None:
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.spin()
        self._feed.close()
        self.server.close()
        self.loop.close()

    # --- what happens on the server ---

    def sequence(self) -> int:
        seconds, micros = self.server.time()
        self.server.set("sim:{c0}:seq", seconds * 1_000_000 + micros, nx=True)
        return int(self.server.get("sim:{c0}:seq"))

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        result = self.server.eval(script.source, len(keys), *keys, *args)
        self._collect()
        if script.name == INVALIDATE.name and args[2] == 0:
            self._announce(args[3::2])
        elif script.name == BUMP.name:
            self._announce([key for key in self.database if key.startswith(f"{args[2]}:")])
        return result

    def _collect(self) -> None:
        """What was published so far: it comes before the answer to a ping."""
        self._feed.ping()
        while (message := self._feed.get_message(timeout=10))["type"] != "pong":
            for replica in self.replicas:
                if replica.subscribed:
                    replica.inbox.append(message["data"])

    def _announce(self, keys: Sequence[str]) -> None:
        for key in keys:
            for replica in self.replicas:
                replica.announce(key, self.database.get(key, 0))

    def end_leases(self) -> None:
        """Those of loads and of writers: their time is over, whether or not somebody still lives who took them."""
        for lease in self.server.scan_iter(match="sim:{c0}:l:*"):
            self.server.delete(lease)

    # --- steps ---

    async def wait_for(
        self, replica: SimReplica, name: str, action: Callable[[], Any], *, can_fail: bool = True
    ) -> Any:
        step = Step(replica, name, action, asyncio.get_running_loop().create_future(), can_fail)
        self.steps.append(step)
        try:
            return await step.future
        finally:
            if step in self.steps:
                self.steps.remove(step)

    def execute(self, step: Step) -> None:
        step.executed = True
        step.result = step.action()

    def answer(self, step: Step) -> None:
        if not step.executed:
            self.execute(step)
        self._end(step, None)

    def answer_all_of(self, replica: SimReplica) -> None:
        """What it waits for, and what it then waits for, in one go."""
        for _ in range(10):
            for step in [step for step in self.steps if step.replica is replica]:
                self.answer(step)

    def fail(self, step: Step) -> None:
        """The request or, if it was executed, its answer is lost."""
        self._end(step, Unavailable("redis", "lost"))

    def _end(self, step: Step, error: Exception | None) -> None:
        if step in self.steps:
            self.steps.remove(step)
        if not step.future.done():
            if error is None:
                step.future.set_result(step.result)
            else:
                step.future.set_exception(error)
        self.spin()

    def named(self, name: str, replica: SimReplica) -> Step:
        (step,) = [step for step in self.steps if step.name == name and step.replica is replica]
        return step

    # --- what replicas do ---

    def read(self, replica: SimReplica, key: str) -> asyncio.Task[int]:
        floor = replica.floor.get(key, 0)
        under_way = replica.cache._flights.get((key, PLAIN, False))
        if under_way is None:
            replica.joined_floor.pop(key, None)
        elif not replica.channel.trusted:
            # It is not told of edits, and it asks the source once for all: as new as the look-up that it joins.
            floor = min(floor, replica.joined_floor.get(key, 0))
        replica.joined_floor.setdefault(key, floor)

        async def source() -> int:
            return int(await self.wait_for(replica, "source", lambda: self.database.get(key, 0), can_fail=False))

        async def run() -> int:
            value = await replica.cache.get_or_fetch(key, source, ttl_seconds=TTL_SECONDS)
            if value < floor:
                self.failures.append(f"{replica.name} read {key}={value}, invalidated before {floor}")
            return value

        return self.start(replica, run())

    def edit(self, replica: SimReplica, key: str, *, fenced: bool) -> asyncio.Task[None]:
        def commit() -> int:
            self.database[key] = self.database.get(key, 0) + 1
            self.intents.add((key, self.database[key]))
            return self.database[key]

        async def run() -> None:
            if fenced:
                async with replica.cache.write_fence(key):
                    version = await self.wait_for(replica, "commit", commit, can_fail=False)
            else:
                version = await self.wait_for(replica, "commit", commit, can_fail=False)
                await replica.cache.invalidate(key)
            # Its writer reads it, also if Redis did not take the invalidation.
            replica.floor[key] = max(replica.floor.get(key, 0), version)

        return self.start(replica, run())

    def invalidate(self, replica: SimReplica, pattern: str) -> asyncio.Task[int]:
        return self.start(replica, replica.cache.invalidate(pattern))

    def drain(self, replica: SimReplica) -> asyncio.Task[None]:
        async def run() -> None:
            remembered = set(self.intents)
            if remembered:
                await replica.cache.invalidate_everywhere(*sorted({key for key, _ in remembered}))
                self.intents -= remembered

        return self.start(replica, run())

    def settle(self, replica: SimReplica) -> asyncio.Task[None]:
        return self.start(replica, replica.shared.settle_owed())

    def crash(self, replica: SimReplica) -> None:
        """Everything it was about to do is not done; another process takes its place."""
        for task in (*replica.tasks, *replica.cache._tasks):
            task.cancel()
        for step in [step for step in self.steps if step.replica is replica]:
            self.steps.remove(step)
            step.future.cancel()
        self.spin()
        place = self.replicas.index(replica)
        self.steps = [step for step in self.steps if step.replica is not replica]
        self.replicas[place] = self.within(lambda: SimReplica(self, f"reborn{next(self._births):010d}"))

    def start(self, replica: SimReplica, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        replica.tasks.add(task)
        task.add_done_callback(replica.tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.spin()
        return task

    def spin(self) -> None:
        """Until every task waits for a step."""

        async def turns() -> None:
            for _ in range(15):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def within(self, build: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return build()

        return self.loop.run_until_complete(call())

    def finish(self) -> None:
        """Let everything happen that was going to."""
        for turn in range(200):
            if turn == 100:
                self.end_leases()  # of who died: who lives has long been done
            self.clock.wake()
            self.spin()
            if not self.steps and not any(replica.tasks for replica in self.replicas):
                return
            for step in list(self.steps):
                self.answer(step)
        raise AssertionError(f"never ends: {[step.name for step in self.steps]}")

    def calm(self) -> None:
        """Everything is done, every message delivered, every heartbeat sent, nothing is owed."""
        for _ in range(3):
            self.finish()
            for replica in self.replicas:
                if not replica.subscribed:
                    replica.connect()
                replica.beat()
                self.settle(replica)
                self.finish()
            self.drain(self.replicas[0])
            self.finish()
        for replica in self.replicas:
            replica.beat()
