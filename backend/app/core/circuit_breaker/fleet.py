"""A replica's side of the fleet: its circuits join, listen and resync; and what an operator decides for all."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from itertools import chain

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.connection import DEFAULT_TIMINGS, FleetConnection, FleetTimings
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.link import FleetLink
from app.core.circuit_breaker.states import CLOSED, State
from app.core.circuit_breaker.wire import (
    FORCE,
    FORCED,
    MAX_LISTED,
    FleetState,
    Keys,
    read_message,
    read_row,
    read_state,
)
from app.core.errors import Unavailable
from app.core.failure_words import one_line
from app.core.redis.door import Door, ScriptCall
from app.core.redis.subscription import Subscription

logger = logging.getLogger("app.core.circuit_breaker")


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
        timings: FleetTimings = DEFAULT_TIMINGS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`living`: how many living replicas may call what is behind the circuit of this name (default: all); with more
        than one, one alone in trouble does not open it for all."""
        self.on_recovery: Callable[[str, State], None] = lambda _name, _state: None
        """Told of what this replica did for the fleet: a circuit is half open because the dependency was seen well, or
        closed after good probes."""
        self._door = door
        self._count_replicas = replicas
        self._timings = timings
        self._keys = Keys(namespace)
        self._connection = FleetConnection(
            door, self._keys, replica_id, timings, now, hurry=self._hurry,
            living=living or (lambda _name: replicas()), recovered=self._recovered,
        )  # fmt: skip
        self._links: dict[str, FleetLink] = {}
        self._families: dict[str, KeyedCircuitBreakers] = {}
        self._sync_now = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._pause = timings.first_resync_seconds

    @property
    def up(self) -> bool:
        """Does this replica follow the fleet? Else it is on its own."""
        return self._connection.is_up

    def _recovered(self, name: str, state: State) -> None:
        self.on_recovery(name, state)

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
        link = FleetLink(self._connection, breaker)
        breaker.attach(link)
        return link

    async def leave(self) -> None:
        """The circuits are this process's own again; what was still under way is waited for. Idempotent."""
        self._connection.lost()
        for link in self._all_links():
            if link.breaker.link is link:
                link.breaker.attach(None)
        for family in self._families.values():
            family.leave()
        self._links.clear()
        self._families.clear()
        await self._connection.finish()

    def _all_links(self) -> Iterable[FleetLink]:
        yield from self._links.values()
        for family in self._families.values():
            for breaker in family.breakers():
                if isinstance(breaker.link, FleetLink):
                    yield breaker.link

    def _find(self, name: str, state: FleetState) -> FleetLink | None:
        """The link of a breaker; a keyed one that is in trouble elsewhere is made before its first call here."""
        if name in self._links:
            return self._links[name]
        family_name, _, key = name.partition(":")
        family = self._families.get(family_name)
        if family is None or not key:
            return None
        troubled = state.view.state is not CLOSED or state.view.forced or state.failures > 0
        breaker = family.get(key) if troubled else family.find(key)
        return breaker.link if breaker is not None and isinstance(breaker.link, FleetLink) else None

    # -- staying in step

    async def sync(self) -> bool:
        """Tell what the fleet does not know yet and read every state, in one round trip. False: Redis is away."""
        async with self._syncing:
            connection, returning = self._connection, not self.up
            if returning:
                for link in self._all_links():
                    link.breaker.seen.forget()  # what was seen alone is never replayed
            told = [] if returning else self._successes()
            asked = {link.breaker.name: link.breaker.version for link in self._all_links()}
            calls = [call for _, call in told]
            calls += [self._keys.read_call(group, names) for group, names in self._groups().items()]
            answers = await connection.run_together(calls, is_first=returning)
            if answers is None:
                return False
            for (link, _), answer in zip(told, answers, strict=False):
                link.reported(answer, asked[link.breaker.name])
            if returning:
                connection.found()
            for row in chain.from_iterable(answers[len(told) :]):
                name, state = read_row(row, connection.now())
                self._learn(name, state, asked=asked.get(name))
            connection.replicas = max(1, self._count_replicas())
            return True

    def _learn(self, name: str, state: FleetState, *, asked: tuple[int, int] | None = None) -> None:
        link = self._find(name, state)
        if link is not None:
            link.heard(state, asked=asked)

    def _successes(self) -> list[tuple[FleetLink, ScriptCall]]:
        """Reports of circuits without trouble of late. Those of keyed ones are sent only while failures count."""
        told = []
        for link in self._all_links():
            if not self._is_followed(link):
                link.breaker.seen.forget_successes()
            elif (delta := link.breaker.delta(successes=True)) is not None:
                told.append((link, link.report_call(delta)))
            if len(told) >= MAX_LISTED:
                break
        return told

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {family: [] for family in self._families}
        for link in filter(self._is_followed, self._all_links()):
            names = groups.setdefault(link.breaker.name.partition(":")[0], [])
            if len(names) < MAX_LISTED:
                names.append(link.breaker.name)
        return groups

    def _is_followed(self, link: FleetLink) -> bool:
        """Is it read by name with every resync?"""
        return link.breaker.name in self._links or link.breaker.is_fleet_failing

    async def run(self) -> None:
        """Listen and resync until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="breakers: listen")
            group.create_task(self._resync(), name="breakers: resync")

    async def _resync(self) -> None:
        while True:
            await self.sync()
            self._sync_now.clear()
            self._pause = min(2 * self._pause, self._timings.resync_seconds)
            pause = self._pause * (1 + self._timings.resync_spread * random.uniform(-1, 1))
            try:
                async with asyncio.timeout(pause):
                    await self._sync_now.wait()
            except TimeoutError:
                continue

    def _hurry(self) -> None:
        """A circuit has closed. The others should know soon that this replica calls, or one in trouble seems alone."""
        self._pause = self._timings.first_resync_seconds
        self._sync_now.set()

    async def _listen(self) -> None:
        while True:
            try:
                subscription = await self._door.subscribe(self._keys.channel)
                try:
                    self._sync_now.set()  # what was published before is not repeated
                    await subscription.follow(self.hear, self._check(subscription))
                finally:
                    await subscription.aclose()
            except Unavailable as exc:
                logger.info("circuit breakers: no push, the resync goes on", extra={"reason": str(exc)})
            await asyncio.sleep(self._timings.reconnect_seconds * (0.5 + random.random()))

    async def _check(self, subscription: Subscription) -> None:
        """A subscription that says nothing may be lost: ask. Raises `Unavailable`."""
        heard = -1
        while True:
            if heard == subscription.heard:
                await subscription.check(within_seconds=self._timings.quiet_seconds)
            heard = subscription.heard
            await asyncio.sleep(self._timings.quiet_seconds)

    def hear(self, message: bytes) -> None:
        """Learn from a published message. In any order, any number of times: only news counts."""
        self._learn(*read_message(message, self._connection.now()))

    # -- for people

    async def force(self, name: str, state: str, *, who: str, why: str) -> FleetState:
        """`open`, `closed` or `auto`, for every replica and until told otherwise. Raises `Unavailable`."""
        args = [name, self._keys.channel, FORCED[state], one_line(who), one_line(why)]
        answer = await self._door.run(FORCE, self._keys.of(name), args, urgent=True)
        decided = read_state(answer[1:], self._connection.now())
        self._learn(name, decided)
        return decided

    async def list(self, names: Iterable[str]) -> dict[str, FleetState]:
        """The fleet's states of these, and on every keyed circuit of their groups in trouble. Raises `Unavailable`."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.partition(":")[0], []).append(name)
        states: dict[str, FleetState] = {}
        for group, members in groups.items():
            for row in await self._door.run(*self._keys.read_call(group, members), urgent=True):
                name, found = read_row(row, self._connection.now())
                states[name] = found
        return states
