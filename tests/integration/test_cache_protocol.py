"""No interleaving brings an old value back: random ones, the known races, and proof that each guard matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app.core.cache import loading, tiers
from app.core.cache import shard as shard_module
from app.core.cache.channel import Channel
from app.core.cache.keep import Flight
from app.core.redis import Script
from cache_sim import World

SETTINGS = settings(
    max_examples=50, stateful_step_count=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def machine(url: str, *, replicas: int, keys_count: int) -> type[RuleBasedStateMachine]:  # noqa: C901  one rule each
    names = [f"user:{number}" for number in range(keys_count)]
    which, keys = st.integers(0, replicas - 1), st.sampled_from(names)

    class Fleet(RuleBasedStateMachine):
        """Reads, slow loads, edits, lost and late messages, cut channels, flushes, crashes; anywhere, any time."""

        def __init__(self) -> None:
            super().__init__()
            self.world = World(url, replicas)

        def teardown(self) -> None:
            try:
                if not self.world.failures:
                    self.world.calm()
                    for replica in self.world.replicas:
                        for key in names:
                            read = self.world.read(replica, key)
                            self.world.finish()
                            assert read.result() == self.world.database.get(key, 0), "replicas disagree at the end"
                assert not self.world.failures
            finally:
                self.world.close()

        @rule(n=which, key=keys)
        def read(self, n: int, key: str) -> None:
            self.world.read(self.world.replicas[n], key)

        @rule(n=which, key=keys, fenced=st.booleans())
        def edit(self, n: int, key: str, *, fenced: bool) -> None:
            self.world.edit(self.world.replicas[n], key, fenced=fenced)

        @rule(n=which)
        def invalidate_group(self, n: int) -> None:
            self.world.invalidate(self.world.replicas[n], "user:*")

        @precondition(lambda self: self.world.steps)
        @rule(data=st.data())
        def execute(self, data: Any) -> None:
            waiting = [step for step in self.world.steps if not step.executed]
            if waiting:
                self.world.execute(data.draw(st.sampled_from(waiting), "step"))

        @precondition(lambda self: self.world.steps)
        @rule(data=st.data())
        def answer(self, data: Any) -> None:
            self.world.answer(data.draw(st.sampled_from(self.world.steps), "step"))

        @precondition(lambda self: self.world.steps)
        @rule(data=st.data())
        def answer_another(self, data: Any) -> None:
            self.world.answer(data.draw(st.sampled_from(self.world.steps), "step"))

        @precondition(lambda self: any(step.can_fail for step in self.world.steps))
        @rule(data=st.data())
        def fail(self, data: Any) -> None:
            self.world.fail(data.draw(st.sampled_from([s for s in self.world.steps if s.can_fail]), "step"))

        @rule(n=which)
        def deliver(self, n: int) -> None:
            if self.world.replicas[n].inbox:
                self.world.replicas[n].deliver()

        @rule(n=which)
        def lose(self, n: int) -> None:
            if self.world.replicas[n].inbox:
                self.world.replicas[n].lose()

        @rule(n=which)
        def cut_or_connect(self, n: int) -> None:
            replica = self.world.replicas[n]
            if replica.subscribed:
                replica.cut()
            else:
                replica.connect()

        @rule(n=which)
        def beat(self, n: int) -> None:
            if self.world.replicas[n].subscribed:
                self.world.replicas[n].beat()

        @rule(n=which)
        def settle(self, n: int) -> None:
            self.world.settle(self.world.replicas[n])

        @rule(n=which)
        def drain(self, n: int) -> None:
            self.world.drain(self.world.replicas[n])

        @rule(n=which)
        def crash(self, n: int) -> None:
            self.world.crash(self.world.replicas[n])

        @rule()
        def lose_all_data(self) -> None:
            self.world.server.flushall()

        @rule()
        def wake(self) -> None:
            self.world.clock.wake()
            self.world.spin()

        @invariant()
        def nobody_read_an_older_value(self) -> None:
            assert not self.world.failures

    return Fleet


def test_no_read_after_an_invalidation_returns_an_older_value(valkey_url):
    run_state_machine_as_test(machine(valkey_url, replicas=3, keys_count=2), settings=SETTINGS)


@pytest.fixture
def world(valkey_url) -> Iterator[World]:
    world = World(valkey_url, 2)
    yield world
    world.close()


def settled_read(world: World, n: int, key: str = "user:1") -> int:
    read = world.read(world.replicas[n], key)
    world.finish()
    return read.result()


def a_load_overtaken_by_an_edit(world: World) -> None:
    """Replica 0 has read the database when replica 1 commits and invalidates; then replica 0 stores what it read."""
    a, b = world.replicas
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_lease", a))
    world.execute(world.named("source", a))
    world.edit(b, "user:1", fenced=False)
    world.answer(world.named("commit", b))
    world.answer(world.named("cache_invalidate", b))
    world.finish()
    for replica in world.replicas:
        while replica.inbox:
            replica.deliver()
    assert settled_read(world, 0) == settled_read(world, 1) == world.database["user:1"]


def a_read_overtaken_by_an_edit(world: World) -> None:
    """Replica 0 has asked Redis and got the old value; the message comes before the answer does."""
    a, b = world.replicas
    settled_read(world, 1)
    world.read(a, "user:1")
    world.execute(world.named("read", a))
    world.edit(b, "user:1", fenced=False)
    for name in ("commit", "cache_invalidate"):
        world.answer(world.named(name, b))
    a.deliver()
    world.answer(world.named("read", a))
    assert settled_read(world, 0) == 1


def a_lost_message(world: World) -> None:
    """The message of one invalidation is lost, the next one arrives."""
    _, b = world.replicas
    settled_read(world, 0)
    world.edit(b, "user:1", fenced=False)
    world.finish()
    world.replicas[0].lose()
    world.edit(b, "user:2", fenced=False)
    world.finish()
    world.replicas[0].deliver()
    assert settled_read(world, 0) == 1


def a_cut_channel(world: World) -> None:
    """Replica 0 hears nothing while replica 1 edits."""
    settled_read(world, 0)
    world.replicas[0].cut()
    world.edit(world.replicas[1], "user:1", fenced=False)
    world.finish()
    assert settled_read(world, 0) == 1
    world.replicas[0].connect()
    assert settled_read(world, 0) == 1


def a_flush_during_a_read(world: World) -> None:
    """Between the answer of Redis and memory the channel was cut, an edit missed, and the channel is back."""
    a, b = world.replicas
    settled_read(world, 1)
    world.read(a, "user:1")
    world.execute(world.named("read", a))
    a.cut()
    world.edit(b, "user:1", fenced=False)
    for name in ("commit", "cache_invalidate"):
        world.answer(world.named(name, b))
    a.connect()
    world.answer(world.named("read", a))
    assert settled_read(world, 0) == 1


def two_writers(world: World) -> None:
    """Both commit, then both invalidate; a load reads between the two commits."""
    a, b = world.replicas
    world.edit(a, "user:1", fenced=False)
    world.edit(b, "user:1", fenced=False)
    world.answer(world.named("commit", a))
    world.read(a, "user:1")
    for name in ("cache_invalidate",):
        world.answer(world.named(name, a))
    world.read(b, "user:1")
    world.answer(world.named("read", b))
    world.answer(world.named("cache_lease", b))
    world.execute(world.named("source", b))
    world.answer(world.named("commit", b))
    world.finish()
    for replica in world.replicas:
        while replica.inbox:
            replica.deliver()
    assert settled_read(world, 0) == settled_read(world, 1) == 2


def a_group_invalidated_during_a_load(world: World) -> None:
    a, b = world.replicas
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_lease", a))
    world.execute(world.named("source", a))
    world.database["user:1"] = 1
    world.invalidate(b, "user:*")
    world.answer(world.named("cache_bump", b))
    world.finish()
    while a.inbox:
        a.deliver()
    assert settled_read(world, 1) == settled_read(world, 0) == 1


def a_reader_between_commit_and_invalidation(world: World) -> None:
    """With a fence nobody keeps what was read before the commit, also if the writer dies after it."""
    a, b = world.replicas
    settled_read(world, 0)
    world.edit(b, "user:1", fenced=True)
    world.answer(world.named("cache_invalidate", b))
    a.deliver()
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_lease", a))
    world.execute(world.named("source", a))
    world.answer(world.named("commit", b))
    world.crash(b)
    world.finish()
    assert settled_read(world, 0) == settled_read(world, 1) == 1


def a_fence_of_two_writers(world: World) -> None:
    """The first to finish does not take the other's fence away."""
    a, b = world.replicas
    world.edit(a, "user:1", fenced=True)
    world.edit(b, "user:1", fenced=True)
    world.answer(world.named("cache_invalidate", a))
    world.answer(world.named("cache_invalidate", b))
    world.answer(world.named("commit", a))
    world.answer(world.named("cache_invalidate", a))
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_lease", a))
    world.answer(world.named("source", a))
    world.answer(world.named("commit", b))
    world.crash(b)
    assert settled_read(world, 0) == 2


SCENARIOS = [
    a_load_overtaken_by_an_edit, a_read_overtaken_by_an_edit, a_lost_message, a_cut_channel, a_flush_during_a_read,
    two_writers, a_group_invalidated_during_a_load, a_reader_between_commit_and_invalidation, a_fence_of_two_writers,
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_known_race_leaves_nothing_stale(world, scenario):
    leaves_nothing_stale(world, scenario)


def leaves_nothing_stale(world: World, scenario: Callable[[World], None]) -> None:
    scenario(world)
    assert not world.failures


def test_a_fail_over_that_brings_a_deleted_value_back_is_noticed_and_repaired(world):
    """The new primary lacks the last second: the value is there again, the sequence is an older one."""
    _, b = world.replicas
    settled_read(world, 0)
    world.invalidate(b, "other")
    world.finish()
    names = world.server.keys("sim:*")
    before = {name: world.server.dump(name) for name in names}
    world.edit(b, "user:1", fenced=False)
    world.finish()
    world.server.flushall()
    for name, data in before.items():
        world.server.restore(name, 300_000, data)
    world.calm()
    assert b.channel.gaps == 1
    assert settled_read(world, 0) == settled_read(world, 1) == 1


# --- mutations: the protocol without one of its guards ---


def without(monkeypatch: pytest.MonkeyPatch, script: Script, guard: str, instead: str) -> None:
    assert script.source.count(guard) == 1
    monkeypatch.setattr(script, "source", script.source.replace(guard, instead))


def no_lease_check(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = 'redis.call("GET", lease_key) ~= "L" .. id .. generation'
    without(monkeypatch, shard_module.FILL, guard, "false")


def no_generation_check(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = 'redis.call("GET", lease_key) ~= "L" .. id .. generation'
    own = 'string.sub(redis.call("GET", lease_key) or "", 1, 17) ~= "L" .. id'
    without(monkeypatch, shard_module.FILL, guard, own)


def no_lease_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, shard_module.INVALIDATE, 'redis.call("DEL", lease_key)', "")


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, shard_module.LEASE, "string.sub(lease, at + 16, at + 31) > now", "false")


def no_other_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, shard_module.INVALIDATE, "id ~= writer and ends > now_text", "false")


def no_dirty_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spotless(Flight):
        __slots__ = ()
        dirty = property(lambda _self: False, lambda _self, _value: None)

    monkeypatch.setattr(loading, "Flight", Spotless)


def no_gap_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(self: Channel, message: bytes) -> None:
        _, rest = message.split(b"|", 1)
        return receive(self, str(self.position).encode() + b"|" + rest)

    receive = Channel.receive
    monkeypatch.setattr(Channel, "receive", trusting)


def no_trust_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "lose", lambda self: None)


def no_flush_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def flush(self: Channel, sequence: int) -> None:
        self.position = sequence
        self.on_flush()

    # Memory is emptied, but nobody who was reading meanwhile notices.
    monkeypatch.setattr(Channel, "_resume_at", flush)
    monkeypatch.setattr(
        tiers.Cache, "_flush", lambda self, shard: self._drop_if(lambda _k, e: e.channel is shard.channel)
    )


MUTATIONS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[World], None]]] = [
    (no_lease_check, a_load_overtaken_by_an_edit),
    (no_lease_kill, a_load_overtaken_by_an_edit),
    (no_generation_check, a_group_invalidated_during_a_load),
    (no_fence, a_reader_between_commit_and_invalidation),
    (no_other_fence, a_fence_of_two_writers),
    (no_dirty_mark, a_read_overtaken_by_an_edit),
    (no_gap_check, a_lost_message),
    (no_trust_check, a_cut_channel),
    (no_flush_check, a_flush_during_a_read),
]


@pytest.mark.parametrize(("mutation", "scenario"), MUTATIONS, ids=lambda part: part.__name__)
def test_without_this_guard_the_race_is_lost(valkey_url, monkeypatch, mutation, scenario):
    mutation(monkeypatch)
    world = World(valkey_url, 2)
    try:
        with pytest.raises(AssertionError):
            leaves_nothing_stale(world, scenario)
    finally:
        world.close()


def test_random_interleavings_find_an_old_value_when_a_guard_is_missing(valkey_url, monkeypatch):
    """The state machine is able to fail."""
    no_dirty_mark(monkeypatch)
    hunt = settings(SETTINGS, max_examples=3000, phases=(Phase.generate,), report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(valkey_url, replicas=2, keys_count=1), settings=hunt)
