"""A replica's side of the fleet: its circuits join, report, ask who may probe, listen and resync; and what an operator
decides for all."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import starmap
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge

from app.core.circuit_breaker import transition_log, wire
from app.core.circuit_breaker.breaker import CircuitBreaker, FleetLease
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.local import NOTHING, Delta
from app.core.circuit_breaker.outcomes import IGNORED, Verdict
from app.core.circuit_breaker.rules import CLOSED, HALF_OPEN, UNKNOWN, Counts, State, View
from app.core.circuit_breaker.wire import Keys, ScriptCall, micros, read_answer
from app.core.errors import Unavailable
from app.core.failure_words import one_line
from app.core.redis.door import Door
from app.core.redis.listening import ListenTimings, listen
from app.core.redis.script import Script

logger = logging.getLogger("app.core.circuit_breaker")

T = TypeVar("T")

ROUND_TRIPS = Counter("chorus_circuit_breaker_round_trips", "Redis round trips for the fleet's circuits")
FLEET_UP = Gauge("chorus_circuit_breaker_fleet_up", "1 if this replica follows the fleet, 0 if it is on its own")

REPORTS_AT_ONCE = 10
"""Of a resync: half of a door's connections, so that calls that ask for a permit need not wait for them."""
PATIENT = ListenTimings(check=5.0, answer=5.0)
"""What a channel that was lost without a sign would have told is learned with the next resync."""


@dataclass(frozen=True, slots=True)
class FleetTimings:
    """Seconds."""

    answer_seconds: float = 0.1
    """Most that a probe may wait for Redis. Closed and open circuits never wait for it."""
    join_seconds: float = 1.0
    """For each read of the first exchange, which connects and sends the script."""
    resync_seconds: float = 1.0
    first_resync_seconds: float = 0.1
    """After a start, and after a circuit has closed; doubled each time up to `resync_seconds`."""
    resync_spread: float = 0.2
    """Share by which a pause is longer or shorter, at random."""
    denied_seconds: tuple[float, float] = (0.025, 0.075)
    """A replica that was refused a permit does not ask again for this long, at random in between."""
    listening: ListenTimings = PATIENT


DEFAULT_TIMINGS = FleetTimings()


@dataclass(eq=False)
class BreakerFleet:
    """Lets circuits join the fleet.

    fleet = BreakerFleet(door, namespace="chorus", replica_id="a", replicas=lambda: registry.count)
    fleet.join(gemini_circuit_breaker, whatsapp_account_breakers)
    await fleet.sync()          # before the first call: a new replica knows what the others know
    ... fleet.run()             # in the background: listens and resyncs until cancelled
    await fleet.leave()

    While Redis is away each circuit decides by itself; its return is noticed within a resync.
    """

    door: Door
    _: KW_ONLY
    namespace: str
    replica_id: str
    replicas: Callable[[], int] = lambda: 1
    """How many replicas there are; while Redis is away how many there were."""
    living: Callable[[str], int] | None = None
    """How many living replicas may call what is behind the circuit of this name (`None`: all); with more than one, one
    alone in trouble does not open it for all."""
    timings: FleetTimings = DEFAULT_TIMINGS
    now: Callable[[], float] = time.monotonic
    on_recovery: Callable[[str, State], None] = lambda _name, _state: None
    """Told of what this replica did for the fleet: a circuit is half open because the dependency was seen well, or
    closed after good probes."""
    up: bool = field(default=False, init=False)
    """Does this replica follow the fleet? Else it is on its own."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set, init=False)
    """Reports and questions under way."""

    def __post_init__(self) -> None:
        self._keys = Keys(self.namespace)
        self._breakers: dict[str, CircuitBreaker] = {}
        self._families: dict[str, KeyedCircuitBreakers] = {}
        self._reporting: set[CircuitBreaker] = set()
        self._asking: set[CircuitBreaker] = set()
        self._sync_now = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._pause = self.timings.first_resync_seconds

    @property
    def share(self) -> float:
        """This replica's, of the probes that all make while Redis is away; in (0, 1]."""
        return 1 / self.replicas()

    # -- members

    def join(self, *members: CircuitBreaker | KeyedCircuitBreakers) -> None:
        """From now on they follow the fleet and report to it. One that was joined elsewhere leaves there."""
        for member in members:
            if isinstance(member, KeyedCircuitBreakers):
                self._families[member.name] = member
            else:
                self._breakers[member.name] = member
            member.attach(self)

    async def leave(self) -> None:
        """The circuits are this process's own again; what was still under way is waited for. Idempotent."""
        self._follow(up=False)
        members: list[CircuitBreaker | KeyedCircuitBreakers] = [*self._breakers.values(), *self._families.values()]
        for member in members:
            if member.fleet is self:
                member.attach(None)
        self._breakers.clear()
        self._families.clear()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _all(self) -> Iterator[CircuitBreaker]:
        yield from self._breakers.values()
        for family in self._families.values():
            yield from family.breakers()

    def _find(self, name: str, told: View) -> CircuitBreaker | None:
        """A keyed one that is in trouble elsewhere is made before its first call here."""
        family_name, _, key = name.partition(":")
        family = self._families.get(family_name) if key else None
        if family is None or name in self._breakers:
            return self._breakers.get(name)
        return family.get(key) if told.is_in_trouble else family.find(key)

    # -- asking Redis

    async def _answer(self, asked: Awaitable[T]) -> T | None:
        """Of Redis in time, or `None`: this replica is on its own until the next resync."""
        ROUND_TRIPS.inc()
        try:
            return await asked
        except Unavailable as exc:
            if self.up:
                logger.warning("circuit breakers: Redis is away, deciding locally", extra={"reason": str(exc)})
            self._follow(up=False)
            return None

    def _call(self, breaker: CircuitBreaker, script: Script, *args: Any) -> ScriptCall:
        names = [breaker.name, self._keys.channel, self.replica_id]
        return script, self._keys.of(breaker.name), [*names, *args]

    async def _ask(self, breaker: CircuitBreaker, call: ScriptCall) -> tuple[list[int], View] | None:
        """What a script says of one circuit: its own numbers, and the fleet's state, which the circuit learns."""
        asked = breaker.fleet_view.version
        answer = await self._answer(self.door.run(*call, within_seconds=self.timings.answer_seconds))
        if answer is None:
            return None
        numbers, told = read_answer(answer, self.now())
        self._tell(breaker, told, asked)
        return numbers, told

    def _learn(self, name: str, told: View, asked: tuple[int, int] | None = None) -> None:
        breaker = self._find(name, told)
        if breaker is not None:
            self._tell(breaker, told, asked)

    def _tell(self, breaker: CircuitBreaker, told: View, asked: tuple[int, int] | None) -> None:
        """The fleet's state: a message (`asked` is `None`), or the answer to a question."""
        if not breaker.learn(told, asked=asked):
            return
        if told.state is CLOSED:
            # The others should know soon that this replica calls, or one in trouble seems alone.
            self._pause = self.timings.first_resync_seconds
            self._sync_now.set()
        if told.who != self.replica_id:
            transition_log.told(breaker.name, told)

    def _follow(self, *, up: bool) -> None:
        """Follow the fleet, or decide alone."""
        self.up = up
        FLEET_UP.set(up)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """It goes on when its caller is cancelled; `leave` waits for it."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # -- reports

    def report(self, breaker: CircuitBreaker) -> None:
        """Something went wrong: tell the fleet now, in the background."""
        if self.up and breaker not in self._reporting:
            self._reporting.add(breaker)
            self._spawn(self._report(breaker))

    async def _report(self, breaker: CircuitBreaker) -> None:
        """Until everything is told: what happens while a report is under way travels with the next one."""
        try:
            if breaker.fleet_view.version == UNKNOWN.version:  # what is told then counts for nothing: learn it first
                await self._report_one(breaker, NOTHING)
            while (delta := breaker.delta(successes=False)) is not None:
                if not await self._report_one(breaker, delta):
                    return
        finally:
            self._reporting.discard(breaker)
            breaker.announce()

    async def _report_one(self, breaker: CircuitBreaker, delta: Delta) -> bool:
        """False: Redis is away."""
        args = [
            breaker.name, self._keys.channel, *breaker.fleet_view.version, self.replica_id,
            delta.calls, delta.failed, delta.slow, delta.after, micros(delta.hold_seconds),
            *wire.report_rules(breaker.policy), micros(delta.ok_age_seconds), micros(delta.row_age_seconds),
            delta.cause, self.living(breaker.name) if self.living else self.replicas(),
        ]  # fmt: skip
        answer = await self._ask(breaker, (wire.REPORT, self._keys.of_report(breaker.name), args))
        if answer is None:
            return False
        (changed, *counts), told = answer
        if changed:
            transition_log.tripped(breaker.name, told, Counts(*counts), threshold=breaker.policy.failure_threshold)
        return True

    # -- probes

    async def acquire(self, breaker: CircuitBreaker) -> FleetLease | None:
        """A permit, if there is one to be had. What the fleet says on the occasion is learned."""
        if breaker in self._asking:
            return None
        self._asking.add(breaker)
        asking = self._spawn(self._acquire(breaker))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._spawn(self._give_back(breaker, asking))
            raise

    async def _acquire(self, breaker: CircuitBreaker) -> FleetLease | None:
        policy, lease = breaker.policy, secrets.token_hex(8)
        limits = micros(policy.probe_lease_seconds), policy.max_probes, policy.success_threshold
        try:
            answer = await self._ask(breaker, self._call(breaker, wire.ACQUIRE, lease, *limits))
        finally:
            self._asking.discard(breaker)
        if answer is None:
            return None  # granted or not, this is unknown: the lease runs out by itself
        (granted, changed), told = answer
        if changed:
            transition_log.half_opened(breaker.name, told)
        if granted:
            return FleetLease(lease, *told.version)
        breaker.put_off(random.uniform(*self.timings.denied_seconds))
        return None

    async def _give_back(self, breaker: CircuitBreaker, asking: asyncio.Task[FleetLease | None]) -> None:
        """Its caller is gone, and the server may have granted it by now."""
        if (lease := await asking) is not None:
            await self._settle(breaker, lease, IGNORED)

    def settle(self, breaker: CircuitBreaker, lease: FleetLease, verdict: Verdict) -> asyncio.Future[bool | None]:
        """Did the outcome count? `None`: the fleet is out of reach. Begun at once, whether it is waited for or not.
        Raises `RuntimeError` where no event loop runs: in a coroutine that is destroyed after its loop has ended."""
        asyncio.get_running_loop()
        return self._spawn(self._settle(breaker, lease, verdict))

    async def _settle(self, breaker: CircuitBreaker, lease: FleetLease, verdict: Verdict) -> bool | None:
        policy = breaker.policy
        call = self._call(
            breaker, wire.SETTLE, *lease, wire.OUTCOMES[verdict.outcome], micros(verdict.hold_seconds),
            micros(policy.open_seconds), micros(policy.max_open_seconds), policy.jitter * random.random(),
            policy.success_threshold, verdict.cause,
        )  # fmt: skip
        answer = await self._ask(breaker, call)
        if answer is None:
            return None
        (settled, changed), told = answer
        breaker.put_off(0.0)
        if changed and told.state is CLOSED:
            transition_log.closed(breaker.name, told)
            self.on_recovery(breaker.name, CLOSED)
        elif changed:
            transition_log.reopened(breaker.name, told)
        return settled == 1

    async def prove(self, breaker: CircuitBreaker) -> None:
        """The dependency was seen well: make the fleet's circuit half open, if it is open."""
        answer = await self._ask(breaker, self._call(breaker, wire.PROVE))
        if answer is None:
            return
        (changed,), told = answer
        breaker.put_off(0.0)
        if changed:
            transition_log.half_opened(breaker.name, told)
            self.on_recovery(breaker.name, HALF_OPEN)

    # -- staying in step

    async def sync(self) -> bool:
        """Tell what the fleet does not know yet and read every state. False: Redis is away."""
        async with self._syncing:
            timings, returning = self.timings, not self.up
            followed = self._followed()
            news: list[tuple[CircuitBreaker, Delta]] = []
            for breaker in self._all():
                if returning:
                    breaker.seen.forget()  # what was seen alone is never replayed
                elif breaker.name not in followed:
                    breaker.seen.forget_successes()
                elif delta := breaker.delta(successes=True):
                    news.append((breaker, delta))
            for at in range(0, len(news), REPORTS_AT_ONCE):
                told = await asyncio.gather(*starmap(self._report_one, news[at : at + REPORTS_AT_ONCE]))
                if not all(told):
                    return False
            asked = {breaker.name: breaker.fleet_view.version for breaker in self._all()}
            seconds = timings.join_seconds if returning else timings.answer_seconds
            rows: list[Sequence[bytes]] = []
            for call in self._keys.read_calls(followed, self._families):
                answer = await self._answer(self.door.run(*call, within_seconds=seconds))
                if answer is None:
                    return False
                rows += answer
            if returning:
                self._follow(up=True)
                logger.info("circuit breakers: following the fleet", extra={"replica": self.replica_id})
            for row in rows:
                name, view = wire.read_row(row, self.now())
                self._learn(name, view, asked.get(name))
            return True

    def _followed(self) -> dict[str, CircuitBreaker]:
        """By name: all but the keyed ones that are well for the fleet. Each resync tells their successes and reads
        their states."""
        troubled = (breaker for breaker in self._all() if breaker.fleet_view.is_in_trouble)
        return self._breakers | {breaker.name: breaker for breaker in troubled}

    async def run(self) -> None:
        """Listen and resync until cancelled."""
        async with asyncio.TaskGroup() as group:
            listening = listen(
                self.door, self._keys.channel, self.hear, on_open=self._catch_up, timings=self.timings.listening
            )
            group.create_task(listening, name="breakers: listen")
            group.create_task(self.keep_resyncing(), name="breakers: resync")

    async def keep_resyncing(self) -> None:
        """`run` without listening: what is published is learned a resync later."""
        while True:
            await self.sync()
            self._sync_now.clear()
            self._pause = min(2 * self._pause, self.timings.resync_seconds)
            pause = self._pause * (1 + self.timings.resync_spread * random.uniform(-1, 1))
            try:
                async with asyncio.timeout(pause):
                    await self._sync_now.wait()
            except TimeoutError:
                continue

    async def _catch_up(self) -> None:
        self._sync_now.set()

    def hear(self, message: bytes) -> None:
        """Learn from a published message. In any order, any number of times: only news counts."""
        self._learn(*wire.read_message(message, self.now()))

    # -- for people

    async def force(self, name: str, state: str, *, who: str, why: str) -> View:
        """`open`, `closed` or `auto`, for every replica and until told otherwise. Raises `Unavailable`."""
        args = [name, self._keys.channel, wire.FORCED[state], one_line(who), one_line(why)]
        _, decided = read_answer(await self.door.run(wire.FORCE, self._keys.of(name), args, urgent=True), self.now())
        self._learn(name, decided)
        return decided

    async def list(self, names: Iterable[str]) -> dict[str, View]:
        """The fleet's states of these, and on every keyed circuit of their groups in trouble. Raises `Unavailable`."""
        states: dict[str, View] = {}
        for call in self._keys.read_calls(names):
            states |= dict(wire.read_row(row, self.now()) for row in await self.door.run(*call, urgent=True))
        return states
