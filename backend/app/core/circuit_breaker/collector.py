"""The circuits' Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.rules import State


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
            name, tally = breaker.metric_name, breaker.tally
            members = breaker.breakers() if isinstance(breaker, KeyedCircuitBreakers) else [breaker]
            found = Counter(member.view.state for member in members)
            for state in State:
                states.add_metric([name, state], found[state])
                transitions.add_metric([name, state], tally.transitions[state])
            rejections.add_metric([name], tally.rejected)
            for outcome in ("ok", "failed", "ignored", "late", "slow"):
                calls.add_metric([name, outcome], getattr(tally, outcome))
        return (states, transitions, rejections, calls)
