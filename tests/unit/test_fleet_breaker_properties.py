"""Any history of replicas, calls, lost messages, crashed probers, time and lost servers keeps the fleet's promises.
The scripts run on a server whose clock the test moves; every replica has a clock of its own, far from the others'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import fakeredis
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.core.circuit_breaker import BreakerFleet, BreakerPolicy, CircuitBreaker, CircuitBreakerOpenError, State
from app.core.errors import Unavailable
from app.core.redis.door import Door
from tests.support.faulty_redis import Line, OwnClock

from .test_queue_model import MovedClock, server_time

NAME = "api"
BASE, CAP, LEASE, THRESHOLD = 30.0, 100.0, 20.0, 3


@dataclass(eq=False)
class Call:
    replica: ModelReplica
    version: tuple[int, int]
    probe: bool
    began: float
    end: asyncio.Future[str]
    task: asyncio.Task[str] = field(init=False)


@dataclass(eq=False)
class ModelReplica:
    breaker: CircuitBreaker
    fleet: BreakerFleet
    line: Line
    now: Callable[[], float]
    inbox: list[bytes] = field(default_factory=list)


class Fleet(RuleBasedStateMachine):
    @initialize(successes=st.integers(1, 2), probes=st.integers(1, 2), quorum=st.integers(1, 2))
    def build(self, successes: int, probes: int, quorum: int) -> None:
        self.policy = BreakerPolicy(
            failure_threshold=THRESHOLD, open_seconds=BASE, max_open_seconds=CAP, success_threshold=successes,
            max_probes=probes, probe_lease_seconds=LEASE, quorum=quorum,
        )  # fmt: skip
        self.clock = MovedClock()
        self.patch = server_time(self.clock)
        self.patch.__enter__()
        self.runner = asyncio.Runner()
        self.redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(server_type="valkey"))
        self.redis_down = False
        self.chance = 0.0
        self.calls: list[Call] = []
        self.good: dict[tuple[int, int], int] = {}
        self.bad: dict[tuple[int, int], int] = {}
        self.flushed = False
        self.replicas = [self.new_replica(number) for number in range(3)]
        self.push = self.redis.pubsub()
        self.run(self.push.subscribe("t:breakers"))
        self.seen = self.truth()

    def new_replica(self, number: int) -> ModelReplica:
        clock = OwnClock(self.clock, offset=-1.6e9 + 1000.0 * number)
        line = Line(self.redis)
        line.cut = self.redis_down
        breaker = CircuitBreaker(NAME, self.policy, clock=clock, uniform=lambda: self.chance)
        fleet = BreakerFleet(
            Door(line), namespace="t", replica_id=f"r{number}", replicas=lambda: 3, now=clock.monotonic
        )
        fleet.join(breaker)
        self.run(fleet.sync())
        return ModelReplica(breaker, fleet, line, clock.monotonic)

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    async def quiet(self) -> None:
        """Until nothing moves any more but what waits for the test."""
        for _ in range(1000):
            await asyncio.sleep(0)
            waiting = [call for call in self.calls if not call.task.done()]
            busy = any(replica.fleet.tasks for replica in self.replicas)
            if not busy and len(asyncio.all_tasks()) <= 1 + len(waiting):
                return
        raise AssertionError("it never came to rest")

    async def reported(self) -> None:
        while any(replica.fleet.tasks for replica in self.replicas):
            await asyncio.sleep(0)

    def truth(self) -> dict[str, Any]:
        """What the server holds."""
        return self.run(self._truth())

    async def _truth(self) -> dict[str, Any]:
        prefix = f"t:breaker:{{{NAME}}}:{NAME}:"
        raw = {k.decode(): v.decode() for k, v in (await self.redis.hgetall(f"{prefix}s")).items()}
        now = self.clock.seconds * 1e6
        return {
            "state": raw.get("state", "closed"),
            "version": (int(raw.get("life", 0)), int(raw.get("epoch", 0))),
            "until": int(raw.get("until", 0)),
            "issued": int(raw.get("issued", 0)),
            "why": raw.get("why", ""),
            "live": await self.redis.zcount(f"{prefix}p", f"({now:.0f}", "+inf"),
        }

    def collect(self) -> None:
        async def drain() -> list[bytes]:
            found = []
            while (message := await self.push.get_message(ignore_subscribe_messages=False, timeout=0)) is not None:
                if message["type"] == "message":
                    found.append(message["data"])
            return found

        for data in self.run(drain()):
            for replica in self.replicas:
                replica.inbox.append(data)

    # -- what replicas do

    @rule(number=st.integers(0, 2), chance=st.sampled_from([0.0, 0.5]))
    def call(self, number: int, chance: float) -> None:
        self.begin(number, chance)

    def begin(self, number: int, chance: float) -> Call | None:
        replica, self.chance = self.replicas[number], chance
        before = replica.breaker.view
        due = before.state is State.HALF_OPEN or (
            before.state is State.OPEN and not before.forced and replica.now() >= before.until
        )
        operations = replica.line.operations
        call = self.run(self._begin(replica))
        if not due:
            assert replica.line.operations == operations, "closed and open calls are local"
            assert (call is not None) == (before.state is State.CLOSED)
        self.every_change_is_one_of_the_allowed()
        return call

    async def _begin(self, replica: ModelReplica) -> Call | None:
        started: list[Call] = []
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def work() -> str:
            view = replica.breaker.view
            probe = view.state is not State.CLOSED and not view.local and replica.fleet.up
            started.append(Call(replica, replica.breaker.fleet_view.version, probe, self.clock.seconds, end))
            return await end

        task = asyncio.create_task(replica.breaker.call_async(work))
        for _ in range(200):
            await asyncio.sleep(0)
            if started or task.done():
                break
        await self.reported()
        if task.done():
            assert isinstance(task.exception(), CircuitBreakerOpenError)
            assert task.exception().retry_after >= 0
            return None
        call = started[0]
        call.task = task
        self.calls.append(call)
        return call

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "fail", "fail", "fail", "hold", "bad", "cancel"]))
    def end(self, data: Any, outcome: str) -> None:
        self.end_one(data.draw(st.sampled_from(self.calls)), outcome)

    def end_one(self, call: Call, outcome: str) -> None:
        self.calls.remove(call)
        before = self.truth()
        timely = call.version == before["version"]
        in_time = not call.probe or self.clock.seconds - call.began < LEASE
        if outcome == "ok" and call.probe and timely and in_time:
            self.good[call.version] = self.good.get(call.version, 0) + 1
        if outcome in ("fail", "hold"):
            self.bad[call.version] = self.bad.get(call.version, 0) + 1
        self.run(self._end(call, outcome))
        after = self.truth()
        if not (timely and in_time) or outcome in ("bad", "cancel"):
            assert after["version"] == before["version"], "late, or nobody's fault"
        self.every_change_is_one_of_the_allowed()

    async def _end(self, call: Call, outcome: str) -> None:
        if outcome == "cancel":
            call.task.cancel()
        elif outcome == "ok":
            call.end.set_result("ok")
        else:
            error = {"fail": Unavailable("x"), "hold": Unavailable("x", retry_after=45.0), "bad": ValueError()}
            call.end.set_exception(error[outcome])
        await asyncio.wait([call.task])
        await self.quiet()
        if not call.task.cancelled():
            call.task.exception()

    @rule(numbers=st.tuples(st.integers(0, 2), st.integers(0, 2)))
    def outage(self, numbers: tuple[int, int]) -> None:
        """As many failures as it takes, if they count."""
        for count in range(THRESHOLD):
            self.call_and_end(numbers[count % 2], "fail")

    @rule(number=st.integers(0, 2), outcome=st.sampled_from(["ok", "ok", "fail", "bad", "cancel"]))
    def probe(self, number: int, outcome: str) -> None:
        """At the moment the circuit is due."""
        left = self.truth()["until"] / 1e6 - self.clock.seconds
        self.clock.seconds += max(0.1, left + 0.01 if left < CAP * 2 else 0.1)
        self.call_and_end(number, outcome)

    @rule(number=st.integers(0, 2))
    def early(self, number: int) -> None:
        """Just before the circuit is due."""
        left = self.truth()["until"] / 1e6 - self.clock.seconds
        if 2 < left < CAP * 2:
            self.clock.seconds += left - 1
        self.call(number, 0.0)

    def call_and_end(self, number: int, outcome: str) -> None:
        call = self.begin(number, 0.0)
        if call is not None:
            self.end_one(call, outcome)

    # -- what the world does

    def crash(self, number: int) -> None:
        """Without a word; another one takes its place."""
        old = self.replicas[number]
        old.line.cut = True
        lost = [call for call in self.calls if call.replica is old]
        self.calls = [call for call in self.calls if call.replica is not old]

        async def die() -> None:
            for call in lost:
                call.task.cancel()
            if lost:
                await asyncio.wait([call.task for call in lost])
            await self.quiet()

        self.run(die())
        self.replicas[number] = self.new_replica(number)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, LEASE, BASE, 2 * BASE * 1.2, CAP * 1.2]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(number=st.integers(0, 2))
    def resync(self, number: int) -> None:
        self.run(self.replicas[number].fleet.sync())

    @rule(data=st.data(), number=st.integers(0, 2))
    def message(self, data: Any, number: int) -> None:
        """Some of the messages arrive, in any order, perhaps twice; some never."""
        replica = self.replicas[number]
        if replica.inbox:
            message = data.draw(st.sampled_from(replica.inbox))
            if data.draw(st.booleans()):
                replica.inbox.remove(message)
            replica.fleet.hear(message)

    def lose(self, number: int, fault: str) -> None:
        self.replicas[number].line.fault = fault

    def server(self, what: str) -> None:
        if what == "flush":
            self.clock.seconds += 0.001  # a history is told by the microsecond of its beginning: no flush is that fast
            self.run(self.redis.flushall())
            self.flushed = True
            for replica in self.replicas:
                replica.inbox.clear()
        else:
            self.redis_down = what == "down"
            for replica in self.replicas:
                replica.line.cut = self.redis_down

    def force(self, state: str, number: int) -> None:
        replica = self.replicas[number]
        if not replica.line.cut:
            replica.line.fault = ""
            told = self.run(replica.fleet.force(NAME, state, who="operator", why="test"))
            assert told.manual

    @rule(
        number=st.integers(0, 2),
        what=st.sampled_from(
            ["crash", "crash", "request", "reply", "down", "up", "up", "flush", "open", "closed", "auto"]
        ),
    )
    def trouble(self, number: int, what: str) -> None:
        """One rule for all of it, so that most of a history is about circuits."""
        if what == "crash":
            self.crash(number)
        elif what in ("request", "reply"):
            self.lose(number, what)
        elif what in ("down", "up", "flush"):
            self.server(what)
        else:
            self.force(what, number)

    # -- what must hold

    @invariant()
    def every_change_is_one_of_the_allowed(self) -> None:
        if not hasattr(self, "seen"):
            return
        self.collect()
        before, after = self.seen, self.truth()
        self.seen = after
        if self.flushed:
            self.flushed = False
            return
        assert after["version"] >= before["version"]
        if after["version"] == before["version"]:
            assert after["state"] == before["state"]
            assert after["until"] >= before["until"]
            return
        assert (before["state"], after["state"]) != ("closed", "half_open")
        if after["why"] == "recovered" and after["state"] == "closed":
            assert self.good.get(before["version"], 0) >= self.policy.success_threshold
        if after["why"] == "failures":
            assert self.bad.get(before["version"], 0) >= THRESHOLD
        if after["state"] == "open":
            lasts = after["until"] / 1e6 - self.clock.seconds
            assert BASE - 1e-3 <= lasts <= CAP * 1.2 + 1e-3

    @invariant()
    def permits_stay_within_bounds(self) -> None:
        if not hasattr(self, "seen"):
            return
        assert self.seen["live"] <= self.policy.max_probes
        assert 0 <= self.seen["issued"] <= self.policy.success_threshold
        probing = [
            call for call in self.calls
            if call.probe and call.version == self.seen["version"] and self.clock.seconds - call.began < LEASE
        ]  # fmt: skip
        assert len(probing) <= self.policy.max_probes

    def teardown(self) -> None:
        """However it ended: with the server back every replica agrees after a resync, and open ends."""
        if not hasattr(self, "runner"):
            return
        try:
            if hasattr(self, "seen"):
                self.server("up")
                for replica in self.replicas:
                    replica.line.fault = ""
                self.check_agreement()
                self.check_liveness()
        finally:
            self.run(self.finish())
            self.runner.close()
            self.patch.__exit__(None, None, None)

    def check_agreement(self) -> None:
        truth = self.truth()
        for replica in self.replicas:
            assert self.run(replica.fleet.sync())
            assert replica.breaker.fleet_view.version == truth["version"]
            view = replica.breaker.view
            if not view.local:
                assert (f"forced_{view.state}" if view.forced else view.state) == truth["state"]
            else:  # only what it has seen itself keeps a replica from the fleet's closed circuit
                assert view.state is State.CLOSED or truth["state"] in ("closed", "half_open")

    def check_liveness(self) -> None:
        if self.truth()["state"].startswith("forced"):
            return
        self.clock.seconds += CAP * 1.2 + LEASE + 1
        replica = self.replicas[0]
        for _ in range(2 * self.policy.success_threshold + 1):
            self.clock.seconds += 2.0
            self.run(replica.fleet.sync())
            call = self.run(self._begin(replica))
            assert call is not None, "nothing is under way any more, so one more call is let through"
            self.calls.remove(call)
            self.run(self._end(call, "ok"))
        assert replica.breaker.snapshot().state is State.CLOSED

    async def finish(self) -> None:
        for call in self.calls:
            call.task.cancel()
        if self.calls:
            await asyncio.wait([call.task for call in self.calls])
        for replica in self.replicas:
            await replica.fleet.leave()
        await self.push.aclose()
        await self.redis.aclose()


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=40, stateful_step_count=50,
    phases=(Phase.explicit, Phase.generate),  # shrinking a failure takes minutes: by hand
)  # fmt: skip
