"""The circuits' Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.states import CLOSED, HALF_OPEN, OPEN, State


class BreakerCollector(Collector):
    """Reads the tallies when Prometheus asks, so that a call pays for no metric."""

    def __init__(self, breakers: Iterable[CircuitBreaker | KeyedCircuitBreakers]) -> None:
        self._breakers = tuple(breakers)

    def collect(self) -> Iterable[Metric]:
        prefix = "chorus_circuit_breaker"
        states = GaugeMetricFamily(f"{prefix}_state", "Circuits in this state", labels=["name", "state"])
        transitions = CounterMetricFamily(f"{prefix}_transitions", "Changes into this state", labels=["name", "to"])
        rejections = CounterMetricFamily(f"{prefix}_rejections", "Calls refused by an open circuit", labels=["name"])
        calls = CounterMetricFamily(f"{prefix}_calls", "Calls made, by outcome", labels=["name", "outcome"])
        for breaker in self._breakers:
            keyed = isinstance(breaker, KeyedCircuitBreakers)
            name = f"{breaker.name}:*" if keyed else breaker.name
            for state, count in _count_states(breaker).items():
                states.add_metric([name, state], count)
                transitions.add_metric([name, state], breaker.tally.transitions[state])
            rejections.add_metric([name], breaker.tally.rejected)
            for outcome in ("ok", "failed", "ignored", "late", "slow"):
                calls.add_metric([name, outcome], getattr(breaker.tally, outcome))
        return (states, transitions, rejections, calls)


def _count_states(breaker: CircuitBreaker | KeyedCircuitBreakers) -> Mapping[State, int]:
    counts = dict.fromkeys(State, 0)
    if isinstance(breaker, CircuitBreaker):
        counts[breaker.snapshot().state] = 1
        return counts
    for snapshot in breaker.snapshots():
        counts[snapshot.state] += 1
    counts[CLOSED] = len(breaker) - counts[OPEN] - counts[HALF_OPEN]  # the list leaves out most of these
    return counts
