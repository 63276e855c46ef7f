"""Each script's own promises, put to it directly on a real server: epochs, leases, times, lineage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from app.core.circuit_breaker.rules import BreakerPolicy
from app.core.circuit_breaker.wire import ACQUIRE, FORCE, READ, REPORT, SETTLE, Keys, micros, report_rules
from app.core.redis.client import Redis, connect

POLICY = BreakerPolicy(3, 10.0, max_open_seconds=30.0, success_threshold=2, jitter=0.2)
KEYS = Keys("t")


class Server:
    """The scripts by name, with arguments that a test can leave out; views come as mappings."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.keys = KEYS.of("api")
        self.version: tuple[int, int] = (0, 0)

    def _view(self, fields: list[bytes]) -> dict[str, Any]:
        names = ("life", "epoch", "state", "left", "failures", "rounds", "manual", "who", "why", "age")
        view = dict(zip(names, (field.decode() for field in fields), strict=True))
        self.version = (int(view["life"]), int(view["epoch"]))
        return view | {"left": int(view["left"]) / 1e6}

    async def report(
        self, failed: int = 1, *, ok: int = 0, slow: int = 0, hold: float = 0.0, replica: str = "a",
        version: tuple[int, int] | None = None, policy: BreakerPolicy = POLICY, ok_age: float = 0.0,
        row_age: float = 0.0, in_a_row: int | None = None, cause: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        in_a_row = failed if in_a_row is None else in_a_row
        args = [
            "api", KEYS.channel, *(version or self.version), replica, ok + failed, failed, slow, in_a_row, micros(hold),
            *report_rules(policy), micros(ok_age), micros(row_age), cause,
        ]  # fmt: skip
        answer = await REPORT(self.redis, KEYS.of_report("api"), args)
        return self._view(answer[6:]) | {
            "changed": answer[0],
            "calls": answer[1],
            "callers": answer[4],
            "voters": answer[5],
        }

    async def acquire(self, lease: str = "l", *, ttl: float = 10.0, most: int = 1) -> dict[str, Any]:
        args = ["api", KEYS.channel, "a", lease, micros(ttl), most, POLICY.success_threshold]
        answer = await ACQUIRE(self.redis, self.keys, args)
        return self._view(answer[2:]) | {"granted": answer[0] == 1}

    async def settle(
        self, outcome: str, lease: str = "l", *, hold: float = 0.0, jitter: float = 0.0,
        version: tuple[int, int] | None = None, cause: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        args = [
            "api", KEYS.channel, "a", lease, *(version or self.version), outcome, micros(hold),
            micros(POLICY.open_seconds), micros(POLICY.max_open_seconds), jitter, POLICY.success_threshold, cause,
        ]  # fmt: skip
        answer = await SETTLE(self.redis, self.keys, args)
        return self._view(answer[2:]) | {"settled": answer[0] == 1}

    async def read(self) -> dict[str, Any]:
        rows = await READ(self.redis, [KEYS.index("api")], [KEYS.prefix("api"), 10, "api"])
        return self._view(rows[0][1:-1]) | {"cause": rows[0][-1].decode()}

    async def force(self, state: str) -> dict[str, Any]:
        return self._view((await FORCE(self.redis, self.keys, ["api", KEYS.channel, state, "anna", "because"]))[1:])

    async def pass_time(self, seconds: float) -> None:
        """What is due in up to `seconds` is due now."""
        until = await self.redis.hget(self.keys[0], "until")
        if until:
            await self.redis.hset(self.keys[0], "until", str(int(until) - micros(seconds)))
        for lease, expiry in await self.redis.zrange(self.keys[2], 0, -1, withscores=True):
            await self.redis.zadd(self.keys[2], {lease: expiry - micros(seconds)})

    async def half_open(self) -> None:
        await self.report(3)
        await self.pass_time(POLICY.open_seconds)


@pytest.fixture
async def server(valkey_url: str) -> AsyncIterator[Server]:
    redis = connect(valkey_url)
    yield Server(redis)
    await redis.aclose()


async def test_nothing_is_written_by_reading(server: Server):
    assert (await server.read())["state"] == "closed"
    assert await server.redis.dbsize() == 0


async def test_a_report_of_another_epoch_changes_nothing(server: Server):
    await server.force("closed")
    version = server.version
    for stale in ((version[0], version[1] - 1), (version[0], version[1] + 1), (version[0] - 1, version[1]), (0, 0)):
        view = await server.report(10, hold=20, version=stale)
        assert (view["state"], view["failures"], view["changed"]) == ("closed", "0", 0)
    assert (await server.report(3, version=version))["state"] == "open"


async def test_a_success_in_the_report_leaves_only_the_failures_after_it(server: Server):
    await server.report(2)
    assert (await server.report(2, ok=1))["failures"] == "2"
    assert (await server.report(1))["state"] == "open"


async def test_a_success_from_before_the_row_began_does_not_end_it_however_late_it_is_told(server: Server):
    await server.report(1, replica="a")
    assert (await server.report(1, ok=1000, ok_age=20, row_age=0.4, replica="b"))["failures"] == "2"
    assert (await server.report(0, ok=1000, ok_age=20, replica="c"))["failures"] == "2"
    assert (await server.report(1, ok=1000, ok_age=20, row_age=0.4, replica="d"))["state"] == "open"


async def test_a_success_after_the_row_began_ends_it_however_late_the_row_was_told(server: Server):
    await server.report(2, row_age=0.5, replica="a")
    assert (await server.report(0, ok=1, ok_age=0.4, replica="b"))["failures"] == "0"
    assert (await server.report(2, replica="a"))["state"] == "closed"


async def test_failures_that_are_not_in_a_row_add_nothing_to_those_that_are(server: Server):
    await server.report(2)
    assert (await server.report(5, in_a_row=0))["failures"] == "2"
    assert (await server.report(1))["state"] == "open"


async def test_fewer_voters_than_the_quorum_trip_nothing(server: Server):
    await server.report(0, ok=1, replica="b")
    view = await server.report(50, replica="a")
    assert (view["state"], view["callers"], view["voters"]) == ("closed", 2, 1)
    view = await server.report(1, replica="b")
    assert (view["state"], view["voters"], view["why"]) == ("open", 2, "failures")


async def test_a_rate_needs_its_minimum_of_calls(server: Server):
    policy = replace(POLICY, failure_threshold=1000, failure_rate=0.5, minimum_calls=20)
    assert (await server.report(9, ok=10, policy=policy))["state"] == "closed"
    assert (await server.report(1, policy=policy))["why"] == "failure rate"


async def test_while_open_a_delay_only_ever_extends(server: Server):
    view = await server.report(3)
    assert view["left"] == 10
    assert (await server.report(1, hold=5))["left"] == pytest.approx(10, abs=4)
    assert (await server.report(1, hold=20))["left"] == pytest.approx(20, abs=4)
    assert (await server.report(1, hold=1000))["left"] == pytest.approx(30, abs=4)
    assert server.version[1] == 1


async def test_no_permit_before_the_time_is_over(server: Server):
    await server.report(3)
    await server.pass_time(9)
    view = await server.acquire()
    assert (view["granted"], view["state"]) == (False, "open")
    await server.pass_time(1)
    view = await server.acquire()
    assert (view["granted"], view["state"], view["epoch"]) == (True, "half_open", "2")


async def test_permits_are_bounded_at_once_and_in_all(server: Server):
    await server.half_open()
    assert (await server.acquire("1"))["granted"]
    assert not (await server.acquire("2"))["granted"]
    assert (await server.acquire("2", most=5))["granted"]
    assert not (await server.acquire("3", most=5))["granted"]


async def test_a_prober_that_died_gives_its_permit_back_after_its_lease(server: Server):
    await server.half_open()
    for number in range(5):
        assert (await server.acquire(str(number)))["granted"]
        assert not (await server.acquire("next"))["granted"]
        await server.pass_time(10)


async def test_only_a_live_lease_of_this_epoch_settles(server: Server):
    await server.half_open()
    await server.acquire()
    life, epoch = server.version
    assert not (await server.settle("fail", version=(life, epoch - 1)))["settled"]
    assert not (await server.settle("fail", version=(life - 1, epoch)))["settled"]
    assert not (await server.settle("fail", lease="never granted"))["settled"]
    assert (await server.settle("ok"))["settled"]
    assert not (await server.settle("ok"))["settled"]
    await server.acquire("late")
    await server.pass_time(10)
    assert not (await server.settle("ok", lease="late"))["settled"]
    assert (await server.read())["state"] == "half_open"


async def test_a_lease_of_an_earlier_round_has_no_voice_in_the_next(server: Server):
    await server.half_open()
    await server.acquire("old", ttl=1000, most=2)
    await server.acquire("new", most=2)
    await server.settle("fail", lease="new")
    await server.pass_time(30)
    assert (await server.acquire("next"))["granted"]
    assert not (await server.settle("fail", lease="old"))["settled"]


async def test_as_many_successes_as_agreed_close_it(server: Server):
    await server.half_open()
    await server.acquire("1")
    assert (await server.settle("ok", lease="1"))["state"] == "half_open"
    await server.acquire("2")
    view = await server.settle("ok", lease="2")
    assert (view["state"], view["why"], view["failures"]) == ("closed", "recovered", "0")


async def test_a_permit_given_back_can_be_given_again(server: Server):
    await server.half_open()
    for number in range(5):
        assert (await server.acquire(str(number)))["granted"]
        assert (await server.settle("release", lease=str(number)))["settled"]


async def test_each_failed_probe_doubles_the_time_up_to_the_cap(server: Server):
    await server.report(3)
    lasts = []
    for jitter in (0.0, 0.2, 0.2):
        await server.pass_time(1000)
        await server.acquire()
        lasts.append((await server.settle("fail", jitter=jitter))["left"])
    assert lasts == [20, 36, 36]
    await server.pass_time(1000)
    await server.acquire()
    assert (await server.settle("fail", hold=7))["left"] == 7


async def test_closing_starts_the_window_and_the_rounds_anew(server: Server):
    await server.half_open()
    await server.acquire()
    await server.settle("fail")
    await server.force("closed")
    view = await server.report(2)
    assert (view["failures"], view["calls"], view["rounds"]) == ("2", 2, "0")
    assert (await server.report(1))["left"] == 10


async def test_a_forced_state_does_not_expire_and_the_rest_does(server: Server):
    await server.force("forced_open")
    assert await server.redis.ttl(server.keys[0]) == -1
    assert (await server.report(3))["state"] == "forced_open"
    assert not (await server.acquire())["granted"]
    await server.force("closed")
    assert 0 < await server.redis.ttl(server.keys[0]) <= 86400
    await server.report(3)
    assert await server.redis.ttl(server.keys[0]) > 86400
    for key in await server.redis.keys("*"):
        assert key.endswith(b"index") or await server.redis.ttl(key) > 0


async def test_a_lost_history_begins_another_life(server: Server):
    await server.report(3)
    before = server.version
    await server.redis.flushall()
    assert (await server.read())["epoch"] == "0"
    await server.report(3)
    assert server.version[0] > before[0]


async def test_every_change_is_published_by_the_script_that_makes_it(server: Server):
    subscription = server.redis.pubsub()
    await subscription.subscribe(KEYS.channel)
    await subscription.get_message(timeout=10)
    await server.half_open()
    await server.acquire()
    await server.settle("fail")
    await server.force("forced_closed")
    messages = [await subscription.get_message(timeout=10) for _ in range(4)]
    states = [message["data"].split(b"\n")[3].decode() for message in messages]
    assert states == ["open", "half_open", "open", "forced_closed"]
    assert await subscription.get_message(timeout=0.05) is None, "once each"
    await subscription.aclose()


async def test_why_carries_the_last_failure_in_words_from_the_trip_over_the_probe_to_its_failure(server: Server):
    await server.report(2, cause="HTTP 503")
    assert await server.read() | {"why": "", "cause": "HTTP 503", "failures": "2"} == await server.read()
    assert (await server.report(1, cause="HTTP 400 API_KEY_INVALID"))["why"] == "failures: HTTP 400 API_KEY_INVALID"
    assert (await server.read())["cause"] == "HTTP 400 API_KEY_INVALID"
    await server.pass_time(POLICY.open_seconds)
    assert (await server.acquire())["why"] == "due: HTTP 400 API_KEY_INVALID"
    assert (await server.settle("fail", cause="HTTP 403 SERVICE_DISABLED"))["why"] == (
        "probe failed: HTTP 403 SERVICE_DISABLED"
    )


async def test_a_delay_the_upstream_asked_for_names_its_failure(server: Server):
    assert (await server.report(1, hold=5, cause="HTTP 429"))["why"] == "delay: HTTP 429"
    await server.pass_time(5)
    await server.acquire()
    assert (await server.settle("fail", hold=5, cause="HTTP 429 again"))["why"] == "delay: HTTP 429 again"


async def test_slow_calls_are_not_explained_by_an_earlier_failure(server: Server):
    policy = replace(POLICY, failure_threshold=100, slow_call_seconds=1.0, slow_rate=0.5, minimum_calls=4)
    await server.report(1, ok=1, policy=policy, cause="HTTP 500")
    assert (await server.report(0, ok=4, slow=4, policy=policy))["why"] == "slow calls"


async def test_a_replica_of_an_earlier_version_reports_and_settles_without_words(server: Server):
    args = [
        "api", KEYS.channel, 0, 0, "old", 3, 3, 0, 3, 0, *report_rules(POLICY), 0, 0,
    ]  # fmt: skip
    answer = await REPORT(server.redis, KEYS.of_report("api"), args)
    assert server._view(answer[6:])["why"] == "failures"


async def test_an_operators_words_are_no_failure(server: Server):
    await server.force("forced_open")
    assert (await server.read())["cause"] == ""


async def test_a_success_ends_the_words_with_the_row(server: Server):
    await server.report(2, cause="HTTP 503")
    await server.report(0, ok=1)
    assert (await server.read())["cause"] == ""
