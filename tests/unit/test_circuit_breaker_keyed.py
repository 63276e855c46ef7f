"""A circuit per key, bounded in number; and what the metrics tell of all of them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.core.circuit_breaker import (
    BreakerCollector,
    BreakerPolicy,
    CircuitBreaker,
    CircuitBreakerOpenError,
    KeyedCircuitBreakers,
    State,
)
from app.core.http_client import ConnectFailed
from tests.support.fakes import FakeClock

POLICY = BreakerPolicy(failure_threshold=3, open_seconds=30.0, max_open_seconds=200.0, probe_lease_seconds=60.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def ok(value="ok"):
    return value


async def fail(error):
    raise error


async def failing(breaker, times, error=None):
    for _ in range(times):
        with pytest.raises(type(error or ConnectFailed())):
            await breaker.call_async(fail, error or ConnectFailed("ConnectError"))


class TestKeyed:
    async def test_each_key_has_its_own_circuit(self, clock):
        keyed = KeyedCircuitBreakers("some_api", POLICY, clock=clock)
        await failing(keyed.get("a"), 3)
        assert keyed.get("a").snapshot().state is State.OPEN
        assert keyed.get("a").name == "some_api:a"
        assert await keyed.get("b").call_async(ok) == "ok"
        assert [snapshot.name for snapshot in keyed.snapshots()] == ["some_api:a"]

    def test_the_least_recently_used_goes_first_and_idle_ones_go(self, clock):
        keyed = KeyedCircuitBreakers("x", POLICY, clock=clock, max_keys=3, idle_seconds=100)
        first = keyed.get("0")
        for key in ("1", "2", "0", "3"):
            keyed.get(key)
        assert len(keyed) == 3
        assert keyed.get("0") is first
        clock.advance(101)
        for _ in range(3):
            keyed.get("new")
        assert len(keyed) == 1

    def test_a_forced_one_stays(self, clock):
        keyed = KeyedCircuitBreakers("x", POLICY, clock=clock, max_keys=2, idle_seconds=100)
        forced = keyed.get("forced")
        forced.force_open(who="anna", why="stolen token")
        for n in range(50):
            clock.advance(101)
            keyed.get(str(n))
        assert keyed.get("forced") is forced
        assert len(keyed) <= 3


async def test_metrics_tell_states_transitions_rejections_and_outcomes(clock):
    breaker = CircuitBreaker("some_api", POLICY, clock=clock)
    keyed = KeyedCircuitBreakers("some_api", POLICY, clock=clock)
    await breaker.call_async(ok)
    await failing(breaker, 1, ValueError())
    await failing(breaker, 3)
    with pytest.raises(CircuitBreakerOpenError):
        await breaker.call_async(ok)
    await failing(keyed.get("106540352242922"), 3)
    await keyed.get("2").call_async(ok)
    registry = CollectorRegistry()
    registry.register(BreakerCollector([breaker, keyed]))
    lines = set(generate_latest(registry).decode().splitlines())
    assert lines >= {
        'chorus_circuit_breaker_state{name="some_api",state="open"} 1.0',
        'chorus_circuit_breaker_state{name="some_api",state="closed"} 0.0',
        'chorus_circuit_breaker_state{name="some_api:*",state="open"} 1.0',
        'chorus_circuit_breaker_state{name="some_api:*",state="closed"} 1.0',
        'chorus_circuit_breaker_transitions_total{name="some_api",to="open"} 1.0',
        'chorus_circuit_breaker_rejections_total{name="some_api"} 1.0',
        'chorus_circuit_breaker_calls_total{name="some_api",outcome="ok"} 1.0',
        'chorus_circuit_breaker_calls_total{name="some_api",outcome="failed"} 3.0',
        'chorus_circuit_breaker_calls_total{name="some_api",outcome="ignored"} 1.0',
    }
    assert not any("106540352242922" in line for line in lines)
