"""Replicas that share one verdict, on a real server: trip, probe, recover, quorum, overrides, newcomers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from app.core.circuit_breaker import BreakerPolicy, State
from app.core.circuit_breaker.fleet import REPORTS_AT_ONCE
from app.core.errors import Unavailable
from tests.support.breaker_kit import POLICY, BreakerReplica, until
from tests.support.patience import Within

Make = Callable[..., Awaitable[list[BreakerReplica]]]

STAYS_OPEN = BreakerPolicy(failure_threshold=5, open_seconds=60.0)
"""For tests that are not about recovery: on a busy machine `POLICY`'s 0.4 s are over before the next line."""
PROBED_FOR_LONG = replace(POLICY, probe_lease_seconds=30.0)
"""For tests in which a probe is under way: on a busy machine `POLICY`'s second is over while it is."""


@pytest.fixture
async def make(valkey_url: str) -> AsyncIterator[Make]:
    """`await make(3)`: three replicas that follow the fleet."""
    made: list[BreakerReplica] = []

    async def make(count: int, policy: BreakerPolicy = STAYS_OPEN, *, started: bool = True) -> list[BreakerReplica]:
        new = [BreakerReplica(valkey_url, f"replica-{len(made) + n}", policy, replicas=count) for n in range(count)]
        made.extend(new)
        for replica in new:
            if started:
                await replica.start()
        return new

    yield make
    for replica in made:
        await replica.stop()


async def five_failures(*replicas: BreakerReplica) -> None:
    for replica in replicas:
        replica.fails()
    for n in range(5):
        await replicas[n % len(replicas)].call()


async def trip(replicas: list[BreakerReplica]) -> None:
    """With five failures; with more if a report was lost, which its replica then rightly never repeats."""

    def is_open() -> bool:
        return all(replica.state == "open" for replica in replicas)

    async with asyncio.timeout(30):
        while not is_open():
            await five_failures(*replicas)
            with suppress(TimeoutError):
                await until(is_open, timeout_seconds=5)


async def test_five_failures_spread_over_three_replicas_open_it_for_all(make: Make):
    replicas = await make(3)
    await five_failures(*replicas)
    await until(lambda: all(replica.state == "open" for replica in replicas))
    assert [replica.called for replica in replicas] == [2, 2, 1]
    assert [await replica.call() for replica in replicas] == ["CircuitBreakerOpenError"] * 3
    assert [replica.called for replica in replicas] == [2, 2, 1]
    assert {replica.breaker.fleet_view.version for replica in replicas} == {replicas[0].breaker.fleet_view.version}
    assert {replica.breaker.snapshot().failure_count for replica in replicas} == {5}


async def test_two_good_probes_close_it_for_all(make: Make):
    replicas = await make(3, POLICY)
    await trip(replicas)
    for replica in replicas:
        replica.recovers()
    await asyncio.sleep(POLICY.open_seconds)
    assert await replicas[1].call() == "ok"
    await until(lambda: all(replica.state == "half_open" for replica in replicas))
    assert await replicas[1].call() == "ok"
    await until(lambda: all(replica.state == "closed" for replica in replicas))


async def test_a_message_lost_is_made_good_by_the_resync(make: Make, within: Within):
    told, deaf = await make(2)
    deaf.fleet.hear = lambda _message: None
    await five_failures(told, deaf)
    await until(lambda: deaf.state == "open", timeout_seconds=within(1.3))


async def test_one_replica_alone_opens_only_its_own_circuit(make: Make):
    open_for_a_while = replace(POLICY, open_seconds=2.0)  # on a busy machine 0.4 s are over before the seventh call
    well, ill = await make(2, open_for_a_while)
    assert await well.call() == "ok"
    await well.sync()
    ill.fails()
    for _ in range(7):
        await ill.call()
    assert ill.called == 5
    assert ill.state == "open"
    await ill.sync()
    await well.sync()
    assert (ill.state, well.state) == ("open", "closed")
    assert await well.call() == "ok"
    ill.recovers()
    await asyncio.sleep(open_for_a_while.open_seconds)
    assert [await ill.call(), await ill.call()] == ["ok", "ok"]
    assert ill.state == "closed"


async def test_two_replicas_in_trouble_open_it_for_the_third(make: Make):
    well, *ill = await make(3)
    assert await well.call() == "ok"
    await well.sync()
    await five_failures(*ill)
    await until(lambda: well.state == "open")


async def test_successes_of_others_break_the_row(make: Make):
    one, other = await make(2)
    one.fails()
    for _ in range(2):
        await one.call()
        await one.call()
        await until(lambda: one.breaker.fleet_view.failures == 2)
        assert await other.call() == "ok"
        await one.sync()
        await other.sync()
    other.fails()
    await other.call()
    await one.sync()
    await other.sync()
    assert (one.state, other.state) == ("closed", "closed")
    assert {replica.breaker.snapshot().failure_count for replica in (one, other)} <= {1, 4}


async def test_a_success_from_before_the_row_that_is_told_late_does_not_end_it(make: Make):
    one, other = await make(2)
    assert await other.call() == "ok"
    await asyncio.sleep(0.2)  # time itself: between a success and a row that reports tell apart
    one.fails()
    for _ in range(4):
        await one.call()
    await until(lambda: one.breaker.fleet_view.failures == 4)
    other.fails()
    await other.call()
    await until(lambda: one.state == other.state == "open")
    assert (one.called, other.called) == (4, 2)


async def test_a_failure_rate_trips_without_any_failures_in_a_row(make: Make):
    policy = BreakerPolicy(5, 10.0, failure_rate=0.5, minimum_calls=20)
    replicas = await make(2, policy)
    for n in range(24):
        replica = replicas[n % 2]
        replica.recovers() if n % 4 < 2 else replica.fails()
        await replica.call()
        await asyncio.gather(*(each.sync() for each in replicas))
    await until(lambda: all(replica.state == "open" for replica in replicas))
    states = await replicas[0].fleet.list(["some_api"])
    assert states["some_api"].why == "failure rate: ConnectFailed: ConnectError"


async def test_slow_calls_trip_although_none_fails(make: Make):
    policy = BreakerPolicy(5, 10.0, slow_call_seconds=0.001, slow_rate=0.9, minimum_calls=10)
    (replica,) = await make(1, policy)

    async def slowly() -> None:
        await asyncio.sleep(0.002)

    for _ in range(10):
        await replica.breaker.call_async(slowly)
    await until(lambda: replica.breaker.fleet_view.state is State.OPEN)
    assert replica.breaker.tally.slow == 10


async def test_a_delay_named_by_the_upstream_opens_for_that_long_everywhere(make: Make):
    one, other = await make(2)
    one.fails(Unavailable("some", retry_after=30.0))
    await one.call()
    await until(lambda: other.state == "open")
    for replica in (one, other):
        assert 25 < replica.breaker.snapshot().retry_after <= 30


async def test_only_one_probe_in_the_whole_fleet(make: Make):
    replicas = await make(3, PROBED_FOR_LONG)
    await trip(replicas)
    await asyncio.sleep(POLICY.open_seconds)
    running = most = 0
    end = asyncio.Event()

    async def probe() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await end.wait()
        running -= 1

    calls = [asyncio.create_task(replica.breaker.call_async(probe)) for replica in replicas for _ in range(20)]
    await until(lambda: sum(call.done() for call in calls) == len(calls) - 1)
    end.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert most == 1
    assert sum(result is None for result in results) == 1


async def test_a_failed_probe_opens_it_again_for_longer(make: Make):
    replicas = await make(2, POLICY)
    await trip(replicas)
    await asyncio.sleep(POLICY.open_seconds)
    before = time.monotonic()
    assert await replicas[0].call() == "ConnectFailed"
    await until(lambda: replicas[1].state == "open" and replicas[1].breaker.fleet_view.version[1] == 3)
    for replica in replicas:
        left = replica.breaker.snapshot().retry_after
        assert left <= 0.8 * 1.2
        assert time.monotonic() - before + left > 0.79


async def test_a_cancelled_probe_gives_its_permit_back(make: Make):
    one, other = await make(2, PROBED_FOR_LONG)
    await trip([one, other])
    await asyncio.sleep(POLICY.open_seconds)
    started = asyncio.Event()

    async def probe() -> None:
        started.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(one.breaker.call_async(probe))
    await started.wait()
    other.recovers()
    assert await other.call() == "CircuitBreakerOpenError"
    call.cancel()
    await asyncio.wait([call])
    async with asyncio.timeout(PROBED_FOR_LONG.probe_lease_seconds / 2):
        while await other.call() != "ok":
            await asyncio.sleep(0.01)


async def test_a_call_cancelled_while_it_asks_gives_back_what_it_is_granted(make: Make):
    one, other = await make(2, PROBED_FOR_LONG)
    await trip([one, other])
    called = one.called
    await asyncio.sleep(POLICY.open_seconds)
    ask, asked, go_on = one.door.run, asyncio.Event(), asyncio.Event()

    async def slowly(*call, **limits):
        answer = await ask(*call, **limits)
        asked.set()
        await go_on.wait()
        return answer

    one.door.run = slowly
    call = asyncio.create_task(one.call())
    await asked.wait()
    call.cancel()
    await asyncio.wait([call])
    go_on.set()
    other.recovers()
    async with asyncio.timeout(PROBED_FOR_LONG.probe_lease_seconds / 2):
        while await other.call() != "ok":
            await asyncio.sleep(0.01)
    assert one.called == called


async def test_a_newcomer_knows_before_its_first_call(make: Make):
    await trip(await make(2))
    (newcomer,) = await make(1, started=False)
    await newcomer.sync()
    assert await newcomer.call() == "CircuitBreakerOpenError"
    assert newcomer.called == 0


async def test_an_operators_word_holds_everywhere_and_over_restarts(make: Make):
    one, other = await make(2)
    await one.fleet.force("some_api", "open", who="anna", why="maintenance")
    await until(lambda: other.breaker.view.forced)
    assert await other.call() == "CircuitBreakerOpenError"
    (newcomer,) = await make(1)
    assert await newcomer.call() == "CircuitBreakerOpenError"
    await newcomer.fleet.force("some_api", "closed", who="anna", why="we know better")
    await until(lambda: one.breaker.view.forced and one.state == "closed")
    one.fails()
    for _ in range(20):
        assert await one.call() == "ConnectFailed"
    await other.fleet.force("some_api", "auto", who="anna", why="over")
    await until(lambda: not one.breaker.view.forced and not newcomer.breaker.view.forced)
    await trip([one, other])


async def test_one_accounts_circuit_is_known_to_all_and_touches_no_other(make: Make):
    one, other = await make(2)
    one.fails()
    for _ in range(5):
        await one.call(one.keyed.get("1"))
    await until(lambda: len(other.keyed) == 1)
    assert await other.call(other.keyed.get("1")) == "CircuitBreakerOpenError"
    assert await other.call(other.keyed.get("2")) == "ok"
    assert (one.state, other.state) == ("closed", "closed")
    (newcomer,) = await make(1)
    assert await newcomer.call(newcomer.keyed.get("1")) == "CircuitBreakerOpenError"


async def test_every_number_behind_a_trip_is_in_one_line(make: Make, caplog):
    caplog.set_level(logging.INFO)
    replicas = await make(3)
    await trip(replicas)

    def lines() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "seuil" in record.getMessage()]

    await until(lines)  # the news can overtake the answer to the report that tripped it, and the line comes with that
    assert [line.getMessage() for line in lines()] == [
        "Circuit breaker 'some_api': seuil d'échecs atteint (5/5), ouverture du circuit"
    ]
    (line,) = lines()
    assert (line.levelname, line.scope, line.epoch, line.failures, line.calls, line.failed) == (
        "ERROR", "fleet", 1, 5, 5, 5,
    )  # fmt: skip
    assert (line.callers, line.voters, line.why) == (3, 3, "failures: ConnectFailed: ConnectError")
    assert sum("open for the fleet by" in record.getMessage() for record in caplog.records) == 2


async def test_every_replica_and_the_list_name_the_last_failure_in_words(make: Make):
    one, other = await make(2)
    wrong_key = Unavailable("some", "some: HTTP 400 API_KEY_INVALID")
    one.fails(wrong_key)
    await one.call()
    await until(lambda: other.breaker.snapshot().failure_count == 1)
    told = (await other.fleet.list(["some_api"]))["some_api"]
    assert (told.state.value, told.last_failure) == ("closed", "HTTP 400 API_KEY_INVALID")
    one.fails(wrong_key)
    other.fails(wrong_key)
    for replica in (other, one, other, one):
        await replica.call()
    await until(lambda: one.state == other.state == "open")
    assert {replica.breaker.snapshot().why for replica in (one, other)} == {"failures: HTTP 400 API_KEY_INVALID"}


async def test_a_failure_that_no_server_could_take_as_it_is_opens_the_circuit_all_the_same(make: Make):
    one, other = await make(2)
    for replica in (one, other):
        replica.fails(Unavailable("some", "half an emoji \ud83d\nand a line"))
    for _ in range(3):
        await one.call()
        await other.call()
    await until(lambda: one.state == other.state == "open")
    assert other.breaker.snapshot().why == "failures: half an emoji ? and a line"


async def test_an_operators_words_with_line_breaks_reach_every_replica(make: Make):
    one, other = await make(2)
    await one.fleet.force("some_api", "open", who="anna", why="first\nsecond\r\nthird")
    await until(lambda: other.breaker.view.forced)
    assert other.breaker.snapshot().why == "first second third"


async def test_a_dependency_that_is_seen_well_is_probed_at_once_by_the_fleet_and_its_closing_is_told_once(make: Make):
    replicas = await make(3)
    told: list[tuple[str, str, str]] = []
    for replica in replicas:
        replica.fleet.on_recovery = lambda name, state, who=replica.name: told.append((who, name, state.value))
    await trip(replicas)
    for replica in replicas:
        replica.recovers()
    await asyncio.gather(*(replica.breaker.seen_well() for replica in replicas))
    await until(lambda: all(replica.state == "half_open" for replica in replicas))
    assert [(name, state) for _, name, state in told] == [("some_api", "half_open")]
    assert [await replicas[1].call() for _ in range(2)] == ["ok", "ok"]
    await until(lambda: all(replica.state == "closed" for replica in replicas))
    assert told[1:] == [("replica-1", "some_api", "closed")]


async def test_what_was_forced_open_stays_open_however_well_it_looks(make: Make):
    (replica,) = await make(1)
    await replica.fleet.force("some_api", "open", who="me", why="test")
    await replica.breaker.seen_well()
    assert await replica.call() == "CircuitBreakerOpenError"


async def test_a_newcomer_that_fails_from_its_start_does_not_open_it_for_others_that_are_idle(make: Make):
    newcomer, idle, _ = await make(3)
    newcomer.fails()
    for _ in range(7):
        await newcomer.call()
    await newcomer.sync()
    await idle.sync()
    assert (newcomer.called, newcomer.state, idle.state) == (5, "open", "closed")
    assert newcomer.breaker.is_cut_off
    assert not idle.breaker.is_cut_off
    assert await idle.call() == "ok"


async def test_the_only_living_replica_decides_alone(make: Make):
    (alone,) = await make(1)
    await five_failures(alone)
    await until(lambda: alone.breaker.fleet_view.state is State.OPEN)
    assert not alone.breaker.is_cut_off


async def test_a_real_outage_is_known_as_one_with_the_first_failure_of_a_second_replica(make: Make):
    first, second, third = await make(3)
    await five_failures(first)
    second.fails()
    await second.call()
    await until(lambda: third.state == "open")
    assert second.called == 1
    await until(lambda: not first.breaker.is_cut_off)


async def test_a_cut_off_replica_that_sees_the_dependency_well_is_closed_like_the_fleet(make: Make):
    ill, well = await make(2)
    await five_failures(ill)
    assert ill.breaker.is_cut_off
    ill.recovers()
    await ill.breaker.seen_well()
    assert (ill.state, well.state) == ("closed", "closed")
    assert await ill.call() == "ok"


async def test_a_way_that_only_looks_well_is_believed_less_and_less_often(make: Make):
    ill, _ = await make(2, BreakerPolicy(failure_threshold=1, open_seconds=60.0))
    ill.fails()
    await ill.call()
    await ill.breaker.seen_well()
    assert ill.state == "closed"
    await ill.call()
    await ill.breaker.seen_well()
    assert ill.state == "open", "it failed again at once"
    assert ill.breaker.is_cut_off


async def test_a_resync_tells_of_many_circuits_side_by_side(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, hundreds of accounts in trouble would take longer than a resync may, with Redis far away."""
    (replica,) = await make(1, started=False)
    await replica.sync()
    accounts = [replica.keyed.get(f"account-{n}") for n in range(REPORTS_AT_ONCE + 1)]
    replica.fails()
    for account in accounts:
        await replica.call(account)
    await until(lambda: all(account.fleet_view.failures for account in accounts))
    replica.recovers()
    for account in accounts:
        await replica.call(account)

    run, under_way, many = replica.door.run, 0, asyncio.Event()

    async def counted(*call: Any, **options: Any) -> Any:
        nonlocal under_way
        under_way += 1
        if under_way == REPORTS_AT_ONCE:
            many.set()
        await many.wait()
        return await run(*call, **options)

    monkeypatch.setattr(replica.door, "run", counted)
    async with asyncio.timeout(30):
        assert await replica.fleet.sync()
    assert not any(account.fleet_view.failures for account in accounts), "a success ends the row"
