"""The process's side of the fleet: one Redis client for all circuits, push, resync, and the operator's word."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.link import FleetLink
from app.core.circuit_breaker.rules import CLOSED, State
from app.core.circuit_breaker.wire import (
    FORCE,
    FORCED,
    READ,
    REPORT,
    SCRIPTS,
    FleetWord,
    Keys,
    read_message,
    read_row,
    read_word,
)
from app.core.errors import Unavailable
from app.core.failure_words import one_line
from app.core.redis.door import Door
from app.core.redis.script import Script
from app.core.redis.subscription import Subscription

logger = logging.getLogger("app.core.circuit_breaker")

T = TypeVar("T")

OP_SECONDS = 0.1
"""Most that a probe may wait for Redis. Closed and open circuits never wait for it."""
JOIN_SECONDS = 1.0
"""For the first exchange, which connects and sends the scripts; on a Cluster, to every primary. Only a start waits."""
RESYNC_SECONDS = 1.0
FIRST_RESYNC_SECONDS = 0.1
RESYNC_SPREAD = 0.2
MAX_LISTED = 1000
"""Keyed circuits in trouble that a replica follows, and asks for by name, in one round."""
QUIET_SECONDS = 5.0
"""A subscription that says nothing for this long is asked whether it still lives."""
RECONNECT_SECONDS = 0.2

ROUND_TRIPS = Counter("chorus_circuit_breaker_round_trips", "Redis round trips for the fleet's circuits")
LINK_UP = Gauge("chorus_circuit_breaker_fleet_up", "1 if this replica follows the fleet, 0 if it is on its own")


class BreakerFleet:
    """Lets circuits join the fleet.

    fleet = BreakerFleet(door, namespace="chorus", replica_id="a", replicas=lambda: registry.count)
    fleet.join(gemini_circuit_breaker, whatsapp_account_breakers)
    await fleet.sync()          # before the first call: a new replica knows what the others know
    ... fleet.run()             # in the background: listens and resyncs until cancelled
    await fleet.leave()

    While Redis is away each circuit decides by itself; its return is noticed within a resync.
    """

    def __init__(
        self,
        door: Door,
        *,
        namespace: str,
        replica_id: str,
        replicas: Callable[[], int] = lambda: 1,
        living: Callable[[str], int] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`living`: how many living replicas may call what is behind the circuit of this name (default: all); with more
        than one, one alone in trouble does not open it for all."""
        self.keys = Keys(namespace)
        self.living = living or (lambda _name: replicas())
        self.replica_id = replica_id
        self.now = now
        self.up = False
        self.on_recovery: Callable[[str, State], None] = lambda _name, _state: None
        """Told of what this replica did for the fleet: a circuit is half open because the dependency was seen well, or
        closed after good probes."""
        self.replicas = 1
        """How many share the probes while Redis is away: the last count made while it was there."""
        self._door = door
        self._count_replicas = replicas
        self._links: dict[str, FleetLink] = {}
        self._families: dict[str, KeyedCircuitBreakers] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sync_now = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._pause = FIRST_RESYNC_SECONDS

    # -- members

    def join(self, *members: CircuitBreaker | KeyedCircuitBreakers) -> None:
        """From now on they follow the fleet and report to it. One that was joined elsewhere leaves there."""
        for member in members:
            if isinstance(member, KeyedCircuitBreakers):
                self._families[member.name] = member
                member.join(self._attach)
            else:
                self._links[member.name] = self._attach(member)

    def _attach(self, breaker: CircuitBreaker) -> FleetLink:
        link = FleetLink(self, breaker)
        breaker.attach(link)
        return link

    async def leave(self) -> None:
        """The circuits are this process's own again; what was still under way is waited for. Idempotent."""
        self.up = False
        LINK_UP.set(0)
        for link in self._all_links():
            if link.breaker.link is link:
                link.breaker.attach(None)
        for family in self._families.values():
            family.join(None)
        self._links.clear()
        self._families.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _all_links(self) -> Iterable[FleetLink]:
        yield from self._links.values()
        for family in self._families.values():
            for breaker in family.breakers():
                if isinstance(breaker.link, FleetLink):
                    yield breaker.link

    def _find(self, name: str, word: FleetWord) -> FleetLink | None:
        """The link of a breaker; a keyed one that is in trouble elsewhere is made before its first call here."""
        if name in self._links:
            return self._links[name]
        family_name, _, key = name.partition(":")
        family = self._families.get(family_name)
        if family is None or not key:
            return None
        troubled = word.view.state is not CLOSED or word.view.forced or word.failures > 0
        breaker = family.get(key) if troubled else family.find(key)
        return breaker.link if breaker is not None and isinstance(breaker.link, FleetLink) else None

    # -- talking to Redis

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it whoever goes away; `leave` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def spawn_if_running(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """As `spawn`, from where there may be no event loop any more: a coroutine that is being destroyed."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self.spawn(work())

    async def run_script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The script's answer within `OP_SECONDS`, or `None`: this replica is on its own until the next resync."""
        return await self._answer(self._door.run(script, keys, args, within_seconds=OP_SECONDS))

    async def _answer(self, asked: Awaitable[T]) -> T | None:
        ROUND_TRIPS.inc()
        try:
            return await asked
        except Unavailable as exc:
            if self.up:
                logger.warning("circuit breakers: Redis is away, deciding locally", extra={"reason": str(exc)})
            self.up = False
            LINK_UP.set(0)
            return None

    async def read(self, breaker: CircuitBreaker) -> None:
        """Learn what the fleet thinks of a circuit that has not heard of it yet."""
        asked = {breaker.name: breaker.version}
        rows = await self.run_script(READ, *self._read_call(breaker.name.partition(":")[0], [breaker.name]))
        self._learn_rows(rows or (), asked)

    def _read_call(self, group: str, names: Iterable[str]) -> tuple[list[str], list[Any]]:
        return [self.keys.index(group)], [self.keys.prefix(group), MAX_LISTED, *names]

    def _learn_rows(self, rows: Iterable[Sequence[bytes]], asked: dict[str, tuple[int, int]]) -> None:
        for row in rows:
            name, word = read_row(row, self.now())
            link = self._find(name, word)
            if link is not None:
                link.heard(word, asked=asked.get(name))

    # -- staying in step

    async def sync(self) -> bool:
        """Tell what nobody knows yet and read every verdict, in one round trip. False: Redis is away."""
        async with self._syncing:
            returning = not self.up
            if returning:
                for link in self._all_links():
                    link.breaker.forget_delta()  # what was seen alone is never replayed
            told = [] if returning else self._successes()
            groups = self._groups()
            asked = {link.breaker.name: link.breaker.version for link in self._all_links()}
            seconds = JOIN_SECONDS if returning else OP_SECONDS
            answers = await self._exchange(told, groups, load=returning, within_seconds=seconds)
            if answers is None:
                return False
            for (link, _), answer in zip(told, answers, strict=False):
                link.reported(answer, asked[link.breaker.name])
            if returning:
                self.up = True
                LINK_UP.set(1)
                logger.info("circuit breakers: following the fleet", extra={"replica": self.replica_id})
            for rows in answers[len(told) :]:
                self._learn_rows(rows, asked)
            self.replicas = max(1, self._count_replicas())
            return True

    def _successes(self) -> list[tuple[FleetLink, list[Any]]]:
        """Reports of circuits without trouble of late. A keyed circuit's are worth a word only while failures count."""
        told = []
        for link in self._all_links():
            single = link.breaker.name in self._links
            if single or link.breaker.is_fleet_failing:
                delta = link.breaker.delta(successes=True)
                if delta is not None:
                    told.append((link, link.report_args(delta)))
            else:
                link.breaker.forget_successes()
            if len(told) >= MAX_LISTED:
                break
        return told

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {family: [] for family in self._families}
        for link in self._all_links():
            name = link.breaker.name
            if name in self._links or link.breaker.is_fleet_failing:
                names = groups.setdefault(name.partition(":")[0], [])
                if len(names) < MAX_LISTED:
                    names.append(name)
        return groups

    async def _exchange(
        self, told: Sequence[tuple[FleetLink, list[Any]]], groups: dict[str, list[str]], *, load: bool,
        within_seconds: float,
    ) -> list[Any] | None:  # fmt: skip
        calls = [(REPORT, link.report_keys, args) for link, args in told]
        calls += [(READ, *self._read_call(group, names)) for group, names in groups.items()]
        scripts = SCRIPTS if load else ()
        return await self._answer(self._door.run_together(calls, load=scripts, within_seconds=within_seconds))

    async def run(self) -> None:
        """Listen and resync until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="breakers: listen")
            group.create_task(self._resync(), name="breakers: resync")

    async def _resync(self) -> None:
        while True:
            await self.sync()
            self._sync_now.clear()
            self._pause = min(2 * self._pause, RESYNC_SECONDS)
            pause = self._pause * (1 + RESYNC_SPREAD * random.uniform(-1, 1))
            try:
                async with asyncio.timeout(pause):
                    await self._sync_now.wait()
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """A circuit has closed. The others should know soon that this replica calls, or one in trouble seems alone."""
        self._pause = FIRST_RESYNC_SECONDS
        self._sync_now.set()

    async def _listen(self) -> None:
        while True:
            try:
                subscription = await self._door.subscribe(self.keys.channel)
                try:
                    self._sync_now.set()  # what was published before is not repeated
                    await subscription.follow(self.hear, self._check(subscription))
                finally:
                    await subscription.aclose()
            except Unavailable as exc:
                logger.info("circuit breakers: no push, the resync goes on", extra={"reason": str(exc)})
            await asyncio.sleep(RECONNECT_SECONDS * (0.5 + random.random()))

    async def _check(self, subscription: Subscription) -> None:
        """A subscription that says nothing may be lost: ask. Raises `Unavailable`."""
        heard = -1
        while True:
            if heard == subscription.heard:
                await subscription.check(within_seconds=QUIET_SECONDS)
            heard = subscription.heard
            await asyncio.sleep(QUIET_SECONDS)

    def hear(self, message: bytes) -> None:
        """Learn from a published message. In any order, any number of times: only news counts."""
        name, word = read_message(message, self.now())
        link = self._find(name, word)
        if link is not None:
            link.heard(word, asked=None)

    # -- for people

    async def force(self, name: str, state: str, *, who: str, why: str) -> FleetWord:
        """`open`, `closed` or `auto`, for every replica and until told otherwise. Raises `Unavailable`."""
        args = [name, self.keys.channel, FORCED[state], one_line(who), one_line(why)]
        answer = await self._door.run(FORCE, self.keys.of(name), args, urgent=True)
        word = read_word(answer[1:], self.now())
        link = self._find(name, word)
        if link is not None:
            link.heard(word, asked=None)
        return word

    async def list(self, names: Iterable[str]) -> dict[str, FleetWord]:
        """The fleet's verdict on these, and on every keyed circuit of their groups in trouble. Raises `Unavailable`."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.partition(":")[0], []).append(name)
        words: dict[str, FleetWord] = {}
        for group, members in groups.items():
            for row in await self._door.run(READ, *self._read_call(group, members), urgent=True):
                name, word = read_row(row, self.now())
                words[name] = word
        return words
