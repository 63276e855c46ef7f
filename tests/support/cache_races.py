"""The known races of the cache's protocol, one by one, and a machine that looks for others at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.cache_sim import SimWorld


def machine(url: str, *, replicas: int, keys_count: int) -> type[RuleBasedStateMachine]:  # noqa: C901  one rule each
    names = [f"user:{number}" for number in range(keys_count)]
    which, keys = st.integers(0, replicas - 1), st.sampled_from(names)

    class Fleet(RuleBasedStateMachine):
        """Reads, slow loads, edits, lost and late messages, cut channels, flushes, crashes; anywhere, any time."""

        def __init__(self) -> None:
            super().__init__()
            self.world = SimWorld(url, replicas)

        def teardown(self) -> None:
            try:
                if not self.world.failures:
                    self.world.calm()
                    for replica in self.world.replicas:
                        for key in names:
                            read = self.world.read(replica, key)
                            self.world.finish()
                            assert read.result() == self.world.database.get(key, 0), "replicas disagree at the end"
                assert not self.world.failures, self.world.failures
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

        @rule(n=which)
        def answer_all_of(self, n: int) -> None:
            self.world.answer_all_of(self.world.replicas[n])

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
        def end_leases(self) -> None:
            self.world.end_leases()

        @rule()
        def lose_all_data(self) -> None:
            self.world.server.flushall()

        @rule()
        def wake(self) -> None:
            self.world.clock.wake()
            self.world.spin()

        @invariant()
        def nobody_read_an_older_value(self) -> None:
            assert not self.world.failures, self.world.failures

    return Fleet


def settled_read(world: SimWorld, n: int, key: str = "user:1") -> int:
    read = world.read(world.replicas[n], key)
    world.finish()
    return read.result()


def a_load_overtaken_by_an_edit(world: SimWorld) -> None:
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


def a_read_overtaken_by_an_edit(world: SimWorld) -> None:
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


def a_lost_message(world: SimWorld) -> None:
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


def a_cut_channel(world: SimWorld) -> None:
    """Replica 0 hears nothing while replica 1 edits."""
    settled_read(world, 0)
    world.replicas[0].cut()
    world.edit(world.replicas[1], "user:1", fenced=False)
    world.finish()
    assert settled_read(world, 0) == 1
    world.replicas[0].connect()
    assert settled_read(world, 0) == 1


def a_flush_during_a_read(world: SimWorld) -> None:
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


def two_writers(world: SimWorld) -> None:
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


def a_group_invalidated_during_a_load(world: SimWorld) -> None:
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


def a_reader_between_commit_and_invalidation(world: SimWorld) -> None:
    """With a fence no replica keeps what was read before the commit, also if the writer dies after it."""
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


def a_fence_of_two_writers(world: SimWorld) -> None:
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


def a_reader_beside_the_writer_itself(world: SimWorld) -> None:
    """The writer's own replica reads from Redis while its fence is on the way: its memory must not outlast the commit,
    whose answer takes its time."""
    a, _ = world.replicas
    settled_read(world, 1)
    world.edit(a, "user:1", fenced=True)
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_invalidate", a))
    while a.inbox:
        a.deliver()
    world.execute(world.named("commit", a))
    read = world.read(a, "user:1")
    for name in ("read", "cache_lease", "source"):
        world.answer(world.named(name, a))
    assert read.result() == 1


def an_invalidation_beside_a_read_of_the_same_replica(world: SimWorld) -> None:
    """A read that begins while the script is on its way gets the old value from Redis, and must not keep it."""
    a, _ = world.replicas
    settled_read(world, 1)
    world.edit(a, "user:1", fenced=False)
    world.answer(world.named("commit", a))
    world.read(a, "user:1")
    for step in list(world.steps):
        if step.replica is a and step.name != "cache_invalidate":
            world.answer(step)
    world.finish()
    assert settled_read(world, 0) == 1


def a_group_invalidated_while_its_value_is_in_redis(world: SimWorld) -> None:
    """The values stay where they are; their generation is over, for reads and for who asks for the lease."""
    a, b = world.replicas
    settled_read(world, 0)
    world.database["user:1"] = 1
    world.invalidate(b, "user:*")
    world.finish()
    while a.inbox:
        a.deliver()
    assert settled_read(world, 0) == settled_read(world, 1) == 1


def a_pattern_invalidated_during_a_load(world: SimWorld) -> None:
    a, b = world.replicas
    world.read(a, "user:1")
    world.answer(world.named("read", a))
    world.answer(world.named("cache_lease", a))
    world.execute(world.named("source", a))
    world.database["user:1"] = 1
    world.invalidate(b, "us*:1")
    for name in ("cache_invalidate", "cache_bump"):
        world.answer(world.named(name, b))
    world.finish()
    while a.inbox:
        a.deliver()
    assert settled_read(world, 1) == settled_read(world, 0) == 1


def a_clock_of_the_server_that_steps_back(world: SimWorld) -> None:
    """After a fail-over to a server whose clock is behind: numbers and generations still only grow."""
    a, b = world.replicas
    settled_read(world, 0)
    seconds, _ = world.server.time()
    ahead = (seconds + 3600) * 1_000_000
    world.server.set("sim:{c0}:seq", ahead)
    record = world.server.get("sim:{c0}:g:user")
    world.server.set("sim:{c0}:g:user", b"%016d%b" % (ahead, record[16:]))
    for replica in world.replicas:
        replica.cut()
        replica.connect()
    assert settled_read(world, 0) == 0
    for version, pattern in enumerate(("user:1", "user:*"), start=1):
        world.database["user:1"] = version
        world.invalidate(b, pattern)
        world.finish()
        a.deliver()
        assert a.channel.position == ahead + version
        assert int(world.server.get("sim:{c0}:g:user")[:16]) >= ahead + (pattern == "user:*")
        assert settled_read(world, 0) == settled_read(world, 1) == version


def a_writer_cancelled_while_it_invalidates(world: SimWorld) -> None:
    """The invalidation goes on all the same, and takes the fence away: the database has long forgotten."""
    a, b = world.replicas
    settled_read(world, 0)
    edit = world.edit(b, "user:1", fenced=True)
    for name in ("cache_invalidate", "commit"):
        world.answer(world.named(name, b))
    world.intents.clear()
    edit.cancel()
    world.spin()
    assert edit.cancelled()
    world.calm()
    assert settled_read(world, 0) == settled_read(world, 1) == 1
    assert a.cache.stats().entries == b.cache.stats().entries == 1, "no fence is left"


SCENARIOS = [
    a_load_overtaken_by_an_edit, a_read_overtaken_by_an_edit, a_lost_message, a_cut_channel, a_flush_during_a_read,
    two_writers, a_group_invalidated_during_a_load, a_reader_between_commit_and_invalidation, a_fence_of_two_writers,
    a_reader_beside_the_writer_itself, an_invalidation_beside_a_read_of_the_same_replica,
    a_group_invalidated_while_its_value_is_in_redis, a_pattern_invalidated_during_a_load,
    a_clock_of_the_server_that_steps_back, a_writer_cancelled_while_it_invalidates,
]  # fmt: skip


def leaves_nothing_stale(world: SimWorld, scenario: Callable[[SimWorld], None]) -> None:
    scenario(world)
    assert not world.failures
