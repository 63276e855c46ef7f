"""What a replica says of itself and of what it depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.errors import Unavailable
from app.core.fleet.probe_board import Turn
from app.core.lifecycle import Supervisor
from app.domain.models import Account, BlockedAccounts
from app.services.account_watch import BLOCKED, AccountWatch
from app.services.cut_off import CutOff
from app.services.health_service import PAGE_SECONDS, QUEUE_FULL, HealthService
from app.services.probes import AGAIN_SECONDS, LOST_SECONDS, URGENT_SECONDS, Dependency, Prober, Proof
from tests.support.fakes import FakeClock


class Board:
    """Answers with `turn`; keeps what is reported."""

    def __init__(self, turn: Turn | None = None) -> None:
        self.answer = turn
        self.reported: list[Mapping[str, Any]] = []

    async def turn(self, name: str, *, fresh_seconds: float, looker_seconds: float) -> Turn:
        if self.answer is None:
            raise Unavailable("redis", "away")
        return self.answer

    async def report(self, name: str, finding: Mapping[str, Any]) -> bool:
        self.reported.append(finding)
        return True


class Probe:
    """A dependency's answer: details, or the exception it raises."""

    def __init__(self) -> None:
        self.answer: Mapping[str, Any] | Exception = {}
        self.calls = 0

    async def __call__(self) -> Mapping[str, Any]:
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Desk:
    """A HealthService with everything at hand."""

    def __init__(self, *, requires: frozenset[str] = frozenset(), turn: Turn | None = None) -> None:
        self.clock = FakeClock()
        self.probes = {name: Probe() for name in ("redis", "supabase", "gemini")}
        self.dependencies = {
            name: Dependency(name, probe, 3.0, 1.0, is_shared=name == "gemini") for name, probe in self.probes.items()
        }
        self.supervisor = Supervisor(clock=self.clock)
        self.breaker = CircuitBreaker("t", BreakerPolicy(5, 60.0))
        self.database = CircuitBreaker("d", BreakerPolicy(1, 60.0))
        self.others: list[Mapping[str, Any]] = []
        self.board = Board(turn)
        self.queue: dict[str, Any] = {"pending": 7, "refuses": False}
        self.accounts = AccountWatch(SimpleNamespace())
        self.health = HealthService(
            dependencies=self.dependencies,
            board=self.board,
            breakers={"gemini": self.breaker},
            fleet=SimpleNamespace(replica_id="r1", count=3),
            supervisor=self.supervisor,
            accounts=self.accounts,
            internals=lambda: asyncio.sleep(0, {"queue": self.queue}),
            requires=requires,
            build={"version": "1", "build": "3f2c1ab"},
            cut_off=CutOff({"gemini": self.breaker, "supabase": self.database}, lambda: self.others),
            clock=self.clock,
        )

    async def look(self, *names: str) -> None:
        for name in names:
            await Prober(self.dependencies[name], self.board, self.clock).look()


async def test_operators_see_why_a_circuit_is_open_its_last_failure_and_the_build():
    desk = Desk()
    wrong_key = Unavailable("gemini", "gemini: HTTP 400 API_KEY_INVALID")

    async def ask():
        raise wrong_key

    for _ in range(5):
        with pytest.raises(Unavailable):
            await desk.breaker.call_async(ask)
    _, full = desk.health.picture(full=True)
    assert full["circuit_breakers"]["gemini"]["why"] == "failures: HTTP 400 API_KEY_INVALID"
    assert full["circuit_breakers"]["gemini"]["last_failure"] == "HTTP 400 API_KEY_INVALID"
    assert (full["version"], full["build"]) == ("1", "3f2c1ab")
    _, public = desk.health.picture(full=False)
    assert set(public["circuit_breakers"]["gemini"]) == {"state", "failure_count"}
    assert "build" not in public


async def test_both_stores_gone_for_longer_than_the_grace_takes_it_out_and_one_back_puts_it_in():
    desk = Desk()
    await desk.look("redis", "supabase")
    desk.health.started()
    assert desk.health.readiness() == (200, {"status": "ready", "redis": "ok", "database": "ok"})
    for name in ("redis", "supabase"):
        desk.probes[name].answer = OSError("away")
    await desk.look("redis", "supabase")
    assert desk.health.readiness()[0] == 200
    desk.clock.advance(1.1)
    assert desk.health.readiness() == (503, {"status": "not_ready", "redis": "error", "database": "error"})
    assert desk.health.page(full=False)[0] == 503
    desk.probes["supabase"].answer = {}
    await desk.look("supabase")
    assert desk.health.readiness()[0] == 200


async def test_one_shared_dependency_down_is_told_and_no_reason_to_leave():
    desk = Desk()
    await desk.look("redis", "supabase")
    desk.health.started()
    desk.probes["redis"].answer = Unavailable("redis", "refused")
    await desk.look("redis")
    desk.clock.advance(3600)
    assert desk.health.readiness() == (200, {"status": "ready", "redis": "error", "database": "ok"})
    status, body = desk.health.picture(full=False)
    assert (status, body["status"]) == (200, "degraded")
    assert body["dependencies"]["redis"] == {"status": "error"}
    assert desk.health.picture(full=True)[1]["dependencies"]["redis"]["error"] == "refused"


async def test_readiness_may_be_strict():
    desk = Desk(requires=frozenset({"redis"}))
    await desk.look("redis", "supabase")
    desk.health.started()
    desk.probes["redis"].answer = OSError("away")
    await desk.look("redis")
    assert desk.health.readiness()[0] == 503


def test_it_is_not_ready_before_the_start_is_over_and_never_again_once_it_drains():
    desk = Desk()
    assert desk.health.readiness()[1]["status"] == "starting"
    desk.health.started()
    desk.health.draining()
    desk.health.started()
    assert desk.health.readiness()[0] == 503
    assert desk.health.readiness()[1]["status"] == "draining"


async def test_details_are_for_operators():
    desk = Desk(turn=Turn(is_mine=False, age_seconds=4, finding=None, by=""))
    await desk.health.probe_all()
    desk.health.started()
    _, public = desk.health.picture(full=False)
    assert set(public) == {"status", "timestamp", "dependencies", "circuit_breakers"}
    assert public["circuit_breakers"] == {"gemini": {"state": "closed", "failure_count": 0}}
    _, full = desk.health.picture(full=True)
    assert set(full) >= {"replica", "phase", "fleet", "background"}


async def test_a_page_is_rendered_at_most_four_times_a_second_but_a_phase_shows_at_once():
    desk = Desk()
    await desk.look("redis", "supabase")
    desk.health.started()
    first = desk.health.page(full=False)
    assert desk.health.page(full=False) is first
    desk.clock.advance(PAGE_SECONDS + 0.01)
    assert desk.health.page(full=False) is not first
    desk.health.draining()
    assert orjson.loads(desk.health.page(full=True)[1])["phase"] == "draining"


async def test_an_upstream_is_shown_as_another_replica_saw_it():
    finding = {"status": "error", "latency_ms": None, "error": "HTTP 503", "details": {}}
    desk = Desk(turn=Turn(is_mine=False, age_seconds=4, finding=finding, by="r2"))
    await desk.look("gemini")
    assert desk.probes["gemini"].calls == 0
    assert desk.dependencies["gemini"].full() == {
        "status": "error", "seen_by": "r2", "seen_seconds_ago": 4, "error": "HTTP 503",
    }  # fmt: skip


async def test_whose_turn_it_is_looks_and_tells_the_others():
    desk = Desk(turn=Turn(is_mine=True, age_seconds=0, finding=None, by=""))
    desk.probes["gemini"].answer = {"model": "m"}
    await desk.look("gemini")
    assert desk.board.reported == [{"status": "ok", "latency_ms": 0.0, "error": None, "details": {"model": "m"}}]


async def test_without_redis_each_looks_for_itself_no_more_often_than_one_would_for_all():
    desk = Desk()
    for _ in range(5):
        await desk.look("gemini")
        desk.clock.advance(1)
    assert desk.probes["gemini"].calls == 2


async def test_a_lost_dependency_is_looked_at_more_often():
    desk = Desk()
    probe = desk.probes["redis"]
    probe.answer = OSError("away")
    running = asyncio.create_task(Prober(desk.dependencies["redis"], desk.board, desk.clock).run())
    async with asyncio.timeout(5):
        while probe.calls < 3:
            await asyncio.sleep(0)
        probe.answer = {}
        while desk.dependencies["redis"].status == "error":
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.clock.slept[:3] == [3.0, AGAIN_SECONDS, AGAIN_SECONDS]


async def test_a_probe_that_hangs_is_an_error_within_its_timeout():
    dependency = Dependency("redis", lambda: asyncio.sleep(60, {}), 3.0, 0.01)
    await Prober(dependency, Board()).look()
    assert (dependency.status, dependency.error) == ("error", "no answer within 0.01 s")


async def test_a_background_loop_that_stops_beating_is_not_alive():
    desk = Desk()
    desk.supervisor.start("worker", asyncio.Event().wait, beat_within_seconds=15)
    desk.supervisor.beat("worker")
    desk.clock.advance(14)
    assert desk.health.liveness() == (200, {"status": "alive"})
    desk.clock.advance(2)
    assert desk.health.liveness() == (503, {"status": "stuck", "loops": ("worker",)})
    assert desk.health.picture(full=False)[0] == 503
    await desk.supervisor.stop()


async def test_a_background_loop_that_somebody_cancelled_is_not_alive():
    desk = Desk()
    started = asyncio.Event()

    async def loop() -> None:
        started.set()
        await asyncio.Event().wait()

    desk.supervisor.start("worker", loop)
    await started.wait()
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "worker"]
    task.cancel()
    await asyncio.wait([task])
    assert desk.health.liveness()[0] == 503
    await desk.supervisor.stop()


async def test_a_blocked_account_degrades_health_which_names_the_count_and_to_the_operator_the_account():
    desk = Desk()
    desk.health.started()
    await desk.look("redis", "supabase", "gemini")
    assert desk.health.picture(full=True)[1]["accounts"] == {"blocked": 0, "named": []}
    assert desk.health.picture(full=False)[1]["status"] == "ok"
    since = datetime(2026, 11, 23, tzinfo=UTC)
    account = Account(
        id="a1", name="Bakery", slug="bakery", phone_number_id="1", access_token="s3cret", verify_token="s3cret",
        phone_number=None, is_active=True, bot_auto_on=True, created_at=since, updated_at=since, refusals=3,
        blocked_reason="token_invalid", blocked_since=since,
    )  # fmt: skip
    desk.accounts.view = BlockedAccounts({"token_invalid": 2}, (account,))
    status, body = desk.health.picture(full=False)
    assert (status, body["status"], body["accounts"]) == (200, "degraded", {"blocked": 2})
    named = desk.health.picture(full=True)[1]["accounts"]["named"]
    assert named == [
        {"id": "a1", "slug": "bakery", "name": "Bakery", "reason": "token_invalid", "since": since.isoformat()}
    ]


async def test_while_the_database_is_away_the_blocked_accounts_stay_as_they_were(caplog):
    class Store:
        error: Exception | None = None

        async def blocked_accounts(self, *, limit: int) -> BlockedAccounts:
            if self.error:
                raise self.error
            return BlockedAccounts({"payment_problem": 1})

    store, clock = Store(), FakeClock()
    watch = AccountWatch(store, clock=clock)
    looked = asyncio.create_task(watch.run(lambda: None))
    while watch.view.count == 0:
        await asyncio.sleep(0)
    assert BLOCKED.labels("payment_problem")._value.get() == 1
    store.error = Unavailable("database", "away")
    while "blocked accounts unknown" not in caplog.text:
        await asyncio.sleep(0)
    assert watch.view.count == 1
    looked.cancel()
    BLOCKED.labels("payment_problem").set(0)


async def _fail(breaker: CircuitBreaker) -> None:
    async def fails() -> None:
        raise Unavailable("some", "away")

    with pytest.raises(Unavailable):
        await breaker.call_async(fails)


async def _opened(policy: BreakerPolicy) -> CircuitBreaker:
    breaker = CircuitBreaker("some", policy)
    await _fail(breaker)
    assert breaker.view.state != "closed"
    return breaker


@pytest.mark.parametrize(
    ("proof", "failed_before", "state"),
    [
        (Proof.ALWAYS, False, "half_open"),
        (Proof.AFTER_FAILURE, False, "open"),
        (Proof.AFTER_FAILURE, True, "half_open"),
    ],
)
async def test_a_good_look_makes_the_circuit_half_open_if_it_proves_something(
    proof: Proof, failed_before: bool, state: str
) -> None:
    breaker, probe = await _opened(BreakerPolicy(1, 60.0)), Probe()
    dependency = Dependency("some", probe, 3.0, 1.0, circuit=breaker, proof=proof)
    prober = Prober(dependency, Board(), FakeClock())
    if failed_before:
        probe.answer = OSError("away")
        await prober.look()
    probe.answer = {}
    await prober.look()
    assert breaker.snapshot().state == state


async def test_a_store_whose_circuit_opens_during_a_pause_is_looked_at_without_waiting_for_its_end() -> None:
    clock, probe = FakeClock(), Probe()
    breaker = CircuitBreaker("some", BreakerPolicy(1, 60.0))
    dependency = Dependency("supabase", probe, 600.0, 1.0, circuit=breaker)
    running = asyncio.create_task(Prober(dependency, Board(), clock).run())
    while len(clock.slept) < 3:
        await asyncio.sleep(0)
    assert probe.calls == 0
    await _fail(breaker)
    async with asyncio.timeout(5):
        while probe.calls == 0:
            await asyncio.sleep(0)
    assert sum(clock.slept) < 600
    running.cancel()
    await asyncio.wait([running])
    assert breaker.snapshot().state == "half_open"


@pytest.mark.parametrize(("silent_seconds", "state"), [(10.0, "open"), (0.2, "closed")])
async def test_calls_that_hang_for_longer_than_a_look_that_finds_nothing_open_the_circuit(
    silent_seconds: float, state: str
) -> None:
    probe = Probe()
    probe.answer = OSError("no way")
    breaker = CircuitBreaker("some", BreakerPolicy(5, 60.0))
    dependency = Dependency("some", probe, 30.0, 1.0, circuit=breaker, silent_seconds=lambda: silent_seconds)
    await Prober(dependency, Board(), FakeClock()).look()
    assert breaker.snapshot().state == state


@pytest.mark.parametrize(("is_shared", "state"), [(False, "open"), (True, "closed")])
async def test_what_only_this_replica_looks_at_and_never_reaches_is_out_of_reach_without_a_call(
    is_shared: bool, state: str
) -> None:
    """A replica whose database is away from the start makes no call that could tell."""
    clock, probe = FakeClock(), Probe()
    probe.answer = OSError("no way")
    breaker = CircuitBreaker("some", BreakerPolicy(5, 60.0))
    dependency = Dependency("some", probe, 30.0, 1.0, circuit=breaker, is_shared=is_shared)
    prober = Prober(dependency, Board(), clock)
    await prober.probe()
    assert breaker.snapshot().state == "closed", "one look may be unlucky"
    await clock.sleep(LOST_SECONDS)
    await prober.probe()
    assert breaker.snapshot().state == state


async def test_an_upstream_whose_calls_hang_is_looked_at_by_the_replica_that_makes_them() -> None:
    clock, probe = FakeClock(), Probe()
    breaker = CircuitBreaker("some", BreakerPolicy(5, 60.0))
    board = Board(
        Turn(
            is_mine=False,
            age_seconds=1,
            finding={"status": "ok", "latency_ms": 1, "error": None, "details": {}},
            by="r2",
        )
    )
    dependency = Dependency(
        "gemini", probe, 30.0, 5.0, is_shared=True, status="ok", circuit=breaker, silent_seconds=lambda: 2.0
    )
    running = asyncio.create_task(Prober(dependency, board, clock).run())
    async with asyncio.timeout(5):
        while probe.calls < 2:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert sum(clock.slept) >= URGENT_SECONDS, "not at every step"


async def test_another_replicas_bad_news_is_checked_once_and_not_believed_if_it_does_not_hold() -> None:
    finding = {"status": "error", "latency_ms": None, "error": "no way", "details": {}}
    board, clock, probe = Board(Turn(is_mine=False, age_seconds=2, finding=finding, by="r2")), FakeClock(), Probe()
    dependency = Dependency(
        "gemini", probe, 30.0, 5.0, is_shared=True, circuit=CircuitBreaker("some", BreakerPolicy(5, 60.0))
    )
    prober = Prober(dependency, board, clock)
    for _ in range(3):
        await prober.look()
    assert (probe.calls, dependency.status) == (1, "ok")


class _Fleet:
    up = True
    share = 1.0

    def report(self, breaker: CircuitBreaker) -> None:
        """Nobody listens."""


async def _cut_off(desk: Desk, breaker: CircuitBreaker) -> None:
    breaker.attach(_Fleet())
    for _ in range(5):
        breaker.seen_ill("no way", 0.0)
    assert breaker.is_cut_off


async def test_what_only_this_replica_lacks_is_told_and_work_is_left_to_one_that_has_it() -> None:
    desk = Desk()
    desk.health.started()
    await _cut_off(desk, desk.breaker)
    cut_off = desk.health._cut_off
    assert desk.health.picture(full=False)[1]["cut_off"] == ["gemini"]
    assert desk.health.load()["cut_off"] == ["gemini"]
    assert not cut_off.leaves_work_to_others(), "there is no other"
    well = {"role": "all", "phase": "ready", "status": "ok", "breakers": {"gemini": "closed", "supabase": "closed"}}
    for other, can_do_it in [
        (well, True),
        (well | {"role": "api"}, False),
        (well | {"phase": "draining"}, False),
        (well | {"status": "error"}, False),
        (well | {"breakers": {"gemini": "open", "supabase": "closed"}}, False),
    ]:
        desk.others = [other]
        assert cut_off.leaves_work_to_others() is can_do_it, other
    assert desk.health.readiness()[0] == 200, "it serves the API, and takes webhooks"


async def test_a_replica_that_alone_lacks_the_database_leaves_the_rotation_while_another_has_it() -> None:
    desk = Desk()
    desk.health.started()
    await _cut_off(desk, desk.database)
    assert desk.health.readiness()[0] == 200, "nobody would be left"
    desk.others = [{"role": "api", "phase": "ready", "status": "ok", "breakers": {"supabase": "closed"}}]
    status, body = desk.health.readiness()
    assert (status, body["reason"]) == (503, "only this replica does not reach the database")


async def test_a_queue_that_refuses_webhooks_is_an_error_with_its_reason_and_readiness_stays():
    desk = Desk()
    await desk.look("redis", "supabase")
    desk.health.started()
    refresh = desk.health.loops()["health_internals"]
    for refuses, expected in ((False, (200, None)), (True, (503, QUEUE_FULL)), (False, (200, None))):
        desk.queue["refuses"] = refuses
        beats = 0

        def beat() -> None:
            nonlocal beats
            beats += 1
            if beats == 2:  # the first round is over
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await refresh(beat)
        status, body = desk.health.picture(full=False)
        assert (status, body.get("reason")) == expected
        assert desk.health.readiness()[0] == 200
